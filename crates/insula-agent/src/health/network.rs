//! Whether the way to the server became bad: round trips of heartbeats, and servers that fall
//! silent. Pure.
//!
//! What is usual for this node is learnt, so that a node on the other side of the world is as well
//! as one in the same rack. A server that ends or restarts says so by closing the connection, and
//! counts for nothing: a fleet must not call itself ill because its server was upgraded.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Times worse than usual at which a way counts as bad.
const WORSE: u32 = 10;
/// The shortest usual way that is believed: below it, a busy machine makes all the difference.
const USUAL_MIN: Duration = Duration::from_millis(10);
/// Of so many round trips the middle one is taken: one that was slow says nothing.
const TRIPS: usize = 5;
/// Silences within this time are counted.
const SILENCES_WITHIN: Duration = Duration::from_secs(600);
/// One is an accident, three are a habit.
const SILENCES_MAX: usize = 3;
/// By how much the usual follows what is: quickly down, slowly up (some ten minutes of
/// heartbeats, after which a longer way is the usual one).
const FALL: u32 = 4;
const RISE: u32 = 512;

#[derive(Debug, Default)]
pub struct Network {
    usual: Option<Duration>,
    trips: VecDeque<Duration>,
    silences: VecDeque<Instant>,
}

impl Network {
    pub fn round_trip(&mut self, took: Duration) {
        self.trips.push_back(took);
        if self.trips.len() > TRIPS {
            self.trips.pop_front();
        }
        let usual = self.usual.unwrap_or(took);
        self.usual = Some(if took < usual {
            usual - (usual - took) / FALL
        } else {
            usual + (took - usual) / RISE
        });
    }

    pub fn silence(&mut self, now: Instant) {
        self.silences.push_back(now);
        if self.silences.len() > SILENCES_MAX {
            self.silences.pop_front();
        }
    }

    pub fn judge(&mut self, now: Instant) -> Option<String> {
        self.silences.retain(|at| now.duration_since(*at) < SILENCES_WITHIN);
        if self.silences.len() >= SILENCES_MAX {
            return Some("servers fell silent again and again: heartbeats are lost".into());
        }
        let usual = self.usual?.max(USUAL_MIN);
        let slow = self.middle()? > usual * WORSE;
        slow.then(|| format!("heartbeats take more than {WORSE} times as long as usual"))
    }

    fn middle(&self) -> Option<Duration> {
        if self.trips.len() < TRIPS {
            return None;
        }
        let mut trips: Vec<_> = self.trips.iter().copied().collect();
        trips.sort();
        trips.get(TRIPS / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn after(trips: &[(usize, u64)]) -> Option<String> {
        let mut network = Network::default();
        for (times, took) in trips {
            for _ in 0..*times {
                network.round_trip(ms(*took));
            }
        }
        network.judge(Instant::now())
    }

    #[test]
    fn a_way_is_bad_when_it_is_ten_times_as_long_as_it_used_to_be() {
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[(60, 30)]), None);
        assert_eq!(after(&[(60, 30), (3, 250)]), None);
        assert_eq!(after(&[(60, 30), (2, 900)]), None, "two that were slow");
        assert!(after(&[(60, 30), (3, 900)]).is_some());
        assert_eq!(after(&[(60, 30), (3, 900), (3, 30)]), None);
        assert_eq!(after(&[(60, 300)]), None, "far away, and always was");
        assert_eq!(after(&[(60, 1), (9, 90)]), None, "a busy machine");
        assert_eq!(after(&[(60, 30), (2_000, 900)]), None, "by now that is usual");
    }

    #[test]
    fn silences_count_when_they_come_close_together() {
        let mut network = Network::default();
        let now = Instant::now();
        network.silence(now);
        network.silence(now + ms(1_000));
        assert_eq!(network.judge(now + ms(2_000)), None);
        network.silence(now + ms(2_000));
        assert!(network.judge(now + ms(2_000)).is_some());
        assert_eq!(network.judge(now + SILENCES_WITHIN), None);
    }
}
