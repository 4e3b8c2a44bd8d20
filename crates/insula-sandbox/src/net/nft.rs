//! Messages of nf_tables: tables, chains, rules and their expressions, sets and their elements.
//!
//! Only builds and reads messages; which rules there are is written in `rules`.

use std::net::Ipv4Addr;

use super::config::Ipv4Cidr;
use super::netlink::{ACK, APPEND, CREATE, DUMP, EXCLUSIVE, REQUEST};
use super::wire::{self, Message, Received};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const DELETE_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const GET_SET: u16 = SUBSYSTEM | 10;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;

/// `struct nfgenmsg`.
const FAMILY_HEADER_BYTES: usize = 4;
/// An interface's name in a key: 15 characters and zeros.
pub(super) const NAME_BYTES: usize = 16;

/// Some 200 elements of our sets make a list of at most 20 KiB, far below an attribute's limit.
const ELEMENTS_PER_MESSAGE: usize = 200;
const _: () = assert!(ELEMENTS_PER_MESSAGE * 64 < wire::ATTRIBUTE_BYTES_MAX);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Inet,
    Ipv4,
    Other(u8),
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Inet,
            2 => Self::Ipv4,
            other => Self::Other(other),
        }
    }
}

fn header(family: Family) -> [u8; FAMILY_HEADER_BYTES] {
    [family.number(), 0, 0, 0]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    PreRouting,
    Input,
    Forward,
    PostRouting,
}

impl Hook {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::PreRouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::PostRouting => 4,
        }
    }
}

/// Where a base chain hangs; all of ours accept what no rule of theirs decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) kind: &'static str,
    pub(super) hook: Hook,
    pub(super) priority: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) base: Option<Base>,
}

/// Registers are numbered in words of four bytes (`NFT_REG32_00` and on).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Register(u32);

