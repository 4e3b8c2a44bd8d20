//! Hands out the pool's addresses, the longest unused first.
//!
//! Pure: who uses what is told by the caller. An address comes back as late as the pool allows, because
//! gateways, caches and connection tracking remember addresses for a while.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::config::Ipv4Cidr;

#[derive(Debug, Clone)]
pub struct AddressPool {
    pool: Ipv4Cidr,
    /// Host part of the address to try next.
    cursor: u32,
}

/// The network's own address and the gateway's are never given to an instance.
const FIRST: u32 = 2;

impl AddressPool {
    /// `after`: the address handed out last before a restart, so that the round goes on from there.
    pub fn new(pool: Ipv4Cidr, after: Option<Ipv4Addr>) -> Self {
        let mut addresses = Self { pool, cursor: FIRST };
        if let Some(after) = after.filter(|address| pool.contains(*address)) {
            addresses.move_past(after.to_bits() - pool.base().to_bits());
        }
        addresses
    }

    /// The next address that nobody uses, or `None` when all are taken.
    pub fn take(&mut self, used: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        for _ in FIRST..self.end() {
            let address = Ipv4Addr::from_bits(self.pool.base().to_bits() + self.cursor);
            self.move_past(self.cursor);
            if !used.contains(&address) {
                return Some(address);
            }
        }
        None
    }

    fn move_past(&mut self, host_part: u32) {
        let next = host_part.saturating_add(1);
        self.cursor = if (FIRST..self.end()).contains(&next) { next } else { FIRST };
    }

    /// The rest stands for instances of other nodes.
    fn end(&self) -> u32 {
        self.pool.last_quarter().base().to_bits() - self.pool.base().to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Ipv4Cidr {
        "10.9.0.0/28".parse().unwrap()
    }

    fn last_bytes(addresses: &[Ipv4Addr]) -> Vec<u8> {
        addresses.iter().map(|address| address.octets()[3]).collect()
    }

    #[test]
    fn addresses_go_round_and_a_freed_one_waits_its_turn() {
        let mut addresses = AddressPool::new(pool(), None);
        let free = BTreeSet::new();
        let taken: Vec<_> = (0..15).map(|_| addresses.take(&free).unwrap()).collect();
        assert_eq!(last_bytes(&taken), [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn used_ones_are_skipped_and_a_full_pool_says_so() {
        let mut addresses = AddressPool::new(pool(), None);
        let mut used = BTreeSet::from([Ipv4Addr::new(10, 9, 0, 2), Ipv4Addr::new(10, 9, 0, 4)]);
        let mut taken = Vec::new();
        while let Some(address) = addresses.take(&used) {
            used.insert(address);
            taken.push(address);
        }
        assert_eq!(last_bytes(&taken), [3, 5, 6, 7, 8, 9, 10, 11]);
        used.remove(&Ipv4Addr::new(10, 9, 0, 7));
        assert_eq!(addresses.take(&used), Some(Ipv4Addr::new(10, 9, 0, 7)));
    }

    #[test]
    fn a_restart_goes_on_where_it_was() {
        let free = BTreeSet::new();
        let after = |last: [u8; 4]| {
            AddressPool::new(pool(), Some(Ipv4Addr::from(last))).take(&free).unwrap().octets()[3]
        };
        assert_eq!(after([10, 9, 0, 7]), 8);
        assert_eq!(after([10, 9, 0, 11]), 2);
        assert_eq!(after([10, 9, 0, 14]), 2, "of a version that used the whole pool");
        assert_eq!(after([10, 9, 0, 0]), 2);
        assert_eq!(after([192, 168, 0, 9]), 2, "a pool that was changed starts anew");
    }
}
