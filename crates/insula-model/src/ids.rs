//! Prefixed, sortable ids: `app_` and 26 characters that spell a UUIDv7.
//!
//! The characters are Crockford's base 32 in lower case, so an id sorts by the time it was made,
//! survives a double click, and its last six characters can stand in a host name. Ids are made
//! from a time and random bytes that the caller brings; nothing here reads a clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::Timestamp;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 128 bits in groups of five, rounded up.
const ENCODED_LEN: usize = 26;
/// Random bytes that an id needs beside its time.
pub const ID_RANDOM_BYTES: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not an id of the form `{prefix}_…`")]
pub struct IdError {
    pub given: String,
    pub prefix: &'static str,
}

fn uuid_v7(at: Timestamp, random: [u8; ID_RANDOM_BYTES]) -> u128 {
    let millis = (at.as_millis().max(0) as u128) & 0xffff_ffff_ffff;
    let mut tail = [0u8; 16];
    tail[6..].copy_from_slice(&random);
    let tail = u128::from_be_bytes(tail);
    let version = 0x7u128 << 76;
    let variant = 0b10u128 << 62;
    let keep = !((0xfu128 << 76) | (0b11u128 << 62));
    ((millis << 80) | tail) & keep | version | variant
}

fn encode(value: u128) -> [u8; ENCODED_LEN] {
    let mut out = [b'0'; ENCODED_LEN];
    for (i, slot) in out.iter_mut().enumerate() {
        let shift = 5 * (ENCODED_LEN - 1 - i);
        *slot = ALPHABET[((value >> shift) & 31) as usize];
    }
    out
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != ENCODED_LEN {
        return None;
    }
    let mut value: u128 = 0;
    for (i, byte) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|c| *c == byte)? as u128;
        // The first character carries only three of the 128 bits.
        if i == 0 && digit > 7 {
            return None;
        }
        value = (value << 5) | digit;
    }
    Some(value)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            pub fn from_parts(at: Timestamp, random: [u8; ID_RANDOM_BYTES]) -> Self {
                Self(uuid_v7(at, random))
            }

            /// The last six characters: random bits that fit in a host name.
            pub fn short(&self) -> String {
                let text = encode(self.0);
                text[ENCODED_LEN - 6..].iter().map(|b| char::from(*b)).collect()
            }

            pub fn as_u128(&self) -> u128 {
                self.0
            }

            /// The id of sixteen bytes that were stored or sent.
            pub const fn from_u128(value: u128) -> Self {
                Self(value)
            }

            /// The nth of a row of ids that begins with this one: those of things that are made
            /// at once, told apart by their last bits.
            pub const fn nth(self, n: u32) -> Self {
                const LAST: u128 = 0xffff_ffff;
                Self((self.0 & !LAST) | ((self.0 as u32).wrapping_add(n)) as u128)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = encode(self.0);
                f.write_str(concat!($prefix, "_"))?;
                f.write_str(std::str::from_utf8(&text).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or_else(|| IdError { given: crate::names::excerpt(text), prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// A tenant.
    OrgId = "org";
    /// A person.
    UserId = "user";
    /// A machine's credential.
    TokenId = "tok";
    /// An invitation of a person to an org.
    InvitationId = "inv";
    /// Apps that belong together and share variables.
    ProjectId = "prj";
    /// A copy of a project with its own private network.
    EnvironmentId = "env";
    /// What is released as one, in one environment.
    AppId = "app";
    /// Source to artifact.
    BuildId = "bld";
    /// Artifact, config and spec, numbered and immutable.
    ReleaseId = "rel";
    /// The move from one release to the next.
    DeploymentId = "dep";
    /// One running copy of a component.
    InstanceId = "ins";
    /// One execution of a job.
    RunId = "run";
    /// A host with an agent.
    NodeId = "node";
    /// An edge process.
    GatewayId = "gw";
    /// A host name and its proof.
    DomainId = "dom";
    /// One `insula server`, of those that share a store.
    ServerId = "srv";
    /// A one-time permission to join the fleet.
    JoinId = "join";
    /// Something that an org can read in its history.
    EventId = "evt";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_and_sorts_by_time() {
        let early = AppId::from_parts(Timestamp::from_millis(1_700_000_000_000), [0xff; 10]);
        let late = AppId::from_parts(Timestamp::from_millis(1_700_000_000_001), [0; 10]);
        assert!(early < late);
        assert!(early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse::<AppId>(), Ok(early));
        assert_eq!(early.short().len(), 6);
    }

    #[test]
    fn version_and_variant_are_those_of_uuid_seven() {
        let id = AppId::from_parts(Timestamp::from_millis(42), [0xff; 10]).as_u128();
        assert_eq!((id >> 76) & 0xf, 7);
        assert_eq!((id >> 62) & 0b11, 0b10);
        assert_eq!(id >> 80, 42);
    }

    #[test]
    fn another_kind_of_id_is_refused() {
        let org = OrgId::from_parts(Timestamp::from_millis(1), [7; 10]).to_string();
        assert!(org.parse::<AppId>().is_err());
        assert!("app_".parse::<AppId>().is_err());
        assert!("app_zzzzzzzzzzzzzzzzzzzzzzzzzz".parse::<AppId>().is_err());
        assert!("app_../../etc/passwd".parse::<AppId>().is_err());
    }
}
