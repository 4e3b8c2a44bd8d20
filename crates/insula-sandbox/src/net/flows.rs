//! Makes the kernel's connection tracking forget an address that goes back to the pool.
//!
//! Without this, whoever talked to the old owner could go on talking to the next one: each packet from
//! outside keeps a tracked flow alive, and answers of a known flow are let in.

use std::net::Ipv4Addr;

use super::error::{NetError, tolerate};
use super::netlink::{ACK, DUMP, REQUEST, Socket};
use super::wire::{self, Message, Received};

const NEW_FLOW: u16 = 1 << 8;
const GET_FLOW: u16 = NEW_FLOW | 1;
const DELETE_FLOW: u16 = NEW_FLOW | 2;
const FAMILY_HEADER: [u8; 4] = [libc::AF_INET as u8, 0, 0, 0];

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;

/// Which address of a flow's first packet is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

impl Side {
    fn attribute(self) -> u16 {
        match self {
            Self::Source => 1,
            Self::Destination => 2,
        }
    }

    /// The bit that makes a kernel filter by this address.
    fn filter(self) -> u32 {
        match self {
            Self::Source => 1,
            Self::Destination => 2,
        }
    }
}

/// Deletes one flow at a time, by its own tuple and id: a request to flush with a filter is taken for a
/// request to flush everything by kernels that do not know the filter.
pub(super) fn forget(socket: &mut Socket, address: Ipv4Addr) -> Result<(), NetError> {
    for side in [Side::Source, Side::Destination] {
        let mut doomed = Vec::new();
        let request = list(address, side);
        socket.dump(&format!("list the flows of {address}"), request, |received| {
            doomed.extend(delete(received, address, side));
        })?;
        for flow in doomed {
            let deleted =
                socket.transact(&format!("forget a flow of {address}"), vec![flow], |_| {});
            // It may have ended by itself meanwhile.
            tolerate(deleted, &[libc::ENOENT])?;
        }
    }
    Ok(())
}

fn list(address: Ipv4Addr, side: Side) -> Message {
    let mut message = Message::new(GET_FLOW, REQUEST | DUMP, &FAMILY_HEADER);
    message.nest(CTA_TUPLE_ORIG, |tuple| {
        tuple.nest(CTA_TUPLE_IP, |ip| {
            ip.attribute(side.attribute(), &address.octets());
        });
    });
    message.nest(CTA_FILTER, |filter| {
        filter.host_u32(CTA_FILTER_ORIG_FLAGS, side.filter());
    });
    message
}

/// The request that deletes a listed flow; `None` when the kernel did not filter and it is another's.
fn delete(received: Received<'_>, address: Ipv4Addr, side: Side) -> Option<Message> {
    if received.kind != NEW_FLOW {
        return None;
    }
    let body = received.body.get(FAMILY_HEADER.len()..)?;
    let tuple = wire::attribute(body, CTA_TUPLE_ORIG)?;
    let found = wire::attribute(wire::attribute(tuple, CTA_TUPLE_IP)?, side.attribute())?;
    if found != address.octets() {
        return None;
    }
    let mut message = Message::new(DELETE_FLOW, REQUEST | ACK, &FAMILY_HEADER);
    message.nest(CTA_TUPLE_ORIG, |copy| {
        copy.raw(tuple);
    });
    for kind in [CTA_ID, CTA_ZONE] {
        if let Some(value) = wire::attribute(body, kind) {
            message.attribute(kind, value);
        }
    }
    Some(message)
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    const MINE: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 2);

    #[test]
    fn a_filtered_list_is_these_bytes() {
        #[rustfmt::skip]
        assert_eq!(list(MINE, Side::Source).seal(1)[16..], [
            2, 0, 0, 0,
            16, 0,  1, 0x80,
            12, 0,  1, 0x80,
            8, 0,  1, 0,  10, 87, 0, 2,
            12, 0,  25, 0x80,
            8, 0,  1, 0,  1, 0, 0, 0,
        ][..]);
    }

    #[test]
    fn a_flow_of_somebody_else_is_left_alone() {
        let mut listed = list(MINE, Side::Source).seal(1);
        listed[4..6].copy_from_slice(&NEW_FLOW.to_ne_bytes());
        let received = || wire::messages(&listed).next().unwrap();
        assert!(delete(received(), MINE, Side::Source).is_some());
        assert!(delete(received(), Ipv4Addr::new(10, 87, 0, 3), Side::Source).is_none());
        assert!(delete(received(), MINE, Side::Destination).is_none());
    }
}
