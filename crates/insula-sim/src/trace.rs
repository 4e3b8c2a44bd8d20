//! What happened, in words if anybody wants to read them, and as one number always.

use std::collections::VecDeque;

/// Events that are kept for whoever reads about a violation.
pub const KEPT_MAX: usize = 60;

#[derive(Debug)]
pub struct Trace {
    /// Words cost more than the simulation itself: a seed that broke is run again with them.
    told: bool,
    aloud: bool,
    lines: VecDeque<String>,
    digest: u64,
}

impl Trace {
    pub fn new(told: bool, aloud: bool) -> Self {
        Self { told: told || aloud, aloud, lines: VecDeque::new(), digest: 0xcbf2_9ce4_8422_2325 }
    }

    /// Folds a number into the digest: two runs with the same digest went the same way.
    pub fn fold(&mut self, number: u64) {
        self.digest = (self.digest ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn tell(&mut self, now: u64, line: impl FnOnce() -> String) {
        if !self.told {
            return;
        }
        let line = format!("{:>9}.{:03} {}", now / 1_000, now % 1_000, line());
        if self.aloud {
            println!("{line}");
        }
        if self.lines.len() >= KEPT_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
