//! Cuts a stream of bytes into lines. Pure; holds the unfinished line and nothing else.

/// What we keep of one line in one entry; stack traces fit, a blob printed by mistake is cut.
pub const LINE_BYTES_MAX: usize = 16 << 10;

/// A line or a piece of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut<'a> {
    pub bytes: &'a [u8],
    /// The line goes on in the next piece.
    pub more: bool,
    /// How many bytes of what was fed are used up with this piece.
    pub used: usize,
}

#[derive(Debug, Default)]
pub struct LineCutter {
    partial: Vec<u8>,
    skipping: bool,
}

impl LineCutter {
    /// Calls `emit` for each line that `bytes` completes. Returns the bytes that were skipped.
    pub fn feed(&mut self, bytes: &[u8], mut emit: impl FnMut(Cut<'_>)) -> u64 {
        let mut at = 0;
        let mut skipped = 0u64;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let newline = rest.iter().position(|b| *b == b'\n');
            if self.skipping {
                let end = newline.map_or(rest.len(), |n| n + 1);
                skipped += end as u64;
                self.skipping = newline.is_none();
                at += end;
                continue;
            }
            let room = LINE_BYTES_MAX - self.partial.len();
            let (piece, step, more) = match newline {
                Some(n) if n <= room => (&rest[..n], n + 1, false),
                // Cut only once a byte is there that does not fit: exactly the limit is a whole line.
                _ if rest.len() > room => (&rest[..room], room, true),
                _ => {
                    self.partial.extend_from_slice(rest);
                    break;
                }
            };
            at += step;
            if self.partial.is_empty() {
                emit(Cut { bytes: trim(piece, more), more, used: at });
            } else {
                self.partial.extend_from_slice(piece);
                emit(Cut { bytes: trim(&self.partial, more), more, used: at });
                self.partial.clear();
            }
        }
        if self.partial.is_empty() {
            // An idle instance holds no buffer.
            self.partial = Vec::new();
        }
        skipped
    }

    /// The unfinished line, which is forgotten; none if nothing was written since the last newline.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        if self.partial.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut self.partial))
    }

    /// Bytes of the unfinished line.
    pub fn pending(&self) -> &[u8] {
        &self.partial
    }

    /// Whether to forget everything up to the next newline: the start of that line was dropped.
    pub fn skip_line(&mut self, skip: bool) {
        self.skipping = skip;
    }
}

fn trim(line: &[u8], more: bool) -> &[u8] {
    if more { line } else { line.strip_suffix(b"\r").unwrap_or(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Lines = (Vec<(Vec<u8>, bool)>, Option<Vec<u8>>);

    fn lines(chunks: &[&[u8]]) -> Lines {
        let mut cutter = LineCutter::default();
        let mut out = Vec::new();
        for chunk in chunks {
            cutter.feed(chunk, |cut| out.push((cut.bytes.to_vec(), cut.more)));
        }
        (out, cutter.finish())
    }

    #[test]
    fn any_split_gives_the_same_lines() {
        let text = b"one\ntwo\r\n\nthree";
        let whole = lines(&[text]);
        assert_eq!(whole.0.len(), 3);
        assert_eq!(whole.1.as_deref(), Some(&b"three"[..]));
        for at in 0..text.len() {
            let (left, right) = text.split_at(at);
            assert_eq!(lines(&[left, right]), whole, "split at {at}");
        }
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole_and_one_more_is_cut() {
        let fits = [vec![b'x'; LINE_BYTES_MAX], b"\n".to_vec()].concat();
        assert_eq!(lines(&[&fits]).0, vec![(vec![b'x'; LINE_BYTES_MAX], false)]);
        let over = [vec![b'x'; LINE_BYTES_MAX + 1], b"\n".to_vec()].concat();
        let cut = vec![(vec![b'x'; LINE_BYTES_MAX], true), (vec![b'x'], false)];
        assert_eq!(lines(&[&over]).0, cut);
        for at in [1, LINE_BYTES_MAX - 1, LINE_BYTES_MAX, LINE_BYTES_MAX + 1] {
            let (left, right) = over.split_at(at);
            assert_eq!(lines(&[left, right]).0, cut, "split at {at}");
        }
    }

    #[test]
    fn used_counts_through_the_newline_and_skipping_ends_at_one() {
        let mut cutter = LineCutter::default();
        let mut used = Vec::new();
        cutter.feed(b"ab\ncd\ne", |cut| used.push(cut.used));
        assert_eq!(used, [3, 6]);
        assert_eq!(cutter.pending(), b"e");
        cutter.finish();
        cutter.skip_line(true);
        assert_eq!(cutter.feed(b"lost", |_| panic!("skipped")), 4);
        let mut seen = Vec::new();
        assert_eq!(cutter.feed(b"too\nkept\n", |cut| seen.push(cut.bytes.to_vec())), 4);
        assert_eq!(seen, [b"kept".to_vec()]);
    }
}
