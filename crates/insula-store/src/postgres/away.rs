//! Since when PostgreSQL has been away, as all connections of one store see it together.
//!
//! A request asks several times: for its caller, for what it reads, for what it writes. Were each
//! to wait as long as one may, it would wait three times that; so the wait is counted from when
//! the database went, and whoever comes after that is told at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Default)]
pub(crate) struct Away(Arc<Mutex<Option<Spell>>>);

#[derive(Debug, Clone, Copy)]
struct Spell {
    since: Instant,
    /// When it was last found away: what nobody has looked at since says nothing.
    seen: Instant,
}

impl Away {
    /// It could not be reached.
    pub(crate) fn seen(&self, now: Instant, patience: Duration) {
        let mut spell = self.spell();
        let since = spell.filter(|spell| spell.is_fresh(now, patience)).map(|spell| spell.since);
        *spell = Some(Spell { since: since.unwrap_or(now), seen: now });
    }

    /// It answers.
    pub(crate) fn over(&self) {
        *self.spell() = None;
    }

    /// How long one who asked then may be left without an answer.
    pub(crate) fn waits_until(&self, asked: Instant, patience: Duration) -> Instant {
        let spell = self.spell().filter(|spell| spell.is_fresh(asked, patience));
        spell.map_or(asked, |spell| spell.since.min(asked)) + patience
    }

    fn spell(&self) -> MutexGuard<'_, Option<Spell>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spell {
    fn is_fresh(&self, now: Instant, patience: Duration) -> bool {
        now.saturating_duration_since(self.seen) <= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn who_asks_again_waits_no_longer_than_who_asked_once() {
        let (away, went) = (Away::default(), Instant::now());
        assert_eq!(away.waits_until(went, PATIENCE), went + PATIENCE);
        away.seen(went + s(1), PATIENCE);
        away.seen(went + s(9), PATIENCE);
        // Who asked before it went has waited since; who comes later waits for the rest.
        assert_eq!(away.waits_until(went, PATIENCE), went + PATIENCE);
        assert_eq!(away.waits_until(went + s(9), PATIENCE), went + s(11));
        assert_eq!(away.waits_until(went + s(15), PATIENCE), went + s(11), "told at once");
    }

    #[test]
    fn a_database_that_answers_is_waited_for_anew() {
        let (away, went) = (Away::default(), Instant::now());
        let other = away.clone();
        away.seen(went, PATIENCE);
        other.over();
        assert_eq!(away.waits_until(went + s(5), PATIENCE), went + s(15));
    }

    #[test]
    fn what_was_seen_long_ago_counts_no_more() {
        let (away, went) = (Away::default(), Instant::now());
        away.seen(went, PATIENCE);
        let later = went + s(60);
        assert_eq!(away.waits_until(later, PATIENCE), later + PATIENCE);
        away.seen(later, PATIENCE);
        assert_eq!(away.waits_until(later + s(1), PATIENCE), later + PATIENCE);
    }
}
