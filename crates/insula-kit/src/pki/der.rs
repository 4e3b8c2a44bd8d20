//! Reads the end of a certificate's validity: the one field that the verifier does not show.
//!
//! For certificates that were verified already. Every length is checked all the same.

use super::PkiError;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The last moment at which a certificate counts, in milliseconds since 1970.
pub(crate) fn not_after_ms(certificate: &[u8]) -> Result<i64, PkiError> {
    read(certificate).ok_or(PkiError::Certificate { reason: "its dates cannot be read" })
}

fn read(certificate: &[u8]) -> Option<i64> {
    let (tag, outer, _) = element(certificate)?;
    let (inner_tag, mut fields, _) = element(outer)?;
    if (tag, inner_tag) != (SEQUENCE, SEQUENCE) {
        return None;
    }
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // Serial, signature algorithm and issuer stand before the dates.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (tag, dates, _) = element(fields)?;
    if tag != SEQUENCE {
        return None;
    }
    let (_, _, after_first) = element(dates)?;
    let (tag, text, _) = element(after_first)?;
    time(tag, text)
}

/// Tag, content and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
        _ => return None,
    };
    Some((tag, rest.get(..length)?, rest.get(length..)?))
}

fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = text[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let field = |at: usize| rest[at..at + 2].parse::<i64>().ok();
    let (month, day, hour) = (field(0)?, field(2)?, field(4)?);
    let seconds = hour * 3_600 + field(6)? * 60 + field(8)?;
    Some((days(year, month, day) * 86_400 + seconds) * 1_000)
}

/// Days from 1970-01-01 to a civil date, after Howard Hinnant's well-known derivation.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_time_are_read() {
        assert_eq!(time(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(time(UTC_TIME, b"260921141320Z"), Some(1_790_000_000_000));
        assert_eq!(time(GENERALIZED_TIME, b"20260921141320Z"), Some(1_790_000_000_000));
        assert_eq!(time(GENERALIZED_TIME, b"20560101000000Z"), Some(2_713_910_400_000));
        assert_eq!(time(UTC_TIME, b"2609211413Z"), None);
        assert_eq!(time(UTC_TIME, b"26092114132xZ"), None);
    }

    #[test]
    fn bytes_that_are_no_certificate_are_no_certificate() {
        for bytes in [&b""[..], b"\x30", b"\x30\x05\x30", b"\x30\x84\xff\xff\xff\xff", &[0x30; 100]]
        {
            assert!(not_after_ms(bytes).is_err());
        }
    }
}
