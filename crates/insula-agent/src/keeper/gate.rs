//! How much an instance may log: a token bucket that, once empty, stays shut for a while. Pure.
//!
//! Reopening for each single token would interleave scraps of lines with marks of what was dropped;
//! staying shut until half a burst is there keeps whole stretches instead.

/// Letting less through would cut lines for nothing.
const ADMIT_BYTES_MIN: i64 = 4 << 10;
/// What storing one line costs beside its bytes; a stream of empty lines is not free.
pub(crate) const LINE_COST_BYTES: u64 = 40;

#[derive(Debug)]
pub(crate) struct RateGate {
    rate_bytes_per_s: u64,
    burst: i64,
    tokens: i64,
    at_ms: i64,
    shut: bool,
}

impl RateGate {
    pub(crate) fn new(rate_bytes_per_s: u64, burst_bytes: u64, now_ms: i64) -> Self {
        let burst = i64::try_from(burst_bytes).unwrap_or(i64::MAX).max(2 * ADMIT_BYTES_MIN);
        Self { rate_bytes_per_s, burst, tokens: burst, at_ms: now_ms, shut: false }
    }

    /// How many bytes may be taken in now; 0 means that what is there must be dropped.
    pub(crate) fn admit(&mut self, now_ms: i64) -> usize {
        // A clock that was set back gives nothing and takes nothing.
        let passed = u64::try_from(now_ms - self.at_ms).unwrap_or(0);
        let earned = u128::from(self.rate_bytes_per_s) * u128::from(passed) / 1_000;
        if earned > 0 || now_ms < self.at_ms {
            self.at_ms = now_ms;
            let earned = i64::try_from(earned).unwrap_or(i64::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(self.burst);
        }
        let needed = if self.shut { self.burst / 2 } else { ADMIT_BYTES_MIN };
        self.shut = self.tokens < needed;
        if self.shut { 0 } else { usize::try_from(self.tokens).unwrap_or(0) }
    }

    pub(crate) fn spend(&mut self, bytes: u64) {
        let cost = i64::try_from(bytes).unwrap_or(i64::MAX);
        // The debt is bounded, too: one step cannot shut the gate for good.
        self.tokens = self.tokens.saturating_sub(cost).max(-self.burst);
    }

    pub(crate) fn rate_bytes_per_s(&self) -> u64 {
        self.rate_bytes_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_gate_stays_shut_until_half_of_one_is_there() {
        let mut gate = RateGate::new(10_000, 100_000, 0);
        assert_eq!(gate.admit(0), 100_000);
        gate.spend(99_000);
        assert_eq!(gate.admit(0), 0);
        assert_eq!(gate.admit(4_000), 0);
        assert_eq!(gate.admit(4_900), 50_000);
        gate.spend(40_000);
        assert_eq!(gate.admit(4_900), 10_000);
    }

    #[test]
    fn over_a_long_time_no_more_than_the_rate_passes() {
        let mut gate = RateGate::new(1_000, 20_000, 0);
        let mut passed = 0;
        for ms in 0..600_000 {
            let n = gate.admit(ms).min(3_000) as u64;
            gate.spend(n);
            passed += n;
        }
        assert!((500_000..=620_000).contains(&passed), "{passed}");
    }

    #[test]
    fn a_clock_that_jumps_neither_blocks_for_ever_nor_overflows() {
        let mut gate = RateGate::new(u64::MAX, 1 << 40, 1_000);
        gate.spend(u64::MAX);
        gate.spend(u64::MAX);
        assert_eq!(gate.admit(0), 0);
        assert!(gate.admit(i64::MAX) > 0);
    }
}
