//! The path of a URL, as names of files: decoded once, with nothing that means more than a name.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// The only folder with a dot that is for everybody (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FilePath {
    pub(crate) names: Vec<OsString>,
    /// It ended with a slash: a folder is meant.
    pub(crate) folder: bool,
}

/// Nothing for what is not served, whether it exists or not.
pub(crate) fn parse(path: &str) -> Option<FilePath> {
    let mut names = Vec::new();
    let mut segments = path.strip_prefix('/')?.split('/').peekable();
    let mut folder = false;
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            // `//` in the middle has no meaning in a file system.
            if segments.peek().is_some() {
                return None;
            }
            folder = true;
            break;
        }
        let name = decode(segment)?;
        let hidden = name.starts_with(b".") && !(names.is_empty() && name == WELL_KNOWN);
        if hidden || name.contains(&b'/') || name.contains(&0) {
            return None;
        }
        names.push(OsString::from_vec(name));
    }
    Some(FilePath { names, folder })
}

fn decode(segment: &str) -> Option<Vec<u8>> {
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> Option<String> {
        let path = parse(path)?;
        let names: Vec<_> = path.names.iter().map(|name| name.to_string_lossy()).collect();
        Some(format!("{}{}", names.join("|"), if path.folder { "|" } else { "" }))
    }

    #[test]
    fn names_are_decoded_once() {
        assert_eq!(parsed("/").unwrap(), "|");
        assert_eq!(parsed("/a/b.html").unwrap(), "a|b.html");
        assert_eq!(parsed("/a%20b/").unwrap(), "a b|");
        assert_eq!(parsed("/%2541").unwrap(), "%41");
        assert_eq!(parsed("/.well-known/acme").unwrap(), ".well-known|acme");
    }

    #[test]
    fn what_means_more_than_a_name_is_not_served() {
        for path in [
            "",
            "a",
            "*",
            "/..",
            "/../etc/passwd",
            "/a/../b",
            "/./a",
            "/%2e%2e/etc/passwd",
            "/%2E%2E%2Fetc",
            "/a%2fb",
            "/a%00.html",
            "/.env",
            "/.git/config",
            "/a/.git/config",
            "/%2egit/config",
            "/a/.well-known/x",
            "/.well-known/.htaccess",
            "//etc/passwd",
            "/a//b",
            "/%",
            "/%4",
            "/%zz",
            "/...",
        ] {
            assert_eq!(parsed(path), None, "{path}");
        }
    }
}
