//! The address of a server: one spelling, and whether plain HTTP to it stays on this machine.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;
use insula_model::names::excerpt;

/// `https://cloud.example.com`, or `http://127.0.0.1:7070`: without a path, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    tls: bool,
    authority: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not the address of a server: {why}")]
pub struct AddressError {
    given: String,
    why: &'static str,
}

impl Server {
    /// Where `insula up` listens unless told otherwise.
    pub fn local() -> Self {
        Self { tls: false, authority: "127.0.0.1:7070".into() }
    }

    pub fn uses_tls(&self) -> bool {
        self.tls
    }

    pub fn host(&self) -> &str {
        let host = match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            Some(_) | None => &self.authority,
        };
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether what is sent there never leaves this machine.
    pub fn is_loopback(&self) -> bool {
        match self.host().parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host() == "localhost" || self.host().ends_with(".localhost"),
        }
    }
}

impl FromStr for Server {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fail = |why| AddressError { given: excerpt(text), why };
        let trimmed = text.trim().to_ascii_lowercase();
        let (tls, rest) = match trimmed.split_once("://") {
            Some(("https", rest)) => (Some(true), rest),
            Some(("http", rest)) => (Some(false), rest),
            Some(_) => return Err(fail("it begins with https:// or http://")),
            None => (None, trimmed.as_str()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(fail("a path has no place in it"));
        }
        if authority.contains('@') {
            return Err(fail("a name or a password has no place in it"));
        }
        let whole: Uri = format!("http://{authority}/")
            .parse()
            .map_err(|_| fail("write it as https://cloud.example.com"))?;
        if whole.host().is_none_or(str::is_empty) {
            return Err(fail("write it as https://cloud.example.com"));
        }
        let server = Self { tls: true, authority: authority.to_owned() };
        // Without a scheme, what is far is reached safely.
        let tls = tls.unwrap_or(!server.is_loopback());
        Ok(Self { tls, ..server })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(text: &str) -> String {
        text.parse::<Server>().map_or_else(|error| error.to_string(), |server| server.to_string())
    }

    #[test]
    fn an_address_has_one_spelling() {
        assert_eq!(spelled("HTTPS://Cloud.Example.com/"), "https://cloud.example.com");
        assert_eq!(spelled("cloud.example.com"), "https://cloud.example.com");
        assert_eq!(spelled("localhost:7070"), "http://localhost:7070");
        assert_eq!(spelled("[::1]:7070"), "http://[::1]:7070");
        assert_eq!(spelled("http://10.0.0.1"), "http://10.0.0.1");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for wrong in ["", "ftp://x", "https://", "https://a/b", "https://u:p@host", "a b", "x?y"] {
            assert!(wrong.parse::<Server>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn loopback_is_told_by_the_address_not_by_its_beginning() {
        let near = ["http://127.0.0.1:7070", "http://127.9.9.9", "[::1]:1", "api.localhost:80"];
        let far =
            ["http://127.0.0.1.example.com", "http://localhost.example.com", "http://10.0.0.1"];
        for text in near {
            assert!(text.parse::<Server>().unwrap().is_loopback(), "{text}");
        }
        for text in far {
            assert!(!text.parse::<Server>().unwrap().is_loopback(), "{text}");
        }
    }
}