impl Register {
    pub(super) const fn word(index: u32) -> Self {
        assert!(index < 16);
        Self(8 + index)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meta {
    IncomingName,
    OutgoingName,
    NetworkProtocol,
    TransportProtocol,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Jump(&'static str),
}

impl Verdict {
    fn code(&self) -> u32 {
        match self {
            Self::Drop => 0,
            Self::Accept => ACCEPT,
            Self::Jump(_) => (-3_i32).cast_unsigned(),
        }
    }
}

/// What a rule does, step by step; a comparison or look-up that fails ends the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    LoadMeta {
        what: Meta,
        into: Register,
    },
    LoadNetwork {
        offset: u32,
        length: u32,
        into: Register,
    },
    LoadTransport {
        offset: u32,
        length: u32,
        into: Register,
    },
    LoadConnectionState {
        into: Register,
    },
    LoadMark {
        into: Register,
    },
    StoreMark {
        from: Register,
    },
    Constant {
        value: [u8; 4],
        into: Register,
    },
    Mask {
        register: Register,
        mask: [u8; 4],
    },
    Equal {
        register: Register,
        value: Vec<u8>,
    },
    NotEqual {
        register: Register,
        value: Vec<u8>,
    },
    Find {
        set: &'static str,
        key: Register,
    },
    Map {
        map: &'static str,
        key: Register,
        into: Register,
    },
    /// Holds when the key's owner has more tracked flows than the limit; keeps count in the set.
    FlowsOver {
        set: &'static str,
        key: Register,
        limit: u32,
    },
    /// Holds when the key's owner sends more packets than this; keeps count in the set.
    PacketsOver {
        set: &'static str,
        key: Register,
        per_second: u64,
        burst: u32,
    },
    Reset,
    Unreachable,
    Masquerade,
    Decide(Verdict),
}

impl Expression {
    fn write(&self, list: &mut Message) {
        list.nest(1, |element| {
            element.string(1, self.name()).nest(2, |fields| self.write_fields(fields));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::LoadMeta { .. } | Self::LoadMark { .. } | Self::StoreMark { .. } => "meta",
            Self::LoadNetwork { .. } | Self::LoadTransport { .. } => "payload",
            Self::LoadConnectionState { .. } => "ct",
            Self::Mask { .. } => "bitwise",
            Self::Equal { .. } | Self::NotEqual { .. } => "cmp",
            Self::Find { .. } | Self::Map { .. } => "lookup",
            Self::FlowsOver { .. } | Self::PacketsOver { .. } => "dynset",
            Self::Reset | Self::Unreachable => "reject",
            Self::Masquerade => "masq",
            Self::Constant { .. } | Self::Decide(_) => "immediate",
        }
    }

    fn write_fields(&self, fields: &mut Message) {
        match self {
            Self::LoadMeta { what, into } => {
                let key = match what {
                    Meta::IncomingName => 6,
                    Meta::OutgoingName => 7,
                    Meta::NetworkProtocol => 15,
                    Meta::TransportProtocol => 16,
                };
                fields.net_u32(1, into.0).net_u32(2, key);
            }
            Self::LoadNetwork { offset, length, into } => {
                fields.net_u32(1, into.0).net_u32(2, 1).net_u32(3, *offset).net_u32(4, *length);
            }
            Self::LoadTransport { offset, length, into } => {
                fields.net_u32(1, into.0).net_u32(2, 2).net_u32(3, *offset).net_u32(4, *length);
            }
            Self::LoadConnectionState { into } => {
                fields.net_u32(1, into.0).net_u32(2, 0);
            }
            Self::LoadMark { into } => {
                fields.net_u32(1, into.0).net_u32(2, META_MARK);
            }
            Self::StoreMark { from } => {
                fields.net_u32(3, from.0).net_u32(2, META_MARK);
            }
            Self::Constant { value, into } => {
                fields.net_u32(1, into.0).nest(2, |data| write_value(data, value));
            }
            Self::Mask { register, mask } => {
                fields.net_u32(1, register.0).net_u32(2, register.0).net_u32(3, 4);
                fields.nest(4, |data| write_value(data, mask));
                fields.nest(5, |data| write_value(data, &[0; 4]));
            }
            Self::Equal { register, value } => {
                fields.net_u32(1, register.0).net_u32(2, 0);
                fields.nest(3, |data| write_value(data, value));
            }
            Self::NotEqual { register, value } => {
                fields.net_u32(1, register.0).net_u32(2, 1);
                fields.nest(3, |data| write_value(data, value));
            }
            Self::Find { set, key } => {
                fields.string(1, set).net_u32(2, key.0);
            }
            Self::Map { map, key, into } => {
                fields.string(1, map).net_u32(2, key.0).net_u32(3, into.0);
            }
            Self::FlowsOver { set, key, limit } => {
                write_counted(fields, set, *key, "connlimit", |count| {
                    count.net_u32(1, *limit).net_u32(2, OVER);
                });
            }
            Self::PacketsOver { set, key, per_second, burst } => {
                write_counted(fields, set, *key, "limit", |rate| {
                    rate.attribute(1, &per_second.to_be_bytes()).attribute(2, &1_u64.to_be_bytes());
                    rate.net_u32(3, *burst).net_u32(4, 0).net_u32(5, OVER);
                });
            }
            Self::Reset => {
                fields.net_u32(1, 1);
            }
            Self::Unreachable => {
                // Family-independent "administratively prohibited".
                fields.net_u32(1, 2).attribute(2, &[3]);
            }
            Self::Masquerade => {}
            Self::Decide(verdict) => {
                fields.net_u32(1, 0).nest(2, |data| {
                    data.nest(2, |written| {
                        written.net_u32(1, verdict.code());
                        if let Verdict::Jump(chain) = verdict {
                            written.string(2, chain);
                        }
                    });
                });
            }
        }
    }
}

const META_MARK: u32 = 3;

/// The flag of a limit that turns "up to" into "more than".
const OVER: u32 = 1;

/// An expression that the kernel keeps once for each key of a set.
fn write_counted(
    fields: &mut Message,
    set: &str,
    key: Register,
    name: &str,
    fill: impl FnOnce(&mut Message),
) {
    const ADD: u32 = 0;
    fields.string(1, set).net_u32(3, ADD).net_u32(4, key.0).nest(7, |counted| {
        counted.string(1, name).nest(2, fill);
    });
}

fn write_value(data: &mut Message, value: &[u8]) {
    data.attribute(1, value);
}

/// A rule and the name under which it is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) chain: &'static str,
    pub(super) name: String,
    pub(super) steps: Vec<Expression>,
}

impl Rule {
    /// Shown by `nft list` as the rule's comment. Says who wrote the rule, and by a fingerprint of its
    /// steps what it did when it was written: rules cannot be changed in place, only replaced.
    pub(super) fn comment(&self) -> String {
        let mut steps = Message::new(0, 0, &[]);
        for step in &self.steps {
            step.write(&mut steps);
        }
        format!("insula {} {:016x}", self.name, fnv1a(steps.body()))
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

pub(super) fn add_table(family: Family, table: &str) -> Message {
    let mut message = Message::new(NEW_TABLE, REQUEST | ACK | CREATE, &header(family));
    // Flags 0 also wake a table that somebody put to sleep.
    message.string(1, table).net_u32(2, 0);
    message
}

pub(super) fn delete_table(family: Family, table: &str) -> Message {
    let mut message = Message::new(DELETE_TABLE, REQUEST | ACK, &header(family));
    message.string(1, table);
    message
}

pub(super) fn list_tables(family: Family) -> Message {
    Message::new(GET_TABLE, REQUEST | DUMP, &header(family))
}

/// Name, and whether the table is awake.
pub(super) fn read_table(received: Received<'_>) -> Option<(String, bool)> {
    if received.kind != NEW_TABLE {
        return None;
    }
    let body = received.body.get(FAMILY_HEADER_BYTES..)?;
    let flags = wire::attribute(body, 2).and_then(wire::net_u32).unwrap_or(0);
    Some((wire::text(wire::attribute(body, 1)?), flags & 1 == 0))
}

/// A base chain of ours accepts what no rule decides: packets of others are none of our business.
pub(super) fn add_chain(family: Family, table: &str, chain: Chain) -> Message {
    add_chain_with_policy(family, table, chain, Verdict::Accept)
}

pub(super) fn add_chain_with_policy(
    family: Family,
    table: &str,
    chain: Chain,
    policy: Verdict,
) -> Message {
    let mut message = Message::new(NEW_CHAIN, REQUEST | ACK | CREATE, &header(family));
    message.string(1, table).string(3, chain.name);
    if let Some(base) = chain.base {
        message.nest(4, |hook| {
            hook.net_u32(1, base.hook.number()).net_u32(2, base.priority.cast_unsigned());
        });
        message.net_u32(5, policy.code()).string(7, base.kind);
    }
    message
}

const ACCEPT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChainSeen {
    pub(super) family: Family,
    pub(super) table: String,
    pub(super) name: String,
    /// Hook and priority of a base chain.
    pub(super) hook: Option<(u32, i32)>,
    pub(super) accepts: bool,
    pub(super) kind: Option<String>,
}

pub(super) fn list_chains(family: Family) -> Message {
    Message::new(GET_CHAIN, REQUEST | DUMP, &header(family))
}

pub(super) fn read_chain(received: Received<'_>) -> Option<ChainSeen> {
    if received.kind != NEW_CHAIN {
        return None;
    }
    let body = received.body.get(FAMILY_HEADER_BYTES..)?;
    let hook = wire::attribute(body, 4).and_then(|hook| {
        let number = wire::net_u32(wire::attribute(hook, 1)?)?;
        Some((number, wire::net_u32(wire::attribute(hook, 2)?)?.cast_signed()))
    });
    Some(ChainSeen {
        family: Family::from_number(*received.body.first()?),
        table: wire::text(wire::attribute(body, 1)?),
        name: wire::text(wire::attribute(body, 3)?),
        hook,
        accepts: wire::attribute(body, 5).and_then(wire::net_u32).is_none_or(|it| it == ACCEPT),
        kind: wire::attribute(body, 7).map(wire::text),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Last,
}

pub(super) fn add_rule(family: Family, table: &str, rule: &Rule, place: Place) -> Message {
    let flags = match place {
        Place::First => REQUEST | ACK | CREATE,
        Place::Last => REQUEST | ACK | CREATE | APPEND,
    };
    let mut message = Message::new(NEW_RULE, flags, &header(family));
    message.string(1, table).string(2, rule.chain).nest(4, |list| {
        for step in &rule.steps {
            step.write(list);
        }
    });
    message.attribute(7, &comment_bytes(&rule.comment()));
    message
}

/// The form in which `nft` keeps a comment: type 0, length, text with its zero byte.
fn comment_bytes(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len() + 1).expect("our comments are short");
    let mut bytes = vec![0, length];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}

/// All rules of a table at once.
pub(super) fn delete_rules(family: Family, table: &str) -> Message {
    let mut message = Message::new(DELETE_RULE, REQUEST | ACK, &header(family));
    message.string(1, table);
    message
}

pub(super) fn delete_rule(family: Family, table: &str, chain: &str, handle: u64) -> Message {
    let mut message = Message::new(DELETE_RULE, REQUEST | ACK, &header(family));
    message.string(1, table).string(2, chain).attribute(3, &handle.to_be_bytes());
    message
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RuleSeen {
    pub(super) chain: String,
    pub(super) handle: u64,
    pub(super) comment: Option<String>,
}

pub(super) fn list_rules(family: Family, table: &str) -> Message {
    let mut message = Message::new(GET_RULE, REQUEST | DUMP, &header(family));
    message.string(1, table);
    message
}

/// `None` for a rule of another table: old kernels list all of them.
pub(super) fn read_rule(table: &str, received: Received<'_>) -> Option<RuleSeen> {
    if received.kind != NEW_RULE {
        return None;
    }
    let body = received.body.get(FAMILY_HEADER_BYTES..)?;
    if wire::text(wire::attribute(body, 1)?) != table {
        return None;
    }
    let comment = wire::attribute(body, 7)
        .filter(|bytes| bytes.len() > 2 && bytes[0] == 0)
        .map(|bytes| wire::text(&bytes[2..]));
    Some(RuleSeen {
        chain: wire::text(wire::attribute(body, 2)?),
        handle: u64::from_be_bytes(wire::attribute(body, 3)?.try_into().ok()?),
        comment,
    })
}

/// Types in `nft`'s numbering, so that it can list our sets.
const TYPE_ADDRESS: u32 = 7;
const TYPE_MARK: u32 = 19;
const TYPE_NAME: u32 = 41;
const TYPE_BITS: u32 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetKind {
    /// Interface name . address → mark.
    NameAndAddressToMark,
    /// Address . mark.
    AddressAndMark,
    /// Address, filled by rules that count.
    CountedAddress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) kind: SetKind,
}

pub(super) fn add_set(family: Family, table: &str, set: Set, id: u32) -> Message {
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

pub(super) fn list_sets(family: Family, table: &str) -> Message {
    let mut message = Message::new(GET_SET, REQUEST | DUMP, &header(family));
    message.string(1, table);
    message
}

pub(super) fn read_set(received: Received<'_>) -> Option<String> {
    if received.kind != NEW_SET {
        return None;
    }
    Some(wire::text(wire::attribute(received.body.get(FAMILY_HEADER_BYTES..)?, 2)?))
}

/// An element as bytes: its key, and its value in a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

/// Refused as a whole when one of them is there already.
pub(super) fn add_elements(
    family: Family,
    table: &str,
    set: &str,
    elements: &[Element],
) -> Vec<Message> {
    elements_messages(NEW_ELEMENT, REQUEST | ACK | CREATE | EXCLUSIVE, family, table, set, elements)
}

/// Refused as a whole when one of them is missing.
pub(super) fn delete_elements(
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

pub(super) fn list_elements(family: Family, table: &str, set: &str) -> Message {
    let mut message = Message::new(GET_ELEMENT, REQUEST | DUMP, &header(family));
    message.string(1, table).string(2, set);
    message
}

pub(super) fn read_elements(received: Received<'_>) -> Vec<Element> {
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

/// The steps that hold when the packet's source or destination is inside a range.
pub(super) fn in_range(side: AddressOf, range: Ipv4Cidr) -> Vec<Expression> {
    let register = Register::word(0);
    let mut steps = vec![load_address(side, register)];
    if range.prefix() < 32 {
        steps.push(Expression::Mask { register, mask: range.mask().octets() });
    }
    steps.push(Expression::Equal { register, value: range.base().octets().to_vec() });
    steps
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressOf {
    Source,
    Destination,
}

pub(super) fn load_address(side: AddressOf, into: Register) -> Expression {
    let offset = match side {
        AddressOf::Source => 12,
        AddressOf::Destination => 16,
    };
    Expression::LoadNetwork { offset, length: 4, into }
}

/// An interface's name as it stands in a key.
pub(super) fn name_key(name: &str) -> [u8; NAME_BYTES] {
    let mut key = [0; NAME_BYTES];
    let length = name.len().min(NAME_BYTES - 1);
    key[..length].copy_from_slice(&name.as_bytes()[..length]);
    key
}

pub(super) fn source_element(interface: &str, address: Ipv4Addr, mark: u32) -> Element {
    let mut key = name_key(interface).to_vec();
    key.extend_from_slice(&address.octets());
    Element { key, value: Some(mark.to_ne_bytes().to_vec()) }
}

pub(super) fn member_element(address: Ipv4Addr, mark: u32) -> Element {
    let mut key = address.octets().to_vec();
    key.extend_from_slice(&mark.to_ne_bytes());
    Element { key, value: None }
}

pub(super) fn member_address(element: &Element) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = element.key.get(..4)?.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_these_bytes() {
        let rule = Rule {
            chain: "c",
            name: "n".to_owned(),
            steps: vec![Expression::Decide(Verdict::Jump("refuse"))],
        };
        let bytes = add_rule(Family::Inet, "t", &rule, Place::Last).seal(2);
        let (fixed, comment) = bytes.split_at(bytes.len() - 32);
        #[rustfmt::skip]
        assert_eq!(fixed, [
            132, 0, 0, 0,  6, 10,  0x05, 0x0c,  2, 0, 0, 0,  0, 0, 0, 0,
            1, 0, 0, 0,
            6, 0,  1, 0,  b't', 0, 0, 0,
            6, 0,  2, 0,  b'c', 0, 0, 0,
            64, 0,  4, 0x80,
            60, 0,  1, 0x80,
            14, 0,  1, 0,  b'i', b'm', b'm', b'e', b'd', b'i', b'a', b't', b'e', 0, 0, 0,
            40, 0,  2, 0x80,
            8, 0,  1, 0,  0, 0, 0, 0,
            28, 0,  2, 0x80,
            24, 0,  2, 0x80,
            8, 0,  1, 0,  0xff, 0xff, 0xff, 0xfd,
            11, 0,  2, 0,  b'r', b'e', b'f', b'u', b's', b'e', 0, 0,
        ]);
        assert_eq!(comment[..6], [32, 0, 7, 0, 0, 26]);
        assert!(comment[6..].starts_with(b"insula n "));
    }

    #[test]
    fn a_changed_step_changes_the_comment() {
        let rule = |verdict| {
            Rule { chain: "c", name: "n".to_owned(), steps: vec![Expression::Decide(verdict)] }
                .comment()
        };
        assert_ne!(rule(Verdict::Accept), rule(Verdict::Drop));
        assert_eq!(rule(Verdict::Accept), rule(Verdict::Accept));
    }

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
