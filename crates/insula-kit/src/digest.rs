//! SHA-256, hexadecimal, and a comparison that does not tell how far it got.

use ring::{digest, hmac};

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

/// Reads exactly `N` bytes of lower-case hexadecimal; anything else is `None`, so that one value
/// has one spelling.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

/// Equality whose time depends on the lengths alone.
///
/// Both sides go through an HMAC and ring compares the results in constant time: ring's own
/// comparison of slices is deprecated, and a loop of ours would be at the optimiser's mercy.
pub fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"insula constant-time comparison");
    hmac::verify(&key, left, hmac::sign(&key, right).as_ref()).is_ok()
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_is_the_standard_one() {
        assert_eq!(
            hex(&sha256(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn hexadecimal_has_one_spelling() {
        assert_eq!(unhex::<2>("00ff"), Some([0, 255]));
        for wrong in ["", "00f", "00FF", "00fg", "00ff00", "0x0f"] {
            assert_eq!(unhex::<2>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn comparison_sees_content_and_length() {
        assert!(equal_in_constant_time(b"", b""));
        assert!(equal_in_constant_time(b"secret", b"secret"));
        assert!(!equal_in_constant_time(b"secret", b"secreT"));
        assert!(!equal_in_constant_time(b"secret", b"secret\0"));
    }
}
