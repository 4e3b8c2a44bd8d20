//! Tokens: credentials of 190 random bits with a prefix that scanners find and a checksum that
//! tells a typo from a stranger before any table is asked.
//!
//! A token looks like `inso_<32 characters><6 characters>` in base 62. Only its hash is stored;
//! as the token is random and not chosen by a person, a fast hash is enough.

use std::fmt;

use zeroize::Zeroizing;

use crate::digest::{equal_in_constant_time, hex, sha256};
use crate::random::Random;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 190 bits: beyond guessing, and half as long as hexadecimal would be.
const BODY_CHARS: usize = 32;
/// 35 bits: one typo in 30 thousand million goes unnoticed, and is then refused like a stranger.
const CHECKSUM_CHARS: usize = 6;
/// Nothing longer is worth looking at.
const PREFIX_BYTES_MAX: usize = 16;

/// The text of a credential, shown once. Never printed, wiped when dropped.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

/// What is stored and compared.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("not a token: expected a prefix, `_` and {} letters and digits", BODY_CHARS + CHECKSUM_CHARS)]
    Form,
    #[error("not a whole token: its checksum is wrong, so it was cut or mistyped")]
    Checksum,
}

impl Token {
    /// `prefix` is one to sixteen lower-case letters and names the kind of credential.
    pub fn generate(prefix: &str, random: &dyn Random) -> Self {
        assert!(is_prefix(prefix), "a token prefix is 1 to 16 lower-case letters, not {prefix:?}");
        let mut text =
            Zeroizing::new(String::with_capacity(prefix.len() + 1 + BODY_CHARS + CHECKSUM_CHARS));
        text.push_str(prefix);
        text.push('_');
        let mut byte = [0];
        while text.len() < prefix.len() + 1 + BODY_CHARS {
            random.fill(&mut byte);
            // 248 is four times 62; the bytes above it would favour the first letters.
            if byte[0] < 248 {
                text.push(char::from(ALPHABET[usize::from(byte[0] % 62)]));
            }
        }
        let checksum = checksum(&text);
        text.push_str(&checksum);
        Self(text)
    }

    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let (prefix, rest) = text.split_once('_').ok_or(TokenError::Form)?;
        if !is_prefix(prefix)
            || rest.len() != BODY_CHARS + CHECKSUM_CHARS
            || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
        {
            return Err(TokenError::Form);
        }
        let (body, given) = text.split_at(text.len() - CHECKSUM_CHARS);
        if checksum(body) != given {
            return Err(TokenError::Checksum);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    pub fn prefix(&self) -> &str {
        self.0.split_once('_').map_or("", |(prefix, _)| prefix)
    }

    pub fn hash(&self) -> TokenHash {
        let mut named = Zeroizing::new(b"insula token 1:".to_vec());
        named.extend_from_slice(self.0.as_bytes());
        TokenHash(sha256(&named))
    }

    /// The text itself, for the one moment in which it is shown or sent.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl TokenHash {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        equal_in_constant_time(&self.0, &other.0)
    }
}

impl Eq for TokenHash {}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({self})")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}_, hidden)", self.prefix())
    }
}

fn is_prefix(prefix: &str) -> bool {
    (1..=PREFIX_BYTES_MAX).contains(&prefix.len())
        && prefix.bytes().all(|byte| byte.is_ascii_lowercase())
}

fn checksum(text: &str) -> String {
    let hash = sha256(text.as_bytes());
    let mut number = u64::from_be_bytes([
        hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7],
    ]);
    (0..CHECKSUM_CHARS)
        .map(|_| {
            let digit = (number % 62) as usize;
            number /= 62;
            char::from(ALPHABET[digit])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    #[test]
    fn a_token_comes_back_whole_and_hashes_the_same() {
        let token = Token::generate("inso", &SeededRandom::new(1));
        assert_eq!(token.expose().len(), 5 + 38);
        assert_eq!(token.prefix(), "inso");
        let parsed = Token::parse(token.expose()).unwrap();
        assert_eq!(parsed.hash(), token.hash());
        assert_ne!(Token::generate("inso", &SeededRandom::new(2)).hash(), token.hash());
    }

    #[test]
    fn a_typo_is_told_from_a_stranger() {
        let token = Token::generate("inso", &SeededRandom::new(1));
        let text = token.expose();
        for at in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(bytes).unwrap();
            assert!(Token::parse(&wrong).is_err(), "changed at {at}");
        }
        for wrong in ["", "_", "inso_", "inso", "INSO_x", &text[..42], &format!("{text}a"), "ä_é"]
        {
            assert_eq!(Token::parse(wrong).unwrap_err(), TokenError::Form, "{wrong}");
        }
    }

    #[test]
    fn letters_are_evenly_spread() {
        let random = SeededRandom::new(5);
        let mut counts = [0_u32; 128];
        for _ in 0..500 {
            let token = Token::generate("a", &random);
            token.expose()[2..34].bytes().for_each(|byte| counts[usize::from(byte)] += 1);
        }
        // 16,000 letters over 62 places: 258 each, and four standard deviations are 64.
        for letter in ALPHABET {
            let count = counts[usize::from(*letter)];
            assert!((190..330).contains(&count), "{} {count} times", char::from(*letter));
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let token = Token::generate("inso", &SeededRandom::new(1));
        assert_eq!(format!("{token:?}"), "Token(inso_, hidden)");
    }
}
