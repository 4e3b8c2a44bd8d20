//! Request line and header lines: where they end, and what body they announce.

use super::Refusal;

/// More than this is no number of bytes that anybody sends.
const LENGTH_DIGITS_MAX: usize = 19;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) body: Announced,
    pub(crate) upgrade: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announced {
    Length(u64),
    Chunked,
}

/// The length of the head, once it is all there. Bytes before `scanned` are known to hold no end.
/// Sees the end that a lenient parser would see, so that `check` can refuse it.
pub(crate) fn find_end(bytes: &[u8], scanned: usize) -> Option<usize> {
    // An end begins with a line feed, and two more bytes may have been missing.
    let mut from = scanned.saturating_sub(2);
    while let Some(at) = bytes[from..].iter().position(|b| *b == b'\n') {
        let after = from + at + 1;
        match bytes.get(after..) {
            Some([b'\n', ..]) => return Some(after + 1),
            Some([b'\r', b'\n', ..]) => return Some(after + 2),
            Some(_) | None => from = after,
        }
    }
    None
}

/// `head` ends where `find_end` said.
pub(crate) fn check(head: &[u8], headers_max: usize) -> Result<Head, Refusal> {
    let mut lines = Lines { rest: head };
    let http_11 = request_line(lines.next()?)?;
    let mut length = None;
    let mut chunked = false;
    let mut hosts = 0_usize;
    let mut upgrade = false;
    let mut headers = 0_usize;
    loop {
        let line = lines.next()?;
        if line.is_empty() {
            break;
        }
        headers += 1;
        if headers > headers_max {
            return Err(Refusal::HeadTooLarge);
        }
        let (name, value) = header_line(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            if length.is_some() {
                return Err(Refusal::Malformed("There is more than one Content-Length."));
            }
            length = Some(content_length(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Malformed("The only transfer encoding is one `chunked`."));
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            upgrade = true;
        }
    }
    if hosts != 1 {
        return Err(Refusal::Malformed("A request names one host."));
    }
    let body = match (length, chunked) {
        (Some(_), true) => {
            return Err(Refusal::Malformed(
                "Content-Length and Transfer-Encoding exclude each other.",
            ));
        }
        (None, true) if !http_11 => {
            return Err(Refusal::Malformed("HTTP/1.0 has no transfer encodings."));
        }
        (None, true) => Announced::Chunked,
        (length, false) => Announced::Length(length.unwrap_or(0)),
    };
    Ok(Head { body, upgrade: upgrade && http_11 })
}

/// One field line of a head or a trailer section.
pub(crate) fn header_line(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Refusal::Malformed("A header goes over more than one line."));
    }
    let colon = line.iter().position(|b| *b == b':');
    let colon = colon.ok_or(Refusal::Malformed("A header has no colon."))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return Err(Refusal::Malformed("The name of a header has a character that no name has."));
    }
    if value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
        return Err(Refusal::Malformed("The value of a header has a control character."));
    }
    Ok((name, trim(value)))
}

/// Whether it is HTTP/1.1.
fn request_line(line: &[u8]) -> Result<bool, Refusal> {
    let malformed = Refusal::Malformed("The request line is not `METHOD target HTTP/1.1`.");
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed);
    };
    if method.is_empty() || !method.iter().copied().all(is_token) || target.is_empty() {
        return Err(malformed);
    }
    // A fragment never leaves a browser; one that arrives is meant to confuse.
    if !target.iter().all(|b| b.is_ascii_graphic() && *b != b'#') {
        return Err(Refusal::Malformed("The target has a character that must be escaped."));
    }
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Refusal::Version)
        }
        _ => Err(malformed),
    }
}

fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    let malformed = Refusal::Malformed("Content-Length is not one number.");
    if value.is_empty() || value.len() > LENGTH_DIGITS_MAX || !value.iter().all(u8::is_ascii_digit)
    {
        return Err(malformed);
    }
    Ok(value.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

struct Lines<'h> {
    rest: &'h [u8],
}

