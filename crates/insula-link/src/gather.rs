//! Lets what many nodes say gather for a moment, so that it is heard together.
//!
//! A heartbeat that comes alone costs a wake of the thread, a read, and a write for what is
//! acknowledged; forty that come together cost that once. So once thousands speak each second, the
//! fleet's thread looks at its sockets at a steady pace instead of at each word. A heartbeat counts
//! a few milliseconds later than it came, of the three seconds in which it may.
//!
//! Not while anybody waits for an answer (a blob, a question of another server, a newcomer's
//! certificate), and not in a small fleet, where it would save nothing.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long what comes may lie. Shorter than what a network adds between two sites, long enough for
/// forty heartbeats of ten thousand nodes.
const PAUSE: Duration = Duration::from_millis(4);
/// Messages a second from which on it is worth it: eight in each pause.
const MESSAGES_PER_SECOND_MIN: u64 = 2_000;
/// How long is counted before the pace is chosen again.
const COUNT_TIME: Duration = Duration::from_millis(500);

/// Messages of sessions since the server began. Written at each without a lock.
#[derive(Debug, Default)]
pub(crate) struct Said(AtomicU64);

impl Said {
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Requests that somebody waits for. Sessions are none: they have no end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked(Arc<AtomicUsize>);

impl Asked {
    pub(crate) fn one(&self) -> Waits {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waits(self.clone())
    }

    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// Somebody who waits, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waits(Asked);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The pace of the fleet's thread.
#[derive(Debug)]
pub(crate) struct Pace(Mutex<Counted>);

#[derive(Debug)]
struct Counted {
    since: Instant,
    said: u64,
    many: bool,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Counted { since: Instant::now(), said: 0, many: false }))
    }

    /// To be called when the thread has nothing to do, and nowhere else: it stands still.
    pub(crate) fn rest(&self, said: &Said, asked: &Asked) {
        let said = said.0.load(Ordering::Relaxed);
        // Only this thread comes here.
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.many(Instant::now(), said) && !asked.any() {
            std::thread::sleep(PAUSE);
        }
    }
}

impl Counted {
    fn many(&mut self, now: Instant, said: u64) -> bool {
        let span = now.saturating_duration_since(self.since);
        if span >= COUNT_TIME {
            let more = said.saturating_sub(self.said);
            let least = span.as_secs_f64() * MESSAGES_PER_SECOND_MIN as f64;
            *self = Self { since: now, said, many: more as f64 >= least };
        }
        self.many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fleet_is_heard_together_and_a_small_one_at_once() {
        let began = Instant::now();
        let mut counted = Counted { since: began, said: 0, many: false };
        let mut at = |ms: u64, said: u64| counted.many(began + Duration::from_millis(ms), said);
        assert!(!at(100, 5_000), "too early to tell");
        assert!(at(500, 5_000));
        assert!(at(600, 5_000), "until it is counted again");
        assert!(at(1_000, 6_000), "two thousand a second are enough");
        assert!(!at(1_500, 6_999), "and less are not");
        assert!(!at(10_000, 20_000), "however much it was long ago");
        assert!(at(10_500, 25_000));
    }

    #[test]
    fn who_waits_for_an_answer_is_known_until_he_has_it() {
        let asked = Asked::default();
        let (one, two) = (asked.one(), asked.one());
        drop(one);
        assert!(asked.any());
        drop(two);
        assert!(!asked.any());
    }
}
