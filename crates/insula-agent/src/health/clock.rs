//! How far our clock is from the server's. Pure.
//!
//! A heartbeat's answer says what the server's clock showed in between; half of the way there and
//! back is what we do not know.

use std::time::Duration;

/// Logs and certificates bear less than this without anybody noticing; a clock that is kept by
/// anything at all is within it.
const SKEW_MAX_MS: u64 = 5_000;
/// What was off must come nearer than this before it counts as right.
const SKEW_RIGHT_MS: u64 = 3_000;

#[derive(Debug, Default)]
pub struct Skew {
    /// How far the server is ahead at least, whatever the way took; negative: behind.
    ahead_ms: Option<i64>,
}

impl Skew {
    pub fn see(&mut self, took: Duration, server_ms: i64, our_ms: i64) {
        let half = i64::try_from(took.as_millis() / 2).unwrap_or(i64::MAX);
        // `our_ms` is of the arrival; the server spoke half a way earlier, give or take that half.
        let ahead = server_ms.saturating_add(half).saturating_sub(our_ms);
        let sure = i64::try_from(ahead.unsigned_abs()).unwrap_or(i64::MAX).saturating_sub(half);
        self.ahead_ms = Some(ahead.signum() * sure.max(0));
    }

    /// `said`: whether it counts as off already.
    pub fn judge(&self, said: bool) -> Option<String> {
        let ahead = self.ahead_ms?;
        let bound = if said { SKEW_RIGHT_MS } else { SKEW_MAX_MS };
        if ahead.unsigned_abs() <= bound {
            return None;
        }
        let direction = if ahead > 0 { "behind" } else { "ahead of" };
        Some(format!("its clock is {direction} the server's by {}", about(ahead.unsigned_abs())))
    }
}

/// Coarse, so that a clock that drifts does not change the words every minute.
fn about(ms: u64) -> &'static str {
    match ms / 1_000 {
        0..60 => "some seconds",
        60..1_800 => "some minutes",
        1_800..5_400 => "about an hour",
        5_400..86_400 => "hours",
        _ => "days",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(took_ms: u64, server_ms: i64, said: bool) -> Option<String> {
        let mut skew = Skew::default();
        skew.see(Duration::from_millis(took_ms), server_ms, 1_000_000);
        skew.judge(said)
    }

    #[test]
    fn a_clock_is_off_only_if_the_way_does_not_explain_it() {
        assert_eq!(judged(2, 1_000_000, false), None);
        assert_eq!(judged(2, 1_004_000, false), None);
        assert!(judged(2, 1_004_000, true).is_some(), "not right again yet");
        assert!(judged(2, 1_006_000, false).unwrap().contains("behind the server's by some sec"));
        assert!(judged(2, 994_000, false).unwrap().contains("ahead of"));
        // Eight seconds on the way: the answer may be of any moment of them.
        assert_eq!(judged(8_000, 1_004_000, false), None);
        assert_eq!(judged(8_000, 988_000, false), None);
        assert!(judged(8_000, 1_006_000, false).is_some());
        assert!(judged(8_000, 986_000, false).is_some());
        assert!(judged(2, 4_600_000, false).unwrap().contains("about an hour"));
        assert!(judged(2, i64::MAX, false).is_some());
        assert!(judged(2, i64::MIN, false).is_some());
    }

    #[test]
    fn nobody_asked_is_nobody_off() {
        assert_eq!(Skew::default().judge(false), None);
    }
}
