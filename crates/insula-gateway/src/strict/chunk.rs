//! Where a chunked body ends. Follows the bytes as they pass, holds none of them back.

use super::Refusal;
use super::head;

/// Sixteen digits are all of a `u64`; seven are a chunk of 256 MiB, which nobody sends.
const SIZE_DIGITS_MAX: u32 = 7;
/// Extensions mean nothing to anybody; a few are tolerated, because some clients sign chunks.
const EXTENSION_BYTES_MAX: u32 = 1_024;
/// Trailers are a checksum or a status.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

#[derive(Debug)]
pub(crate) struct Chunks {
    state: State,
    /// The trailer line being read.
    line: Vec<u8>,
    trailer_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Size { size: u64, digits: u32 },
    Extension { size: u64, bytes: u32 },
    SizeEnd { size: u64 },
    Content { left: u64 },
    ContentCr,
    ContentLf,
    Trailer,
    TrailerLf,
    Done,
}

impl Chunks {
    pub(crate) fn new() -> Self {
        Self { state: State::Size { size: 0, digits: 0 }, line: Vec::new(), trailer_bytes: 0 }
    }

    pub(crate) fn done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// How many of these bytes belong to the body.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < bytes.len() && !self.done() {
            if let State::Content { left } = self.state {
                let taken = left.min((bytes.len() - at) as u64);
                at += taken as usize;
                let left = left - taken;
                self.state = if left == 0 { State::ContentCr } else { State::Content { left } };
            } else {
                self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<(), Refusal> {
        let malformed = Refusal::Malformed("A chunk is not `size CR LF content CR LF`.");
        self.state = match self.state {
            State::Size { size, digits } => match char::from(byte).to_digit(16) {
                Some(digit) if digits < SIZE_DIGITS_MAX => {
                    State::Size { size: size * 16 + u64::from(digit), digits: digits + 1 }
                }
                None if digits > 0 && byte == b'\r' => State::SizeEnd { size },
                None if digits > 0 && byte == b';' => State::Extension { size, bytes: 0 },
                Some(_) | None => return Err(malformed),
            },
            State::Extension { size, .. } if byte == b'\r' => State::SizeEnd { size },
            State::Extension { size, bytes }
                if bytes < EXTENSION_BYTES_MAX
                    && (byte == b'\t' || (b' '..0x7f).contains(&byte)) =>
            {
                State::Extension { size, bytes: bytes + 1 }
            }
            State::SizeEnd { size: 0 } if byte == b'\n' => State::Trailer,
            State::SizeEnd { size } if byte == b'\n' => State::Content { left: size },
            State::ContentCr if byte == b'\r' => State::ContentLf,
            State::ContentLf if byte == b'\n' => State::Size { size: 0, digits: 0 },
            State::Trailer if byte == b'\r' => State::TrailerLf,
            State::Trailer if byte != b'\n' && self.trailer_bytes < TRAILER_BYTES_MAX => {
                self.line.push(byte);
                self.trailer_bytes += 1;
                State::Trailer
            }
            State::TrailerLf if byte == b'\n' => {
                let line = std::mem::take(&mut self.line);
                if line.is_empty() {
                    State::Done
                } else {
                    head::header_line(&line)?;
                    State::Trailer
                }
            }
            State::Extension { .. }
            | State::SizeEnd { .. }
            | State::Content { .. }
            | State::ContentCr
            | State::ContentLf
            | State::Trailer
            | State::TrailerLf
            | State::Done => return Err(malformed),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(bytes: &str) -> Result<(usize, bool), Refusal> {
        let mut chunks = Chunks::new();
        let taken = chunks.follow(bytes.as_bytes())?;
        Ok((taken, chunks.done()))
    }

    #[test]
    fn the_end_is_found_in_one_piece_and_byte_by_byte() {
        for body in [
            "0\r\n\r\n",
            "4\r\nWiki\r\n5;a=\"b\"\r\npedia\r\n0\r\n\r\n",
            "A\r\n0123456789\r\n00\r\nChecksum: 1\r\nB: 2\r\n\r\n",
        ] {
            let next = format!("{body}GET / HTTP/1.1");
            assert_eq!(follow(&next), Ok((body.len(), true)), "{body:?}");
            let mut chunks = Chunks::new();
            for byte in body.bytes() {
                assert!(!chunks.done());
                assert_eq!(chunks.follow(&[byte]), Ok(1));
            }
            assert!(chunks.done());
        }
        assert_eq!(follow("4\r\nWi"), Ok((5, false)));
    }

    #[test]
    fn what_another_parser_could_read_otherwise_is_refused() {
        for body in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 \r\n",
            "1\n",
            "1\r\r\n",
            "1\r\nab\r\n",
            "1\r\na\n0\r\n\r\n",
            "1;a\nb\r\n",
            "1;\u{1}\r\n",
            "fffffffff\r\n",
            "0\r\n\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\n folded: x\r\n\r\n",
            "0\r\nA : b\r\n\r\n",
        ] {
            assert!(follow(body).is_err(), "{body:?} passed");
        }
        assert!(follow(&format!("1;{}\r\n", "a".repeat(2_000))).is_err());
        assert!(follow(&format!("0\r\nA: {}\r\n\r\n", "a".repeat(9_000))).is_err());
    }
}
