//! How long to wait after the nth failure in a row: pure, with the jitter given by the caller.

use std::time::Duration;

/// Doubles from `first` up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub max: Duration,
}

impl Backoff {
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// `failures` in a row so far; none means no waiting. `jitter` is a fraction in `0.0..1.0`
    /// (see `Random::fraction`): the wait lies in the upper half of its step, so that a crowd
    /// that failed together does not return together, and nobody returns at once.
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        let factor = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
        let step = self.first.checked_mul(factor).unwrap_or(self.max).min(self.max);
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 1.0 };
        step.mul_f64(0.5 + jitter / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

    #[test]
    fn it_doubles_to_the_limit_and_stays_there() {
        let waits: Vec<u128> =
            (0..9).map(|failures| BACKOFF.delay(failures, 1.0).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(BACKOFF.delay(u32::MAX, 1.0), BACKOFF.max);
    }

    #[test]
    fn jitter_takes_at_most_half_and_nonsense_takes_nothing() {
        assert_eq!(BACKOFF.delay(1, 0.0).as_millis(), 50);
        assert_eq!(BACKOFF.delay(1, 0.5).as_millis(), 75);
        assert_eq!(BACKOFF.delay(1, -3.0).as_millis(), 50);
        assert_eq!(BACKOFF.delay(1, f64::NAN).as_millis(), 100);
    }
}
