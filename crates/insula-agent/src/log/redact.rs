//! Hides the exact values of secrets in a stream of bytes, wherever the chunks happen to end.
//!
//! Every byte that belongs to any occurrence of any secret is hidden, also where two overlap. What
//! an app does to a secret before printing it (base64, reversed) is out of reach.

/// Stands in the place of what was hidden.
pub const REDACTED: &[u8] = b"[redacted]";
/// Shorter values are no secrets, and hiding each `1` or `no` would make the log unreadable.
pub const SECRET_BYTES_MIN: usize = 4;

pub struct Redactor {
    secrets: Vec<Box<[u8]>>,
    begins: Box<[bool; 256]>,
    held: Vec<u8>,
    /// How many bytes at the start of `held` are known to belong to a secret.
    covered: usize,
    /// The last byte that left belonged to a secret, so the mark stands already.
    in_secret: bool,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the secrets nor what is held back: that may be the start of one.
        f.debug_struct("Redactor").field("secrets", &self.secrets.len()).finish_non_exhaustive()
    }
}

impl Redactor {
    pub fn new<S: AsRef<[u8]>>(secrets: impl IntoIterator<Item = S>) -> Self {
        let secrets: Vec<Box<[u8]>> = secrets
            .into_iter()
            .filter(|s| s.as_ref().len() >= SECRET_BYTES_MIN)
            .map(|s| s.as_ref().into())
            .collect();
        let mut begins = Box::new([false; 256]);
        for secret in &secrets {
            begins[usize::from(secret[0])] = true;
        }
        Self { secrets, begins, held: Vec::new(), covered: 0, in_secret: false }
    }

    /// Takes a chunk; appends to `out` what can be shown already.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        self.held.extend_from_slice(chunk);
        self.release(false, out);
    }

    /// Nothing follows: appends the rest.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.release(true, out);
        self.covered = 0;
        self.in_secret = false;
    }

    fn release(&mut self, last: bool, out: &mut Vec<u8>) {
        let mut at = 0;
        while at < self.held.len() {
            let rest = &self.held[at..];
            if self.begins[usize::from(rest[0])] {
                for secret in &self.secrets {
                    if rest.starts_with(secret) {
                        self.covered = self.covered.max(at + secret.len());
                    }
                }
                if !last && self.secrets.iter().any(|s| s.len() > rest.len() && s.starts_with(rest))
                {
                    break;
                }
            }
            if at < self.covered {
                if !self.in_secret {
                    out.extend_from_slice(REDACTED);
                }
                self.in_secret = true;
            } else {
                out.push(rest[0]);
                self.in_secret = false;
            }
            at += 1;
        }
        self.held.drain(..at);
        self.covered = self.covered.saturating_sub(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redact(secrets: &[&str], chunks: &[&[u8]]) -> Vec<u8> {
        let mut redactor = Redactor::new(secrets);
        let mut out = Vec::new();
        for chunk in chunks {
            redactor.push(chunk, &mut out);
        }
        redactor.finish(&mut out);
        out
    }

    #[test]
    fn a_secret_is_hidden_and_the_rest_stays() {
        let shown = redact(&["hunter22"], &[b"password is hunt", b"er22, not hunter21"]);
        assert_eq!(shown, b"password is [redacted], not hunter21");
    }

    #[test]
    fn overlapping_and_nested_secrets_leave_nothing() {
        assert_eq!(redact(&["abcd", "cdef"], &[b"<abcdef>"]), b"<[redacted]>");
        assert_eq!(redact(&["abcd", "abcdefgh"], &[b"<abcdefgh>"]), b"<[redacted]>");
        assert_eq!(redact(&["abcd", "abcdefgh"], &[b"<abcdefgX>"]), b"<[redacted]efgX>");
        assert_eq!(redact(&["aaaa"], &[b"<aaaaa>"]), b"<[redacted]>");
    }

    #[test]
    fn short_values_and_no_secrets_change_nothing() {
        assert_eq!(redact(&["1", "no", ""], &[b"no 1"]), b"no 1");
        assert_eq!(redact(&[], &[b"x\xff\0"]), b"x\xff\0");
    }

    /// Small alphabet, so that secrets overlap, repeat and nearly match all the time.
    #[test]
    fn whatever_the_chunks_the_outcome_is_the_same_and_holds_no_secret() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..3_000 {
            let mut word = |len: u64| -> String {
                (0..len).map(|_| char::from(b'a' + random(2) as u8)).collect()
            };
            let secrets = [word(4), word(6), word(9)];
            let text = word(60);
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let whole = redact(&secrets, &[text.as_bytes()]);
            let shown = String::from_utf8(whole.clone()).unwrap();
            for secret in &secrets {
                assert!(!shown.contains(secret), "{secret} in {shown} of {text}");
            }
            // An oracle: a byte is hidden exactly if some occurrence covers it.
            let mut hidden = vec![false; text.len()];
            for secret in &secrets {
                for at in 0..=text.len() - secret.len() {
                    if text[at..].starts_with(secret) {
                        hidden[at..at + secret.len()].fill(true);
                    }
                }
            }
            let mut oracle = String::new();
            for (at, c) in text.char_indices() {
                if !hidden[at] {
                    oracle.push(c);
                } else if at == 0 || !hidden[at - 1] {
                    oracle.push_str("[redacted]");
                }
            }
            assert_eq!(shown, oracle);
            let mut chunks = Vec::new();
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let (chunk, tail) = rest.split_at(1 + random(rest.len() as u64) as usize);
                chunks.push(chunk);
                rest = tail;
            }
            assert_eq!(redact(&secrets, &chunks), whole, "{secrets:?} in {text}");
        }
    }
}
