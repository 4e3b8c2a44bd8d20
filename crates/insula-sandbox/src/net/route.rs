//! Messages of rtnetlink: links, addresses, routes, neighbours.
//!
//! Only builds and reads messages; who sends them, and in which namespace, is decided in `host` and `attach`.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::config::Ipv4Cidr;
use super::netlink::{ACK, CREATE, DUMP, EXCLUSIVE, REQUEST};
use super::wire::{self, Message, Received};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_NEIGHBOUR: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const TYPE_UNICAST: u8 = 1;
const TYPE_UNREACHABLE: u8 = 7;
const NEXT_HOP_ON_LINK: u32 = 4;
const NEIGHBOUR_PERMANENT: u16 = 0x80;
const UP: u32 = libc::IFF_UP as u32;
const RUNNING: u32 = libc::IFF_RUNNING as u32;

const MAKE: u16 = REQUEST | ACK | CREATE | EXCLUSIVE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mac(pub(super) [u8; 6]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkIndex(pub(super) u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: LinkIndex,
    pub(super) name: String,
    pub(super) up: bool,
    /// The kernel has noticed that the other end is up as well.
    pub(super) running: bool,
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// A link without a partner, such as a dummy or an empty bridge.
pub(super) fn create_link(name: &str, kind: &str) -> Message {
    let mut message = Message::new(NEW_LINK, MAKE, &link_header(0, 0, 0));
    message.string(IFLA_IFNAME, name).nest(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_KIND, kind);
    });
    message
}

/// One end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    pub(super) mac: Mac,
}

/// A veth pair whose far end is born in another namespace, so that it never shows up in ours.
pub(super) fn create_veth(near: End<'_>, far: End<'_>, far_namespace: BorrowedFd<'_>) -> Message {
    // Descriptors are never negative; the kernel takes them as u32.
    let namespace = far_namespace.as_raw_fd().cast_unsigned();
    let mut message = Message::new(NEW_LINK, MAKE, &link_header(0, 0, 0));
    message.string(IFLA_IFNAME, near.name).attribute(IFLA_ADDRESS, &near.mac.0);
    message.nest(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |veth| {
            veth.nest(VETH_INFO_PEER, |peer| {
                peer.raw(&link_header(0, 0, 0))
                    .string(IFLA_IFNAME, far.name)
                    .attribute(IFLA_ADDRESS, &far.mac.0)
                    .host_u32(IFLA_NET_NS_FD, namespace);
            });
        });
    });
    message
}

pub(super) fn delete_link(name: &str) -> Message {
    let mut message = Message::new(DELETE_LINK, REQUEST | ACK, &link_header(0, 0, 0));
    message.string(IFLA_IFNAME, name);
    message
}

pub(super) fn raise_link(name: &str) -> Message {
    let mut message = Message::new(SET_LINK, REQUEST | ACK, &link_header(0, UP, UP));
    message.string(IFLA_IFNAME, name);
    message
}

/// Keeps IPv6 from giving the link an address by itself. Must be sent before the link goes up, and only
/// where the kernel has IPv6 at all.
pub(super) fn no_ipv6_address(name: &str) -> Message {
    let mut message = Message::new(SET_LINK, REQUEST | ACK, &link_header(0, 0, 0));
    message.string(IFLA_IFNAME, name).nest(IFLA_AF_SPEC, |families| {
        families.nest(libc::AF_INET6 as u16, |inet6| {
            inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
        });
    });
    message
}

pub(super) fn find_link(name: &str) -> Message {
    let mut message = Message::new(GET_LINK, REQUEST | ACK, &link_header(0, 0, 0));
    message.string(IFLA_IFNAME, name);
    message
}

pub(super) fn list_links() -> Message {
    Message::new(GET_LINK, REQUEST | DUMP, &link_header(0, 0, 0))
}

pub(super) fn read_link(received: Received<'_>) -> Option<Link> {
    if received.kind != NEW_LINK {
        return None;
    }
    let flags = wire::host_u32(received.body.get(8..12)?)?;
    Some(Link {
        index: LinkIndex(wire::host_u32(received.body.get(4..8)?)?),
        up: flags & UP != 0,
        running: flags & RUNNING != 0,
        name: wire::text(wire::attribute(received.body.get(16..)?, IFLA_IFNAME)?),
    })
}

/// An address of its own, without a subnet around it.
pub(super) fn add_address(link: LinkIndex, address: Ipv4Addr) -> Message {
    address_message(NEW_ADDRESS, MAKE, link, address)
}

pub(super) fn delete_address(link: LinkIndex, address: Ipv4Addr) -> Message {
    address_message(DELETE_ADDRESS, REQUEST | ACK, link, address)
}

fn address_message(kind: u16, flags: u16, link: LinkIndex, address: Ipv4Addr) -> Message {
    let mut header = [0; 8];
    header[0] = libc::AF_INET as u8;
    header[1] = 32;
    header[4..8].copy_from_slice(&link.0.to_ne_bytes());
    let mut message = Message::new(kind, flags, &header);
    message.attribute(IFA_LOCAL, &address.octets()).attribute(IFA_ADDRESS, &address.octets());
    message
}

