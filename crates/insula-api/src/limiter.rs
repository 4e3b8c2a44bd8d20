//! Token buckets by key: a burst, then a steady rate. In memory, so a restart forgives.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use crate::limits::LIMITER_KEYS_MAX;

#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub per_second: f64,
    pub burst: f64,
}

#[derive(Debug)]
pub struct Limiter<K> {
    rate: Rate,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at_ms: i64,
}

impl<K: Eq + Hash> Limiter<K> {
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Takes one from the key's bucket, or says after how many seconds there is one again.
    pub fn take(&self, key: K, now_ms: i64) -> Result<(), u64> {
        self.take_some(key, 1.0, now_ms)
    }

    /// The same for an amount. More than the whole burst is never there.
    pub fn take_some(&self, key: K, amount: f64, now_ms: i64) -> Result<(), u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= LIMITER_KEYS_MAX && !buckets.contains_key(&key) {
            self.forget_full(&mut buckets, now_ms);
        }
        let fresh = Bucket { left: self.rate.burst, at_ms: now_ms };
        let bucket = buckets.entry(key).or_insert(fresh);
        *bucket = Bucket { left: self.left(*bucket, now_ms), at_ms: now_ms };
        if bucket.left >= amount {
            bucket.left -= amount;
            return Ok(());
        }
        Err(((amount - bucket.left) / self.rate.per_second).ceil() as u64)
    }

    fn left(&self, bucket: Bucket, now_ms: i64) -> f64 {
        let passed_s = (now_ms - bucket.at_ms).max(0) as f64 / 1_000.0;
        (bucket.left + passed_s * self.rate.per_second).min(self.rate.burst)
    }

    /// A full bucket is as good as none. If all are in use, all are forgotten: a flood of keys
    /// must neither grow without bound nor lock everybody else out.
    fn forget_full(&self, buckets: &mut HashMap<K, Bucket>, now_ms: i64) {
        buckets.retain(|_, bucket| self.left(*bucket, now_ms) < self.rate.burst);
        if buckets.len() >= LIMITER_KEYS_MAX {
            buckets.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_counts() {
        let limiter = Limiter::new(Rate { per_second: 0.5, burst: 3.0 });
        for _ in 0..3 {
            assert_eq!(limiter.take("a", 0), Ok(()));
        }
        assert_eq!(limiter.take("a", 0), Err(2));
        assert_eq!(limiter.take("b", 0), Ok(()), "somebody else is not concerned");
        assert_eq!(limiter.take("a", 1_000), Err(1));
        assert_eq!(limiter.take("a", 2_000), Ok(()));
        assert_eq!(limiter.take("a", 1_000), Err(2), "a clock that steps back gives nothing");
    }

    #[test]
    fn amounts_are_taken_whole_or_not_at_all() {
        let limiter = Limiter::new(Rate { per_second: 10.0, burst: 100.0 });
        assert_eq!(limiter.take_some("a", 90.0, 0), Ok(()));
        assert_eq!(limiter.take_some("a", 20.0, 0), Err(1));
        assert_eq!(limiter.take_some("a", 10.0, 0), Ok(()));
        assert_eq!(limiter.take_some("a", 50.0, 5_000), Ok(()));
    }

    #[test]
    fn a_flood_of_keys_stays_bounded() {
        let limiter = Limiter::new(Rate { per_second: 1.0, burst: 1.0 });
        for key in 0..LIMITER_KEYS_MAX * 2 {
            let _ = limiter.take(key, 0);
        }
        assert!(limiter.buckets.lock().unwrap().len() <= LIMITER_KEYS_MAX);
    }
}
