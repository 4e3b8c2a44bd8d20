//! Sets and maps, and the elements in which attachments are registered.

use std::net::Ipv4Addr;

use super::expression::write_value;
use super::{FAMILY_HEADER_BYTES, Family, SUBSYSTEM, header};
use crate::net::netlink::{ACK, CREATE, DUMP, EXCLUSIVE, REQUEST};
use crate::net::wire::{self, Message, Received};

const NEW_SET: u16 = SUBSYSTEM | 9;
const GET_SET: u16 = SUBSYSTEM | 10;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;

/// An interface's name in a key: 15 characters and zeros.
const NAME_BYTES: usize = 16;

/// Some 200 elements of our sets make a list of at most 20 KiB, far below an attribute's limit.
const ELEMENTS_PER_MESSAGE: usize = 200;
const _: () = assert!(ELEMENTS_PER_MESSAGE * 64 < wire::ATTRIBUTE_BYTES_MAX);

/// Types in `nft`'s numbering, so that it can list our sets.
const TYPE_ADDRESS: u32 = 7;
const TYPE_PORT: u32 = 13;
const TYPE_MARK: u32 = 19;
const TYPE_NAME: u32 = 41;
const TYPE_BITS: u32 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum SetKind {
    /// Interface name . address → mark.
    NameAndAddressToMark,
    /// Address . mark.
    AddressAndMark,
    /// Address . port . mark.
    AddressPortAndMark,
    /// Address, filled by rules that count.
    CountedAddress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) struct Set {
    pub(in crate::net) name: &'static str,
    pub(in crate::net) kind: SetKind,
}

pub(in crate::net) fn add_set(family: Family, table: &str, set: Set, id: u32) -> Message {
    const IS_MAP: u32 = 8;
    const IS_DYNAMIC: u32 = 0x20;
    let mut message = Message::new(NEW_SET, REQUEST | ACK | CREATE, &header(family));
    message.string(1, table).string(2, set.name);
    match set.kind {
        SetKind::NameAndAddressToMark => {
            message.net_u32(3, IS_MAP);
            message.net_u32(4, TYPE_NAME << TYPE_BITS | TYPE_ADDRESS).net_u32(5, 20);
            message.net_u32(6, TYPE_MARK).net_u32(7, 4);
            // Tells `nft` in its own terms that the values are in host order, as marks are.
            const DATA_ORDER: u8 = 1;
            const HOST_ORDER: u32 = 1;
            let [a, b, c, d] = HOST_ORDER.to_ne_bytes();
            message.attribute(13, &[DATA_ORDER, 4, a, b, c, d]);
        }
        SetKind::AddressAndMark => {
            message.net_u32(3, 0);
            message.net_u32(4, TYPE_ADDRESS << TYPE_BITS | TYPE_MARK).net_u32(5, 8);
        }
        SetKind::AddressPortAndMark => {
            let kinds = (TYPE_ADDRESS << TYPE_BITS | TYPE_PORT) << TYPE_BITS | TYPE_MARK;
            message.net_u32(3, 0).net_u32(4, kinds).net_u32(5, 12);
        }
        SetKind::CountedAddress => {
            message.net_u32(3, IS_DYNAMIC).net_u32(4, TYPE_ADDRESS).net_u32(5, 4);
            message.nest(9, |description| {
                description.net_u32(1, COUNTED_MAX);
            });
        }
    }
    message.net_u32(10, id);
    message
}

/// As many as the largest pool has addresses.
const COUNTED_MAX: u32 = 1 << 16;

pub(in crate::net) fn list_sets(family: Family, table: &str) -> Message {
    let mut message = Message::new(GET_SET, REQUEST | DUMP, &header(family));
    message.string(1, table);
    message
}

pub(in crate::net) fn read_set(received: Received<'_>) -> Option<String> {
    if received.kind != NEW_SET {
        return None;
    }
    Some(wire::text(wire::attribute(received.body.get(FAMILY_HEADER_BYTES..)?, 2)?))
}

/// An element as bytes: its key, and its value in a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::net) struct Element {
    pub(in crate::net) key: Vec<u8>,
    pub(in crate::net) value: Option<Vec<u8>>,
}

/// Refused as a whole when one of them is there already.
pub(in crate::net) fn add_elements(
    family: Family,
    table: &str,
    set: &str,
    elements: &[Element],
) -> Vec<Message> {
    elements_messages(NEW_ELEMENT, REQUEST | ACK | CREATE | EXCLUSIVE, family, table, set, elements)
}

/// Refused as a whole when one of them is missing.
pub(in crate::net) fn delete_elements(
    family: Family,
    table: &str,
    set: &str,
    elements: &[Element],
) -> Vec<Message> {
    let keys: Vec<_> =
        elements.iter().map(|it| Element { key: it.key.clone(), value: None }).collect();
    elements_messages(DELETE_ELEMENT, REQUEST | ACK, family, table, set, &keys)
}