impl<'h> Lines<'h> {
    /// The next line without its end, which is CR LF and nothing else.
    fn next(&mut self) -> Result<&'h [u8], Refusal> {
        let malformed = Refusal::Malformed("A line does not end with CR LF.");
        let at = self.rest.iter().position(|b| *b == b'\n').ok_or(malformed)?;
        let line = self.rest[..at].strip_suffix(b"\r").ok_or(malformed)?;
        if line.contains(&b'\r') {
            return Err(malformed);
        }
        self.rest = &self.rest[at + 1..];
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(head: &str) -> Result<Head, Refusal> {
        assert_eq!(find_end(head.as_bytes(), 0), Some(head.len()), "{head:?}");
        check(head.as_bytes(), 4)
    }

    #[test]
    fn ordinary_requests_pass() {
        let plain = verdict("GET /a?b=%20 HTTP/1.1\r\nHost: a\r\nX-Empty:\r\n\r\n").unwrap();
        assert_eq!(plain, Head { body: Announced::Length(0), upgrade: false });
        let sized = verdict("POST / HTTP/1.0\r\nhost: a\r\ncontent-LENGTH: \t12 \r\n\r\n").unwrap();
        assert_eq!(sized.body, Announced::Length(12));
        let chunked = verdict("PUT / HTTP/1.1\r\nHost:a\r\nTransfer-Encoding: Chunked\r\n\r\n");
        assert_eq!(chunked.unwrap().body, Announced::Chunked);
        assert!(
            verdict("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n").unwrap().upgrade
        );
    }

    #[test]
    fn every_ambiguity_is_refused() {
        let with = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
        for lines in [
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            "Content-Length: 4\r\nContent-Length: 4",
            "Content-Length: 4\r\nContent-Length: 5",
            "Content-Length: 4, 4",
            "Content-Length: +4",
            "Content-Length: -4",
            "Content-Length: 0x4",
            "Content-Length: 4 4",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: \u{b}chunked",
            "Transfer-Encoding : chunked",
            " Transfer-Encoding: chunked",
            "X: y\r\n Transfer-Encoding: chunked",
            "X: y\r\n\tz",
            "X: a\0b",
            "X: a\rb",
            "X: a\nTransfer-Encoding: chunked",
            "X y: z",
            "X\u{e9}: z",
            "X",
            ": z",
            "Host: b",
            "Host: a",
        ] {
            let head = with(lines);
            assert!(matches!(verdict(&head), Err(Refusal::Malformed(_))), "{lines:?} passed");
        }
        assert_eq!(verdict(&with("A: 1\r\nB: 1\r\nC: 1\r\nD: 1")), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn a_request_line_is_three_words() {
        for (line, refusal) in [
            ("GET  / HTTP/1.1", None),
            ("GET /\tHTTP/1.1", None),
            (" GET / HTTP/1.1", None),
            ("GET / HTTP/1.1 ", None),
            ("GET /", None),
            ("G(T / HTTP/1.1", None),
            ("GET / http/1.1", None),
            ("GET /a b HTTP/1.1", None),
            ("GET /#x HTTP/1.1", None),
            ("GET /\u{fc} HTTP/1.1", None),
            ("GET / HTTP/1.10", None),
            ("GET / HTTP/2.0", Some(Refusal::Version)),
            ("GET / HTTP/0.9", Some(Refusal::Version)),
        ] {
            let given = verdict(&format!("{line}\r\nHost: a\r\n\r\n")).unwrap_err();
            match refusal {
                Some(refusal) => assert_eq!(given, refusal, "{line:?}"),
                None => assert!(matches!(given, Refusal::Malformed(_)), "{line:?}"),
            }
        }
        assert!(verdict("GET / HTTP/1.1\r\n\r\n").is_err(), "no host");
        assert!(
            verdict("GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").is_err()
        );
    }

    #[test]
    fn bare_line_feeds_end_a_head_so_that_they_can_be_refused() {
        for head in [
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
        ] {
            assert!(verdict(head).is_err(), "{head:?}");
        }
        // Found no matter how the bytes came in.
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET";
        for split in 0..head.len() {
            let first = find_end(&head[..split], 0);
            assert_eq!(first.or_else(|| find_end(head, split)), Some(27), "split at {split}");
        }
    }
}
