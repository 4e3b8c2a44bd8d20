//! One entry and its line on disk: `<seq> <ms> <stream> <mark> <bytes>\n`.
//!
//! The stream is `o`, `e` or `p` (out, err, platform), in upper case when the app's line was longer
//! than the limit and goes on in the next entry. The mark says how many bytes of that stream had
//! been taken in with this entry; a keeper that returns goes on from there (see `keeper::spool`).
//! A line whose stream is `m` holds no entry: it opens a segment with the marks of out and err.
//!
//! Lines of apps hold no newline, so whatever else they hold, the framing stands; a line that does
//! not parse (a hole left by a power cut) is skipped.

use insula_model::{InstanceId, Timestamp};

/// Where an entry came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    Out,
    Err,
    /// Written by Insula about the instance or build, not by it.
    Platform,
}

impl Stream {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
            Self::Platform => "platform",
        }
    }

    fn letter(self, cut: bool) -> u8 {
        let letter = match self {
            Self::Out => b'o',
            Self::Err => b'e',
            Self::Platform => b'p',
        };
        if cut { letter.to_ascii_uppercase() } else { letter }
    }
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub at: Timestamp,
    /// Counts the entries of one instance (or build) from 1, without gaps.
    pub seq: u64,
    pub stream: Stream,
    /// The line was longer than the limit and goes on in the next entry of this stream.
    pub cut: bool,
    /// What is not UTF-8 is shown as U+FFFD.
    pub text: String,
    /// None in the log of a build.
    pub instance: Option<InstanceId>,
}

/// A line of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Entry { seq: u64, ms: i64, stream: Stream, cut: bool, mark: u64, bytes: &'a [u8] },
    Marks { seq: u64, ms: i64, out: u64, err: u64 },
}

/// Four numbers of at most 20 digits, a letter, four spaces and the newline.
pub(crate) const FRAME_OVERHEAD_MAX: usize = 4 * 20 + 6;

pub(crate) fn encode(
    out: &mut Vec<u8>,
    (seq, ms): (u64, i64),
    (stream, cut): (Stream, bool),
    mark: u64,
    bytes: &[u8],
) {
    use std::io::Write;
    let letter = char::from(stream.letter(cut));
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{seq} {ms} {letter} {mark} ");
    // Callers cut at newlines; one that slips through must not forge an entry.
    out.extend(bytes.iter().map(|b| if *b == b'\n' { b' ' } else { *b }));
    out.push(b'\n');
}

pub(crate) fn encode_marks(out: &mut Vec<u8>, seq: u64, ms: i64, marks: (u64, u64)) {
    use std::io::Write;
    let _ = writeln!(out, "{seq} {ms} m {} {}", marks.0, marks.1);
}

/// Reads one line, given without its newline.
pub(crate) fn decode(line: &[u8]) -> Option<Frame<'_>> {
    let mut parts = line.splitn(5, |b| *b == b' ');
    let seq = number(parts.next()?)?;
    let ms = i64::try_from(number(parts.next()?)?).ok()?;
    let letter = match parts.next()? {
        [letter] => *letter,
        _ => return None,
    };
    let mark = number(parts.next()?)?;
    let bytes = parts.next()?;
    let stream = match letter.to_ascii_lowercase() {
        b'o' => Stream::Out,
        b'e' => Stream::Err,
        b'p' => Stream::Platform,
        b'm' => return Some(Frame::Marks { seq, ms, out: mark, err: number(bytes)? }),
        _ => return None,
    };
    Some(Frame::Entry { seq, ms, stream, cut: letter.is_ascii_uppercase(), mark, bytes })
}

fn number(digits: &[u8]) -> Option<u64> {
    // `u64::from_str` would also take a plus sign.
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_whatever_its_bytes() {
        for bytes in [&b"GET / 200"[..], b"", b" lead", b"\xff\xfe\0 x", b"1 2 o 3 forged"] {
            for stream in [Stream::Out, Stream::Err, Stream::Platform] {
                for cut in [false, true] {
                    let mut line = Vec::new();
                    encode(&mut line, (7, 1_700_000_000_123), (stream, cut), 99, bytes);
                    assert_eq!(line.pop(), Some(b'\n'));
                    assert_eq!(
                        decode(&line),
                        Some(Frame::Entry {
                            seq: 7,
                            ms: 1_700_000_000_123,
                            stream,
                            cut,
                            mark: 99,
                            bytes
                        })
                    );
                }
            }
        }
    }

    #[test]
    fn a_newline_in_the_bytes_forges_no_entry() {
        let mut line = Vec::new();
        encode(&mut line, (1, 2), (Stream::Platform, false), 0, b"a\n9 9 p 0 forged");
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
    }

    #[test]
    fn marks_are_read_and_damage_is_refused() {
        let mut line = Vec::new();
        encode_marks(&mut line, 5, 6, (70, 80));
        line.pop();
        assert_eq!(decode(&line), Some(Frame::Marks { seq: 5, ms: 6, out: 70, err: 80 }));
        for bad in [&b""[..], b"\0\0\0\0", b"1 2 o", b"1 2 x 3 y", b"+1 2 o 3 y", b"1 2 oo 3 y"] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }
}
