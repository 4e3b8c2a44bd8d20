//! What a rule does, step by step, in the terms of the kernel's small machine.

use super::ACCEPT;
use crate::net::config::Ipv4Cidr;
use crate::net::wire::Message;

/// Registers are numbered in words of four bytes (`NFT_REG32_00` and on).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) struct Register(u32);

impl Register {
    pub(in crate::net) const fn word(index: u32) -> Self {
        assert!(index < 16);
        Self(8 + index)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Meta {
    IncomingName,
    OutgoingName,
    NetworkProtocol,
    TransportProtocol,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::net) enum Verdict {
    Accept,
    Drop,
    Jump(&'static str),
}

impl Verdict {
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::Drop => 0,
            Self::Accept => ACCEPT,
            Self::Jump(_) => (-3_i32).cast_unsigned(),
        }
    }
}

/// What a rule does, step by step; a comparison or look-up that fails ends the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::net) enum Expression {
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
    pub(super) fn write(&self, list: &mut Message) {
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

pub(super) fn write_value(data: &mut Message, value: &[u8]) {
    data.attribute(1, value);
}

/// The steps that hold when the packet's source or destination is inside a range.
pub(in crate::net) fn in_range(side: AddressOf, range: Ipv4Cidr) -> Vec<Expression> {
    let register = Register::word(0);
    let mut steps = vec![load_address(side, register)];
    if range.prefix() < 32 {
        steps.push(Expression::Mask { register, mask: range.mask().octets() });
    }
    steps.push(Expression::Equal { register, value: range.base().octets().to_vec() });
    steps
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum AddressOf {
    Source,
    Destination,
}

pub(in crate::net) fn load_address(side: AddressOf, into: Register) -> Expression {
    let offset = match side {
        AddressOf::Source => 12,
        AddressOf::Destination => 16,
    };
    Expression::LoadNetwork { offset, length: 4, into }
}