fn elements_messages(
    kind: u16,
    flags: u16,
    family: Family,
    table: &str,
    set: &str,
    elements: &[Element],
) -> Vec<Message> {
    let chunks = elements.chunks(ELEMENTS_PER_MESSAGE);
    chunks.map(|chunk| elements_message(kind, flags, family, table, set, chunk)).collect()
}

fn elements_message(
    kind: u16,
    flags: u16,
    family: Family,
    table: &str,
    set: &str,
    elements: &[Element],
) -> Message {
    let mut message = Message::new(kind, flags, &header(family));
    message.string(1, table).string(2, set).nest(3, |list| {
        for element in elements {
            list.nest(1, |fields| {
                fields.nest(1, |data| write_value(data, &element.key));
                if let Some(value) = &element.value {
                    fields.nest(2, |data| write_value(data, value));
                }
            });
        }
    });
    message
}

pub(in crate::net) fn list_elements(family: Family, table: &str, set: &str) -> Message {
    let mut message = Message::new(GET_ELEMENT, REQUEST | DUMP, &header(family));
    message.string(1, table).string(2, set);
    message
}

pub(in crate::net) fn read_elements(received: Received<'_>) -> Vec<Element> {
    if received.kind != NEW_ELEMENT {
        return Vec::new();
    }
    let list = received
        .body
        .get(FAMILY_HEADER_BYTES..)
        .and_then(|body| wire::attribute(body, 3))
        .unwrap_or(&[]);
    let value = |fields: &[u8], kind| {
        wire::attribute(wire::attribute(fields, kind)?, 1).map(<[u8]>::to_vec)
    };
    wire::attributes(list)
        .filter_map(|(_, fields)| Some(Element { key: value(fields, 1)?, value: value(fields, 2) }))
        .collect()
}

/// An interface's name as it stands in a key.
fn name_key(name: &str) -> [u8; NAME_BYTES] {
    let mut key = [0; NAME_BYTES];
    let length = name.len().min(NAME_BYTES - 1);
    key[..length].copy_from_slice(&name.as_bytes()[..length]);
    key
}

pub(in crate::net) fn source_element(interface: &str, address: Ipv4Addr, mark: u32) -> Element {
    let mut key = name_key(interface).to_vec();
    key.extend_from_slice(&address.octets());
    Element { key, value: Some(mark.to_ne_bytes().to_vec()) }
}

pub(in crate::net) fn member_element(address: Ipv4Addr, mark: u32) -> Element {
    let mut key = address.octets().to_vec();
    key.extend_from_slice(&mark.to_ne_bytes());
    Element { key, value: None }
}

/// Each part of a key begins at a word of its own.
pub(in crate::net) fn remote_element(address: Ipv4Addr, port: u16, mark: u32) -> Element {
    let mut key = address.octets().to_vec();
    key.extend_from_slice(&port.to_be_bytes());
    key.extend_from_slice(&[0; 2]);
    key.extend_from_slice(&mark.to_ne_bytes());
    Element { key, value: None }
}

/// Of members and of remotes: the address comes first.
pub(in crate::net) fn member_address(element: &Element) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = element.key.get(..4)?.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_these_bytes_and_is_read_back() {
        let element = source_element("ins-a-0002", Ipv4Addr::new(10, 87, 0, 2), 7);
        let messages = add_elements(Family::Inet, "t", "s", std::slice::from_ref(&element));
        assert_eq!(messages.len(), 1);
        let bytes = messages.into_iter().next().unwrap().seal(1);
        #[rustfmt::skip]
        assert_eq!(bytes[16..], [
            1, 0, 0, 0,
            6, 0,  1, 0,  b't', 0, 0, 0,
            6, 0,  2, 0,  b's', 0, 0, 0,
            48, 0,  3, 0x80,
            44, 0,  1, 0x80,
            28, 0,  1, 0x80,
            24, 0,  1, 0,
            b'i', b'n', b's', b'-', b'a', b'-', b'0', b'0', b'0', b'2', 0, 0, 0, 0, 0, 0,
            10, 87, 0, 2,
            12, 0,  2, 0x80,
            8, 0,  1, 0,  7, 0, 0, 0,
        ][..]);
        let read: Vec<_> = wire::messages(&bytes).flat_map(read_elements).collect();
        assert_eq!(read, [element]);
    }

    #[test]
    fn many_elements_travel_in_several_messages() {
        let elements: Vec<_> =
            (0..450).map(|number| member_element(Ipv4Addr::from_bits(number), 1)).collect();
        assert_eq!(add_elements(Family::Inet, "t", "s", &elements).len(), 3);
    }
}
