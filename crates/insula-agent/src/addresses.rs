//! Which address a sandbox gets, and what must be on disk before it does.
//!
//! A gateway beside us keeps its routes durably and goes by them before any server is up, to what has
//! these addresses then. So after a power cut, which takes the last seconds of everything that was
//! not synced, no address may go to somebody new that somebody else may have had: not before the round
//! of the pool is over. What is on disk is therefore not the address that was given last, but one
//! further along the round, up to which any may have been given; an agent that begins goes on
//! after that one. It is moved a block at a time, so that one write does for many instances.
//!
//! Pure: the writing is `places`'. What this cannot say is who still remembers an address after a
//! whole round.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use insula_sandbox::net::{AddressPool, Ipv4Cidr};

/// One write for so many addresses; with each start of an agent, what is left of them is passed over.
const BLOCK_MAX: u64 = 64;
/// Of a small pool a block is this part at most, so that a few starts do not go round it.
const BLOCKS_IN_POOL_MIN: u64 = 64;

#[derive(Debug)]
pub struct Addresses {
    pool: AddressPool,
    block: u64,
    /// Steps that were made along the round since this agent began.
    made: u64,
    /// Steps that what is on disk covers.
    covered: u64,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Given(Ipv4Addr),
    /// Nothing is given before this is on disk.
    Cover(Cover),
}

/// What is to be kept: up to this one, all may have been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cover {
    pub last: Ipv4Addr,
    steps: u64,
}

impl Addresses {
    /// `last` is what was kept by the agent before.
    pub fn new(pool: Ipv4Cidr, last: Option<Ipv4Addr>) -> Self {
        let size = 1_u64 << (32 - u32::from(pool.prefix()).min(32));
        let block = (size / BLOCKS_IN_POOL_MIN).clamp(1, BLOCK_MAX);
        Self { pool: AddressPool::new(pool, last), block, made: 0, covered: 0 }
    }

    /// Nothing when all are in use.
    pub fn next(&mut self, used: &BTreeSet<Ipv4Addr>) -> Option<Next> {
        let address = self.pool.clone().take(used)?;
        let mut after = self.pool.clone();
        let steps = self.made + steps_to(&mut after, address)?;
        if steps <= self.covered {
            self.pool = after;
            self.made = steps;
            return Some(Next::Given(address));
        }
        let none = BTreeSet::new();
        let mut last = address;
        for _ in 1..self.block {
            last = after.take(&none)?;
        }
        Some(Next::Cover(Cover { last, steps: steps + self.block - 1 }))
    }

    /// It is on disk.
    pub fn covered(&mut self, cover: Cover) {
        self.covered = self.covered.max(cover.steps);
    }
}

/// Moves along the round past this address, which is one of it, and counts.
fn steps_to(pool: &mut AddressPool, address: Ipv4Addr) -> Option<u64> {
    let none = BTreeSet::new();
    let mut steps = 1;
    while pool.take(&none)? != address {
        steps += 1;
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens to it, on a disk that always writes.
    struct Story {
        addresses: Addresses,
        disk: Option<Ipv4Addr>,
        writes: u32,
    }

    impl Story {
        fn new(pool: &str, disk: Option<Ipv4Addr>) -> Self {
            Self { addresses: Addresses::new(pool.parse().unwrap(), disk), disk, writes: 0 }
        }

        fn take(&mut self, used: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
            loop {
                match self.addresses.next(used)? {
                    Next::Given(address) => return Some(address),
                    Next::Cover(cover) => {
                        self.addresses.covered(cover);
                        self.disk = Some(cover.last);
                        self.writes += 1;
                    }
                }
            }
        }
    }

    /// Whenever the power is cut, the next agent gives what nobody had.
    #[test]
    fn after_a_power_cut_at_any_moment_an_address_that_nobody_had_comes_next() {
        let none = BTreeSet::new();
        for given in 1..300 {
            let mut before = Story::new("10.87.0.0/16", None);
            let had: BTreeSet<_> = (0..given).map(|_| before.take(&none).unwrap()).collect();
            let mut after = Story::new("10.87.0.0/16", before.disk);
            for _ in 0..10 {
                let next = after.take(&none).unwrap();
                assert!(!had.contains(&next), "{next} again after {given} were given");
            }
        }
    }

    #[test]
    fn one_write_is_for_many_and_less_of_a_small_pool() {
        let none = BTreeSet::new();
        let writes = |pool: &str, takes: u32| {
            let mut story = Story::new(pool, None);
            (0..takes).for_each(|_| assert!(story.take(&none).is_some()));
            story.writes
        };
        assert_eq!(writes("10.87.0.0/16", 1), 1);
        assert_eq!(writes("10.87.0.0/16", 64), 1);
        assert_eq!(writes("10.87.0.0/16", 200), 4);
        assert_eq!(writes("10.9.0.0/24", 8), 2);
        assert_eq!(writes("10.9.0.0/28", 8), 8);
    }

    /// Starts of the agent alone do not bring an address back.
    #[test]
    fn an_agent_that_begins_again_and_again_goes_round_all_the_same() {
        for (pool, starts) in [("10.87.0.0/16", 700), ("10.9.0.0/24", 40), ("10.9.0.0/28", 9)] {
            let none = BTreeSet::new();
            let (mut had, mut disk) = (BTreeSet::new(), None);
            for start in 0..starts {
                let mut story = Story::new(pool, disk);
                assert!(had.insert(story.take(&none).unwrap()), "{pool} at start {start}");
                disk = story.disk;
            }
        }
    }

    #[test]
    fn those_in_use_are_passed_over_and_a_full_pool_says_so() {
        let mut story = Story::new("10.9.0.0/28", None);
        let mut used = BTreeSet::from([Ipv4Addr::new(10, 9, 0, 3)]);
        while let Some(address) = story.take(&used) {
            assert!(used.insert(address), "{address}");
        }
        assert_eq!(used.len(), 10);
        used.remove(&Ipv4Addr::new(10, 9, 0, 7));
        assert_eq!(story.take(&used), Some(Ipv4Addr::new(10, 9, 0, 7)));
    }

    /// While one block is being written, others may find room in the one before.
    #[test]
    fn what_is_given_meanwhile_does_not_make_the_block_longer() {
        let none = BTreeSet::new();
        let mut addresses = Addresses::new("10.87.0.0/16".parse().unwrap(), None);
        let Some(Next::Cover(first)) = addresses.next(&none) else { panic!("not covered") };
        addresses.covered(first);
        let Some(Next::Given(_)) = addresses.next(&none) else { panic!("covered") };
        let most: BTreeSet<_> =
            (3..first.last.octets()[3] + 1).map(|last| Ipv4Addr::new(10, 87, 0, last)).collect();
        let Some(Next::Cover(second)) = addresses.next(&most) else { panic!("not covered") };
        let Some(Next::Given(_)) = addresses.next(&none) else { panic!("covered") };
        addresses.covered(second);
        let mut last = None;
        while let Some(Next::Given(address)) = addresses.next(&none) {
            last = Some(address);
        }
        assert_eq!(last, Some(second.last));
    }
}
