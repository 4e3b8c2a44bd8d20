//! Moments as they are typed: a span from now, or a time.

use std::str::FromStr;

use insula_model::{Millis, Timestamp};

use crate::show::units;

/// `10m`: ten minutes ago.
pub fn parse_past(text: &str) -> Result<Timestamp, String> {
    let now = units::now().as_millis();
    at(text, |span| Timestamp::from_millis(now.saturating_sub_unsigned(span.0)))
}

/// `30d`: thirty days from now.
pub fn parse_future(text: &str) -> Result<Timestamp, String> {
    let now = units::now();
    at(text, |span| now.plus(span))
}

fn at(text: &str, from_now: impl Fn(Millis) -> Timestamp) -> Result<Timestamp, String> {
    match span(text) {
        Some(span) => Ok(from_now(span)),
        None => Timestamp::from_str(text).map_err(|_| {
            "write a span (90s, 10m, 2h, 30d) or a time (2026-01-31T12:00:00Z)".into()
        }),
    }
}

fn span(text: &str) -> Option<Millis> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    Some(Millis(number.parse::<u64>().ok()?.checked_mul(seconds * 1_000)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_times_are_read() {
        assert_eq!(span("90s"), Some(Millis(90_000)));
        assert_eq!(span("10m"), Some(Millis(600_000)));
        assert_eq!(span("30d"), Some(Millis(2_592_000_000)));
        for wrong in ["", "10", "m", "1y", "-1m", "99999999999999999999d", "1 m"] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
        let time = "2026-01-31T12:00:00.000Z";
        assert_eq!(parse_past(time).unwrap().to_string(), time);
        assert!(parse_past("yesterday").is_err());
        assert!(parse_past("1h").unwrap() < units::now());
        assert!(parse_future("1h").unwrap() > units::now());
    }
}
