//! A subject: a role and an id, written as a DNS name so that certificates can carry it.

use std::fmt;

use super::PkiError;
use crate::digest::sha256;

/// The last label of every name: nobody can own it in the public DNS.
const ZONE: &str = "insula";
/// A label of a DNS name.
const ID_BYTES_MAX: usize = 63;
const ROLE_BYTES_MAX: usize = 16;
/// Half names the subject, half counts: numbers never repeat under one authority.
pub(crate) const SERIAL_BYTES: usize = 16;

/// Who a certificate speaks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    role: String,
    id: String,
}

/// Whom a caller means to reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whom {
    /// Anybody of a role: a member does not care which server answers.
    Any {
        role: String,
    },
    One(Subject),
}

impl Subject {
    pub fn new(role: &str, id: &str) -> Result<Self, PkiError> {
        if is_role(role) && is_id(id) {
            Ok(Self { role: role.to_owned(), id: id.to_owned() })
        } else {
            Err(PkiError::Subject { text: format!("{role}/{id}").chars().take(100).collect() })
        }
    }

    pub fn role(&self) -> &str {
        &self.role
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// `node-01h….node.insula` for the node `node_01h…`.
    pub fn dns_name(&self) -> String {
        format!("{}.{}.{ZONE}", self.id.replace('_', "-"), self.role)
    }

    /// The only inverse of `dns_name`: whatever it would not have written is refused.
    pub fn from_dns_name(name: &str) -> Option<Self> {
        let mut labels = name.split('.');
        let (id, role, zone) = (labels.next()?, labels.next()?, labels.next()?);
        if labels.next().is_some() || zone != ZONE || id.contains('_') {
            return None;
        }
        Self::new(role, &id.replace('-', "_")).ok()
    }

    pub(super) fn serial(&self, count: u64) -> [u8; SERIAL_BYTES] {
        let mut serial = [0; SERIAL_BYTES];
        serial[..8].copy_from_slice(&sha256(self.dns_name().as_bytes())[..8]);
        // Positive, and never with a zero in front: one number has one encoding.
        serial[0] = serial[0] & 0x3f | 0x40;
        serial[8..].copy_from_slice(&count.to_be_bytes());
        serial
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.id)
    }
}

impl Whom {
    pub fn any(role: &str) -> Result<Self, PkiError> {
        if is_role(role) {
            Ok(Self::Any { role: role.to_owned() })
        } else {
            Err(PkiError::Subject { text: role.chars().take(100).collect() })
        }
    }

    pub fn one(role: &str, id: &str) -> Result<Self, PkiError> {
        Subject::new(role, id).map(Self::One)
    }

    pub fn accepts(&self, subject: &Subject) -> bool {
        match self {
            Self::Any { role } => *role == subject.role,
            Self::One(one) => one == subject,
        }
    }

    /// What stands for it where TLS wants a server's name. It never leaves this process.
    pub(crate) fn server_name(&self) -> String {
        match self {
            Self::Any { role } => format!("{role}.{ZONE}"),
            Self::One(subject) => subject.dns_name(),
        }
    }

    pub(crate) fn from_server_name(name: &str) -> Option<Self> {
        match name.strip_suffix(".insula") {
            Some(role) if is_role(role) => Some(Self::Any { role: role.to_owned() }),
            _ => Subject::from_dns_name(name).map(Self::One),
        }
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any { role } => write!(f, "a {role}"),
            Self::One(subject) => fmt::Display::fmt(subject, f),
        }
    }
}

fn is_role(text: &str) -> bool {
    (1..=ROLE_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase())
}

fn is_id(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| plain(b) || b == b'_')
        && text.bytes().next().is_some_and(plain)
        && text.bytes().next_back().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_survives_its_name() {
        let subject = Subject::new("node", "node_01h2xcejqtf2nbrexx3vqjhp41").unwrap();
        assert_eq!(subject.dns_name(), "node-01h2xcejqtf2nbrexx3vqjhp41.node.insula");
        assert_eq!(Subject::from_dns_name(&subject.dns_name()), Some(subject.clone()));
        let whom = Whom::One(subject);
        assert_eq!(Whom::from_server_name(&whom.server_name()), Some(whom));
        let any = Whom::any("server").unwrap();
        assert_eq!(Whom::from_server_name(&any.server_name()), Some(any));
    }

    #[test]
    fn what_is_not_a_subject_is_refused() {
        for (role, id) in [
            ("", "a"),
            ("node", ""),
            ("Node", "a"),
            ("node", "a.b"),
            ("node", "a-b"),
            ("node", "*"),
            ("node", "_a"),
            ("node", "a_"),
            ("no.de", "a"),
            ("node", "a\0"),
            ("node", &"a".repeat(64)),
        ] {
            assert!(Subject::new(role, id).is_err(), "{role:?} {id:?}");
        }
        for name in
            ["", "insula", "a.insula", "*.node.insula", "a_b.node.insula", "a.node.insula.x"]
        {
            assert!(Subject::from_dns_name(name).is_none(), "{name}");
        }
    }

    #[test]
    fn numbers_of_different_subjects_differ() {
        let serial = |id| Subject::new("node", id).unwrap().serial(7);
        assert_ne!(serial("a"), serial("b"));
        assert!(serial("a")[0] & 0x80 == 0 && serial("a")[0] != 0);
    }
}
