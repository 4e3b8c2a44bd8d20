//! The only door to the time of day.
//!
//! Whoever decides by time takes a `Clock`. Measuring how long something took is not deciding:
//! `std::time::Instant` does for that.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since the Unix epoch, UTC. May step back when the host's clock is set.
    fn now_ms(&self) -> i64;
}

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            // A host whose clock stands before 1970: still ordered, merely negative.
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        }
    }
}

/// A clock that moves only when a test says so. Clones show the same time.
#[derive(Debug, Clone, Default)]
pub struct TestClock {
    now_ms: Arc<AtomicI64>,
}

impl TestClock {
    pub fn new(now_ms: i64) -> Self {
        Self { now_ms: Arc::new(AtomicI64::new(now_ms)) }
    }

    pub fn set_ms(&self, now_ms: i64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }

    pub fn advance_ms(&self, by_ms: i64) {
        self.now_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_clock_stands_still_until_it_is_moved() {
        let clock = TestClock::new(1_000);
        let seen_elsewhere = clock.clone();
        clock.advance_ms(500);
        assert_eq!(seen_elsewhere.now_ms(), 1_500);
        clock.set_ms(-1);
        assert_eq!(seen_elsewhere.now_ms(), -1);
    }

    #[test]
    fn the_system_clock_is_past_the_day_this_was_written() {
        assert!(SystemClock.now_ms() > 1_700_000_000_000);
    }
}
