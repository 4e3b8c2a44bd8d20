//! Rules: written with a comment by which they are recognised, listed, deleted.

use super::expression::Expression;
use super::{FAMILY_HEADER_BYTES, Family, SUBSYSTEM, header};
use crate::net::netlink::{ACK, APPEND, CREATE, DUMP, REQUEST};
use crate::net::wire::{self, Message, Received};

const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const DELETE_RULE: u16 = SUBSYSTEM | 8;

/// A rule and the name under which it is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::net) struct Rule {
    pub(in crate::net) chain: &'static str,
    pub(in crate::net) name: String,
    pub(in crate::net) steps: Vec<Expression>,
}

impl Rule {
    /// Shown by `nft list` as the rule's comment. Says who wrote the rule, and by a fingerprint of its
    /// steps what it did when it was written: rules cannot be changed in place, only replaced.
    pub(in crate::net) fn comment(&self) -> String {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Place {
    First,
    Last,
}

pub(in crate::net) fn add_rule(family: Family, table: &str, rule: &Rule, place: Place) -> Message {
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
pub(in crate::net) fn delete_rules(family: Family, table: &str) -> Message {
    let mut message = Message::new(DELETE_RULE, REQUEST | ACK, &header(family));
    message.string(1, table);
    message
}

pub(in crate::net) fn delete_rule(
    family: Family,
    table: &str,
    chain: &str,
    handle: u64,
) -> Message {
    let mut message = Message::new(DELETE_RULE, REQUEST | ACK, &header(family));
    message.string(1, table).string(2, chain).attribute(3, &handle.to_be_bytes());
    message
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::net) struct RuleSeen {
    pub(in crate::net) chain: String,
    pub(in crate::net) handle: u64,
    pub(in crate::net) comment: Option<String>,
}

pub(in crate::net) fn list_rules(family: Family, table: &str) -> Message {
    let mut message = Message::new(GET_RULE, REQUEST | DUMP, &header(family));
    message.string(1, table);
    message
}

/// `None` for a rule of another table: old kernels list all of them.
pub(in crate::net) fn read_rule(table: &str, received: Received<'_>) -> Option<RuleSeen> {
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

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;
    use crate::net::nft::Verdict;

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
}
