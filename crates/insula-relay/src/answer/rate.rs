//! How often one connection may ask for what costs us something and gets it nothing.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket that fills again in `period`.
#[derive(Debug)]
pub(super) struct Rate {
    max: u32,
    period: Duration,
    left: u32,
    since: Instant,
}

impl Rate {
    pub(super) fn new(max: u32, period: Duration, now: Instant) -> Self {
        Self { max, period, left: max, since: now }
    }

    /// Whether one more is within it.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= self.period {
            (self.left, self.since) = (self.max, now);
        }
        let within = self.left > 0;
        self.left = self.left.saturating_sub(1);
        within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_ends_and_a_steady_drop_does_not() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut rate = Rate::new(3, second, now);
        assert!((0..3).all(|_| rate.take(now)));
        assert!(!rate.take(now));
        assert!(!rate.take(now + second / 2));
        assert!((1..1_000).all(|n| rate.take(now + second * n)));
    }
}
