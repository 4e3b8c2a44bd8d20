//! Spans, sizes and ages as people write them.

use insula_model::{Millis, Timestamp};

/// `0.4 s`, `12 s`, `3 min 20 s`.
pub fn span(span: Millis) -> String {
    let ms = span.0;
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000..60_000 => format!("{} s", ms / 1_000),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
        _ => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// The same with all that was measured, for phases: `48 ms`, `1.20 s`.
pub fn measured(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{:02} s", ms / 1_000, ms % 1_000 / 10),
        _ => span(Millis(ms)),
    }
}

/// `5 s`, `3 min`, `2 h`, `4 d`: how long ago.
pub fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(then).0 / 1_000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `14:03:59.120`, in UTC: of today, as most lines are.
pub fn clock(at: Timestamp) -> String {
    let text = at.to_string();
    text.split_once('T').map_or(text.clone(), |(_, time)| time.trim_end_matches('Z').to_owned())
}

/// To three digits: `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if bytes >= unit {
            let tenths = bytes / (unit / 10).max(1);
            return match bytes % unit {
                0 => format!("{} {name}", bytes / unit),
                _ if tenths >= 1_000 => format!("{} {name}", bytes / unit),
                _ => format!("{}.{} {name}", tenths / 10, tenths % 10),
            };
        }
    }
    format!("{bytes} B")
}

/// `0.5` of a core.
pub fn cores(millis: u32) -> String {
    let text = format!("{}.{:03}", millis / 1_000, millis % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// One thing, or several.
pub fn count(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

/// By the system's clock, which is the only one that a command has.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_millis(since.map_or(0, |since| since.as_millis() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_ages_read_well() {
        let spans = [0, 450, 9_999, 12_345, 200_000, 7_260_000].map(|ms| span(Millis(ms)));
        assert_eq!(spans, ["0.0 s", "0.4 s", "9.9 s", "12 s", "3 min 20 s", "2 h 1 min"]);
        assert_eq!(
            [48, 1_204, 59_999, 61_000].map(measured),
            ["48 ms", "1.20 s", "59.99 s", "1 min 1 s"]
        );
        let at = Timestamp::from_millis;
        let ages = [0, 59, 60, 7_199, 172_799, 172_800].map(|s| age(at(0), at(s * 1_000)));
        assert_eq!(ages, ["0 s", "59 s", "1 min", "1 h", "47 h", "2 d"]);
        assert_eq!(age(at(1_000), at(0)), "0 s", "a clock that is ahead makes no nonsense");
    }

    #[test]
    fn sizes_and_cores_have_the_digits_that_matter() {
        assert_eq!(size(1536 * 1024), "1.5 MiB");
        assert_eq!(size(256 << 20), "256 MiB");
        assert_eq!(size((256 << 20) + 1), "256 MiB");
        assert_eq!(size(0), "0 B");
        assert_eq!([500, 1_000, 50, 2_250].map(cores), ["0.5", "1", "0.05", "2.25"]);
        assert_eq!(
            (count(1, "file", "files"), count(0, "file", "files")),
            ("1 file".into(), "0 files".into())
        );
    }
}