pub(super) fn list_addresses() -> Message {
    let mut header = [0; 8];
    header[0] = libc::AF_INET as u8;
    Message::new(GET_ADDRESS, REQUEST | DUMP, &header)
}

pub(super) fn read_address(received: Received<'_>) -> Option<(LinkIndex, Ipv4Addr)> {
    if received.kind != NEW_ADDRESS {
        return None;
    }
    let link = LinkIndex(wire::host_u32(received.body.get(4..8)?)?);
    let octets: [u8; 4] = wire::attribute(received.body.get(8..)?, IFA_LOCAL)?.try_into().ok()?;
    Some((link, octets.into()))
}

/// `struct rtmsg`.
fn route_header(prefix: u8, scope: u8, kind: u8, flags: u32) -> [u8; 12] {
    let [a, b, c, d] = flags.to_ne_bytes();
    [libc::AF_INET as u8, prefix, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, scope, kind, a, b, c, d]
}

/// One address directly behind a link; `source` is what the host calls itself towards it.
pub(super) fn route_to(address: Ipv4Addr, link: LinkIndex, source: Option<Ipv4Addr>) -> Message {
    let mut message = Message::new(NEW_ROUTE, MAKE, &route_header(32, SCOPE_LINK, TYPE_UNICAST, 0));
    message.attribute(RTA_DST, &address.octets()).host_u32(RTA_OIF, link.0);
    if let Some(source) = source {
        message.attribute(RTA_PREFSRC, &source.octets());
    }
    message
}

pub(super) fn default_route(gateway: Ipv4Addr, link: LinkIndex) -> Message {
    let header = route_header(0, SCOPE_UNIVERSE, TYPE_UNICAST, NEXT_HOP_ON_LINK);
    let mut message = Message::new(NEW_ROUTE, MAKE, &header);
    message.attribute(RTA_GATEWAY, &gateway.octets()).host_u32(RTA_OIF, link.0);
    message
}

/// An address of the pool that no instance has is nowhere: without this it would be looked for at the
/// host's own default gateway, and a stranger could answer for an app that has just ended.
pub(super) fn nowhere(pool: Ipv4Cidr) -> Message {
    let header = route_header(pool.prefix(), SCOPE_UNIVERSE, TYPE_UNREACHABLE, 0);
    let mut message = Message::new(NEW_ROUTE, MAKE, &header);
    message.attribute(RTA_DST, &pool.base().octets());
    message
}

pub(super) fn not_nowhere(pool: Ipv4Cidr) -> Message {
    let header = route_header(pool.prefix(), SCOPE_UNIVERSE, TYPE_UNREACHABLE, 0);
    let mut message = Message::new(DELETE_ROUTE, REQUEST | ACK, &header);
    message.attribute(RTA_DST, &pool.base().octets());
    message
}

/// Who answers to an address is written down, so that nobody has to ask (or may lie) by ARP.
pub(super) fn neighbour(address: Ipv4Addr, mac: Mac, link: LinkIndex) -> Message {
    let mut header = [0; 12];
    header[0] = libc::AF_INET as u8;
    header[4..8].copy_from_slice(&link.0.to_ne_bytes());
    header[8..10].copy_from_slice(&NEIGHBOUR_PERMANENT.to_ne_bytes());
    let mut message = Message::new(NEW_NEIGHBOUR, MAKE, &header);
    message.attribute(NDA_DST, &address.octets()).attribute(NDA_LLADDR, &mac.0);
    message
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_is_these_bytes() {
        let message = default_route(Ipv4Addr::new(10, 87, 0, 1), LinkIndex(5));
        #[rustfmt::skip]
        assert_eq!(message.seal(1), [
            44, 0, 0, 0,  24, 0,  0x05, 0x06,  1, 0, 0, 0,  0, 0, 0, 0,
            2, 0, 0, 0,  254, 4, 0, 1,  4, 0, 0, 0, // inet, /0, main, static, universe, unicast, on-link
            8, 0,  5, 0,  10, 87, 0, 1,
            8, 0,  4, 0,  5, 0, 0, 0,
        ]);
    }

    #[test]
    fn a_neighbour_is_these_bytes() {
        let mac = Mac([2, 1, 10, 87, 0, 9]);
        let message = neighbour(Ipv4Addr::new(10, 87, 0, 9), mac, LinkIndex(7));
        #[rustfmt::skip]
        assert_eq!(message.seal(3), [
            48, 0, 0, 0,  28, 0,  0x05, 0x06,  3, 0, 0, 0,  0, 0, 0, 0,
            2, 0, 0, 0,  7, 0, 0, 0,  0x80, 0, 0, 0,
            8, 0,  1, 0,  10, 87, 0, 9,
            10, 0,  2, 0,  2, 1, 10, 87, 0, 9, 0, 0,
        ]);
    }

    #[test]
    fn a_link_is_read_back() {
        let mut message = Message::new(NEW_LINK, 0, &link_header(9, UP, 0));
        message.string(IFLA_IFNAME, "ins-a-0002");
        let bytes = message.seal(1);
        let link = wire::messages(&bytes).find_map(read_link);
        let expected =
            Link { index: LinkIndex(9), name: "ins-a-0002".to_owned(), up: true, running: false };
        assert_eq!(link, Some(expected));
    }
}
