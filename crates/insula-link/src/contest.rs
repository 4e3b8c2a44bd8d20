//! Two machines that speak as one node: a disk was cloned, identity and all.
//!
//! The newer session of a node wins, since the older one is usually the rest of a broken
//! connection. Two machines would so throw each other out for ever. When living sessions were
//! thrown out a few times, the one that is there is kept for as long as it is heard, and the other
//! is told why. A lone node on a bad line is never kept out: its old session falls silent.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// A session that said nothing for so long is the rest of something: three heartbeats.
pub(crate) const ALIVE_TIME: Duration = Duration::from_secs(3);
/// Living sessions that were thrown out, within the window, before it is called a contest.
const TAKEOVERS_MAX: usize = 3;
/// Agents that are refused come back within seconds, and as a lone node does: a contest is over once
/// none has been refused for so long.
const WINDOW: Duration = Duration::from_secs(15 * 60);
/// Two machines are usual; more addresses say nothing more.
const ADDRESSES_MAX: usize = 8;

/// That more than one machine speaks as a node: something for a person to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contest {
    /// When it was noticed.
    pub since: Instant,
    /// Where the machines called from.
    pub from: BTreeSet<String>,
}

/// What is remembered of a node.
#[derive(Debug, Default)]
pub(crate) struct Takeovers {
    recent: VecDeque<Instant>,
    from: BTreeSet<String>,
    contest: Option<(Instant, Instant)>,
}

impl Takeovers {
    /// A session begins while another is there that was heard `silent` ago; whether it may.
    pub(crate) fn may_take(&mut self, now: Instant, silent: Duration, from: [&str; 2]) -> bool {
        if silent >= ALIVE_TIME {
            return true;
        }
        while self.recent.front().is_some_and(|old| now.duration_since(*old) > WINDOW) {
            self.recent.pop_front();
        }
        if self.recent.is_empty() && self.contest(now).is_none() {
            self.from.clear();
        }
        for address in from {
            if self.from.len() < ADDRESSES_MAX {
                self.from.insert(address.to_owned());
            }
        }
        if self.recent.len() < TAKEOVERS_MAX {
            self.recent.push_back(now);
            return true;
        }
        let since = self.contest(now).map_or(now, |contest| contest.since);
        self.contest = Some((since, now));
        false
    }

    /// While somebody was refused not long ago.
    pub(crate) fn contest(&self, now: Instant) -> Option<Contest> {
        let (since, last) = self.contest?;
        let fresh = now.duration_since(last) <= WINDOW;
        fresh.then(|| Contest { since, from: self.from.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[test]
    fn two_machines_fight_a_few_times_and_then_one_stays() {
        let (mut takeovers, begin) = (Takeovers::default(), Instant::now());
        let at = |n: u32| begin + Duration::from_secs(60) * n;
        let from = ["10.0.0.1:1", "10.0.0.2:1"];
        for n in 0..3 {
            assert!(takeovers.may_take(at(n), SOON, from));
            assert_eq!(takeovers.contest(at(n)), None);
        }
        assert!(!takeovers.may_take(at(3), SOON, from));
        let contest = takeovers.contest(at(3)).unwrap();
        assert_eq!((contest.since, contest.from.len()), (at(3), 2));
        assert!(!takeovers.may_take(at(4), SOON, from));
        assert_eq!(takeovers.contest(at(4)).unwrap().since, at(3));
        // The other machine was put right: nothing is left of it.
        assert_eq!(takeovers.contest(at(20)), None);
        assert!(takeovers.may_take(at(40), SOON, from));
    }

    #[test]
    fn a_lone_node_on_a_bad_line_always_comes_back() {
        let (mut takeovers, now) = (Takeovers::default(), Instant::now());
        for _ in 0..100 {
            assert!(takeovers.may_take(now, ALIVE_TIME, ["a", "a"]));
        }
        for _ in 0..100 {
            let _ = takeovers.may_take(now, SOON, ["a", "a"]);
            assert!(takeovers.may_take(now, ALIVE_TIME, ["a", "a"]));
        }
    }
}
