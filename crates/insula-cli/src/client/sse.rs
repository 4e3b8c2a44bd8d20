//! Server-sent events, cut out of the bytes that carry them. Pure.

/// Sixteen times the longest line of a log; a longer one is not from a server of ours.
const EVENT_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sse {
    pub name: String,
    pub data: String,
    pub id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {EVENT_BYTES_MAX} bytes")]
pub struct TooLong;

/// What has arrived and is not a whole line yet, and the event that the lines so far make.
#[derive(Debug, Default)]
pub struct Parser {
    held: Vec<u8>,
    event: Sse,
    has_data: bool,
}

impl Parser {
    /// The events that `bytes` complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Sse>, TooLong> {
        self.held.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(length) = self.held[start..].iter().position(|b| *b == b'\n') {
            let line = &self.held[start..start + length];
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
            start += length + 1;
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                // A comment and an empty line are no event.
                if std::mem::take(&mut self.has_data) {
                    events.push(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => self.event.name = value.to_owned(),
                "id" => self.event.id = Some(value.to_owned()),
                "data" => {
                    if self.has_data {
                        self.event.data.push('\n');
                    }
                    self.has_data = true;
                    self.event.data.push_str(value);
                }
                _ => {}
            }
            if self.event.data.len() > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
        }
        self.held.drain(..start);
        if self.held.len() > EVENT_BYTES_MAX { Err(TooLong) } else { Ok(events) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": open\n\nevent: log\nid: 7\ndata: {\"a\":1}\n\n: quiet\n\nevent: end\r\n\
                          data: x\r\ndata: y\r\n\r\nevent: log\ndata: cut off";

    fn all(pieces: impl Iterator<Item = Vec<u8>>) -> Vec<Sse> {
        let mut parser = Parser::default();
        pieces.flat_map(|piece| parser.push(&piece).unwrap()).collect()
    }

    #[test]
    fn events_are_the_same_however_they_arrive() {
        let whole = all([STREAM.as_bytes().to_vec()].into_iter());
        assert_eq!(whole.len(), 2);
        assert_eq!((whole[0].name.as_str(), whole[0].id.as_deref()), ("log", Some("7")));
        assert_eq!((whole[1].name.as_str(), whole[1].data.as_str()), ("end", "x\ny"));
        for size in 1..STREAM.len() {
            let pieces = STREAM.as_bytes().chunks(size).map(<[u8]>::to_vec);
            assert_eq!(all(pieces), whole, "in pieces of {size}");
        }
    }

    #[test]
    fn a_stream_without_an_end_of_line_is_cut_off() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(&vec![b'x'; EVENT_BYTES_MAX + 1]), Err(TooLong));
    }
}
