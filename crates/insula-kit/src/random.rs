//! The only door to randomness.
//!
//! `SystemRandom` asks the kernel through ring; `SeededRandom` gives tests and simulations the
//! same bytes for the same seed and must never make a key or a token that somebody relies on.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::rand::SecureRandom;

pub trait Random: Send + Sync + Debug {
    fn fill(&self, bytes: &mut [u8]);

    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Evenly spread over `0.0..1.0`; what jitter is made of.
    fn fraction(&self) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[derive(Debug, Clone)]
pub struct SystemRandom {
    ring: ring::rand::SystemRandom,
}

impl SystemRandom {
    pub fn new() -> Self {
        Self { ring: ring::rand::SystemRandom::new() }
    }
}

impl Default for SystemRandom {
    fn default() -> Self {
        Self::new()
    }
}

impl Random for SystemRandom {
    /// Panics when the kernel refuses: there is no safe way to go on without randomness, and
    /// `getrandom(2)` does not fail on a system that has booted.
    fn fill(&self, bytes: &mut [u8]) {
        self.ring.fill(bytes).expect("the kernel gives random bytes");
    }
}

/// SHA-256 over seed and counter. Clones are not offered: two streams that repeat each other are
/// never what a test wants.
#[derive(Debug)]
pub struct SeededRandom {
    seed: u64,
    block: AtomicU64,
}

impl SeededRandom {
    pub fn new(seed: u64) -> Self {
        Self { seed, block: AtomicU64::new(0) }
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(32) {
            let block = self.block.fetch_add(1, Ordering::Relaxed);
            let mut input = [0; 16];
            input[..8].copy_from_slice(&self.seed.to_le_bytes());
            input[8..].copy_from_slice(&block.to_le_bytes());
            chunk.copy_from_slice(&crate::digest::sha256(&input)[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_another_seed_differs() {
        let take = |seed| {
            let random = SeededRandom::new(seed);
            let mut bytes = [0; 100];
            random.fill(&mut bytes);
            (bytes, random.next_u64())
        };
        assert_eq!(take(1), take(1));
        assert_ne!(take(1).0, take(2).0);
    }

    #[test]
    fn fractions_stay_below_one_and_spread() {
        let random = SeededRandom::new(7);
        let fractions: Vec<f64> = (0..1_000).map(|_| random.fraction()).collect();
        assert!(fractions.iter().all(|f| (0.0..1.0).contains(f)));
        let mean = fractions.iter().sum::<f64>() / 1_000.0;
        assert!((0.45..0.55).contains(&mean), "mean {mean}");
    }

    #[test]
    fn the_kernel_does_not_repeat_itself() {
        let random = SystemRandom::new();
        assert_ne!((random.next_u64(), random.next_u64()), (random.next_u64(), random.next_u64()));
    }
}
