//! Paths and queries of requests. Whatever is put into one cannot become another.

use std::fmt::{self, Write};

/// A path with its query, ready for the request line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    text: String,
    has_query: bool,
}

impl Target {
    /// `/v1/` and the parts, each encoded.
    pub fn v1(parts: &[&str]) -> Self {
        let mut text = String::from("/v1");
        for part in parts {
            text.push('/');
            encode(part, &mut text);
        }
        Self { text, has_query: false }
    }

    /// The same below `/v1/orgs/{org}`.
    pub fn org(org: &str, parts: &[&str]) -> Self {
        let mut all = vec!["orgs", org];
        all.extend(parts);
        Self::v1(&all)
    }

    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.text.push_str(name);
        self.text.push('=');
        encode(&value.to_string(), &mut self.text);
        self
    }

    pub fn with_some(self, name: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn encode(part: &str, text: &mut String) {
    // A segment of dots alone would be walked, not named.
    let dots = part.bytes().all(|b| b == b'.');
    for byte in part.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
        if plain || (byte == b'.' && !dots) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_stays_one_part() {
        let target = Target::org("../b?x#y", &["apps", "a/b"]).with("name", "ä&c=d");
        assert_eq!(target.to_string(), "/v1/orgs/..%2Fb%3Fx%23y/apps/a%2Fb?name=%C3%A4%26c%3Dd");
        assert_eq!(Target::v1(&["orgs", ".."]).to_string(), "/v1/orgs/%2E%2E");
        assert_eq!(Target::v1(&["a"]).with("x", 1).with("y", 2).to_string(), "/v1/a?x=1&y=2");
    }

    #[test]
    fn nothing_typed_breaks_the_line() {
        let target = Target::v1(&["a\r\nHost: evil", "b c"]);
        assert_eq!(target.to_string(), "/v1/a%0D%0AHost%3A%20evil/b%20c");
    }
}
