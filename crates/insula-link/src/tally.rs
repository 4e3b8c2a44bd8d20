//! Counts failed attempts to join, by address, so that guessing costs time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A token has 190 random bits; this is for the log and the processor, not against luck.
const FAILURES_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered. Over it, the oldest go: they have the least left to wait.
const ADDRESSES_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    failures: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Tally {
    /// How long this address has to wait before it may try again, if it has to.
    pub(crate) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, count) = failures.get(&neighbourhood(address))?;
        let left = WINDOW.checked_sub(now.saturating_duration_since(*began))?;
        (*count >= FAILURES_MAX && !left.is_zero()).then_some(left)
    }

    pub(crate) fn note_failure(&self, address: IpAddr, now: Instant) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let address = neighbourhood(address);
        if failures.len() >= ADDRESSES_MAX && !failures.contains_key(&address) {
            failures.retain(|_, (began, _)| now.saturating_duration_since(*began) < WINDOW);
            let oldest = failures.iter().min_by_key(|(_, (began, _))| *began).map(|(a, _)| *a);
            if let Some(oldest) = oldest.filter(|_| failures.len() >= ADDRESSES_MAX) {
                failures.remove(&oldest);
            }
        }
        let (began, count) = failures.entry(address).or_insert((now, 0));
        if now.saturating_duration_since(*began) >= WINDOW {
            (*began, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
    }
}

/// One customer of an IPv6 provider has 2⁶⁴ addresses, and is one all the same.
pub(crate) fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_failed_too_often_waits_and_no_other_does() {
        let (tally, now) = (Tally::default(), Instant::now());
        for _ in 0..FAILURES_MAX {
            assert_eq!(tally.wait(address("10.0.0.1"), now), None);
            tally.note_failure(address("10.0.0.1"), now);
        }
        assert_eq!(tally.wait(address("10.0.0.1"), now), Some(WINDOW));
        assert_eq!(tally.wait(address("10.0.0.2"), now), None);
        assert_eq!(tally.wait(address("10.0.0.1"), now + WINDOW), None);
        tally.note_failure(address("10.0.0.1"), now + WINDOW);
        assert_eq!(tally.wait(address("10.0.0.1"), now + WINDOW), None, "counted anew");
    }

    #[test]
    fn a_network_of_addresses_is_one() {
        let (tally, now) = (Tally::default(), Instant::now());
        for n in 0..FAILURES_MAX {
            tally.note_failure(address(&format!("2001:db8::{n}")), now);
        }
        assert!(tally.wait(address("2001:db8::ffff:1"), now).is_some());
        assert!(tally.wait(address("2001:db8:0:1::1"), now).is_none());
    }

    #[test]
    fn memory_has_an_end() {
        let (tally, now) = (Tally::default(), Instant::now());
        for n in 0..2 * ADDRESSES_MAX as u32 {
            tally.note_failure(IpAddr::V4(n.into()), now + Duration::from_millis(n.into()));
        }
        assert_eq!(tally.failures.lock().unwrap().len(), ADDRESSES_MAX);
    }
}
