//! Messages of nf_tables: tables and chains here, `expression`, `rule` and `set` below.
//!
//! Only builds and reads messages; which rules there are is written in `rules`.

mod expression;
mod rule;
mod set;

pub(super) use expression::{
    AddressOf, Expression, Meta, Register, Verdict, in_range, load_address,
};
pub(super) use rule::{
    Place, Rule, RuleSeen, add_rule, delete_rule, delete_rules, list_rules, read_rule,
};
pub(super) use set::{
    Element, Set, SetKind, add_elements, add_set, delete_elements, list_elements, list_sets,
    member_address, member_element, read_elements, read_set, remote_element, source_element,
};

use super::netlink::{ACK, CREATE, DUMP, REQUEST};
use super::wire::{self, Message, Received};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;

const ACCEPT: u32 = 1;

/// `struct nfgenmsg`.
const FAMILY_HEADER_BYTES: usize = 4;

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
