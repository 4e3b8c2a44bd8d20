//! Which address of this host stands for which instance of another node. Pure.
//!
//! Made of the instance's id, so that an agent that was started again most likely gives the same
//! one: clients remember addresses for longer than we run.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use insula_model::InstanceId;
use insula_sandbox::net::Ipv4Cidr;

/// The first free one from the place that the id points to. Nothing when all are taken.
pub fn slot(range: Ipv4Cidr, id: InstanceId, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let size = 1_u32.checked_shl(32 - u32::from(range.prefix()))?;
    // The first and the last one look like a network's own to whoever expects a subnet.
    let count = size.checked_sub(2).filter(|count| *count > 0)?;
    // The low bits are random, and those of instances that were made together follow each other.
    let first = (id.as_u128() % u128::from(count)) as u32;
    (0..count)
        .map(|step| {
            let place = (u64::from(first) + u64::from(step)) % u64::from(count);
            Ipv4Addr::from_bits(range.base().to_bits() + 1 + place as u32)
        })
        .find(|address| !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> InstanceId {
        InstanceId::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000).nth(n)
    }

    #[test]
    fn an_id_has_the_same_address_again_and_no_two_share_one() {
        let range: Ipv4Cidr = "10.87.192.0/18".parse().unwrap();
        let mut taken = BTreeSet::new();
        for n in 0..500 {
            let address = slot(range, id(n * 40_503), &taken).unwrap();
            assert!(range.contains(address) && address != range.base());
            assert!(taken.insert(address));
        }
        let none = BTreeSet::new();
        assert_eq!(slot(range, id(7), &none), slot(range, id(7), &none));
        assert_ne!(slot(range, id(7), &none), slot(range, id(8), &none));
    }

    #[test]
    fn a_small_range_is_used_to_the_last_and_then_says_so() {
        let range: Ipv4Cidr = "10.9.0.12/30".parse().unwrap();
        let mut taken = BTreeSet::new();
        for n in 0..2 {
            taken.insert(slot(range, id(5 + n), &taken).unwrap());
        }
        let last_bytes: Vec<u8> = taken.iter().map(|address| address.octets()[3]).collect();
        assert_eq!(last_bytes, [13, 14]);
        assert_eq!(slot(range, id(1), &taken), None);
    }
}
