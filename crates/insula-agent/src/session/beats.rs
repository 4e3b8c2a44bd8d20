//! Heartbeats that were sent and not answered yet. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::contact::Uptime;

/// Acknowledgements due and not come after which the server counts as gone: as many heartbeats
/// as a server gives a node.
pub const LOST_MAX: u32 = 3;
/// What a server may ask for: fewer answers than this would not tell a node that it is heard.
const ACK_EVERY_MAX: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    pub sequence: u64,
    /// Taken before it was sent.
    pub uptime: Uptime,
    pub at: Instant,
}

impl Beat {
    pub fn took(&self) -> Duration {
        self.at.elapsed()
    }
}

#[derive(Debug)]
pub struct Beats {
    sent: u64,
    waiting: VecDeque<Beat>,
    waiting_max: usize,
}

impl Beats {
    pub fn new() -> Self {
        let mut beats = Self { sent: 0, waiting: VecDeque::new(), waiting_max: 0 };
        beats.expect(1);
        beats
    }

    /// The server answers each of so many.
    pub fn expect(&mut self, ack_every: u32) {
        let waiting_max = LOST_MAX + ack_every.clamp(1, ACK_EVERY_MAX) - 1;
        self.waiting_max = waiting_max as usize;
    }

    /// The number of the next one; nothing if too many wait already.
    pub fn next(&mut self, uptime: Uptime) -> Option<u64> {
        if self.waiting.len() >= self.waiting_max {
            return None;
        }
        self.sent += 1;
        self.waiting.push_back(Beat { sequence: self.sent, uptime, at: Instant::now() });
        Some(self.sent)
    }

    /// The one that is answered; whatever was sent before it was heard as well.
    pub fn answered(&mut self, sequence: u64) -> Option<Beat> {
        let mut answered = None;
        while let Some(beat) = self.waiting.front().copied()
            && beat.sequence <= sequence
        {
            self.waiting.pop_front();
            answered = Some(beat);
        }
        answered.filter(|beat| beat.sequence == sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_without_an_answer_are_too_many() {
        let mut beats = Beats::new();
        let uptime = Uptime::default();
        assert_eq!(beats.next(uptime), Some(1));
        assert_eq!(beats.answered(1).map(|beat| beat.sequence), Some(1));
        assert_eq!(beats.answered(1), None, "once is enough");
        assert_eq!((beats.next(uptime), beats.next(uptime)), (Some(2), Some(3)));
        assert_eq!(beats.next(uptime), Some(4));
        assert_eq!(beats.next(uptime), None);
        // An answer to one that was never sent answers nothing.
        assert_eq!(beats.answered(99), None);
    }

    #[test]
    fn a_server_that_answers_each_third_is_not_silent() {
        let mut beats = Beats::new();
        beats.expect(3);
        for round in 0..10 {
            for _ in 0..3 {
                assert!(beats.next(Uptime::default()).is_some());
            }
            assert!(beats.answered(3 * (round + 1)).is_some());
        }
        beats.expect(u32::MAX);
        let unanswered = std::iter::from_fn(|| beats.next(Uptime::default())).count();
        assert_eq!(unanswered, 7, "its word is taken within reason");
    }
}
