//! Places for connections of whom nobody knows yet, so many in all and so many to each address: who
//! takes them without end stands in nobody's way but his neighbours'.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::tally::neighbourhood;

#[derive(Debug)]
pub(crate) struct Shares {
    most: usize,
    per_address_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Shares>,
    address: IpAddr,
}

impl Shares {
    pub(crate) fn new(most: usize, per_address_max: usize) -> Arc<Self> {
        Arc::new(Self { most, per_address_max, taken: Mutex::default() })
    }

    /// Nothing if the address, or all together, have as many as they may.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let address = neighbourhood(address);
        let mut taken = self.taken();
        let own = taken.by_address.get(&address).copied().unwrap_or(0);
        if taken.all >= self.most || own >= self.per_address_max {
            return None;
        }
        taken.all += 1;
        taken.by_address.insert(address, own + 1);
        Some(Share { of: Arc::clone(self), address })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        taken.all -= 1;
        if let Some(own) = taken.by_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_the_places_of_others() {
        let shares = Shares::new(3, 2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let held = [
            shares.take(address("2001:db8::1")).unwrap(),
            shares.take(address("2001:db8::2")).unwrap(),
        ];
        assert!(shares.take(address("2001:db8::3")).is_none(), "a network of addresses is one");
        let other = shares.take(address("10.0.0.1")).unwrap();
        assert!(shares.take(address("10.0.0.2")).is_none(), "all are taken");
        drop(held);
        assert!(shares.take(address("2001:db8::3")).is_some());
        drop(other);
        let taken = shares.taken();
        assert_eq!((taken.all, taken.by_address.len()), (0, 0), "nobody is remembered");
    }
}
