//! Names: immutable, DNS-safe, parsed once at the edge.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An app's name, a hyphen and six characters of its id must fit in one DNS label of 63.
pub const LABEL_LEN_MAX: usize = 40;
/// RFC 1035: 255 bytes on the wire, 253 as text.
pub const HOST_NAME_LEN_MAX: usize = 253;
/// Long enough for every framework we know; short enough for a table.
pub const VARIABLE_NAME_LEN_MAX: usize = 128;
/// What a refusal quotes of the text it refuses.
const EXCERPT_CHARS_MAX: usize = 60;

/// The start of a refused text, safe to print: control characters are replaced, the rest is cut.
pub fn excerpt(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(EXCERPT_CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(EXCERPT_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a name for {what}: {rule}")]
pub struct NameError {
    pub what: &'static str,
    pub given: String,
    pub rule: &'static str,
}

const LABEL_RULE: &str =
    "use 1 to 40 of a-z, 0-9 and single hyphens, beginning with a letter, not ending with a hyphen";

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=LABEL_LEN_MAX).contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes[bytes.len() - 1] != b'-'
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        // `xn--` and friends mean something to other people's software.
        && !text.contains("--")
}

const TAG_RULE: &str = "use 1 to 63 of a-z, A-Z, 0-9, `.`, `_`, `-` and `/`, beginning and ending with a letter or digit";

fn is_tag(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    (1..=63).contains(&bytes.len())
        && ends.into_iter().flatten().all(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(b))
}

macro_rules! text_types {
    ($($(#[$doc:meta])* $name:ident, $what:literal, $check:expr, $rule:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                if $check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { what: $what, given: excerpt(text), rule: $rule })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
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

fn is_host_name(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= HOST_NAME_LEN_MAX
        && text.split('.').all(label)
        // `1.2.3.4` is an address, not a name.
        && text.split('.').next_back().is_some_and(|l| l.bytes().any(|b| b.is_ascii_lowercase()))
}

fn is_variable_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=VARIABLE_NAME_LEN_MAX).contains(&bytes.len())
        && !bytes[0].is_ascii_digit()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

fn is_email(text: &str) -> bool {
    let Some((local, host)) = text.split_once('@') else { return false };
    (1..=64).contains(&local.len())
        && local.bytes().all(|b| b.is_ascii_graphic() && !b"@<>\"(),;:\\[]".contains(&b))
        && is_host_name(&host.to_ascii_lowercase())
}

text_types! {
    /// An org's name: unique on the platform.
    OrgName, "an org", is_label, LABEL_RULE;
    /// A project's name: unique in its org.
    ProjectName, "a project", is_label, LABEL_RULE;
    /// An environment's name: unique in its project.
    EnvironmentName, "an environment", is_label, LABEL_RULE;
    /// An app's name: unique in its environment.
    AppName, "an app", is_label, LABEL_RULE;
    /// A component's name: unique in its app, and what others resolve it by.
    ComponentName, "a component", is_label, LABEL_RULE;
    /// A node's name, for people.
    NodeName, "a node", is_label, LABEL_RULE;
    /// Nodes of one kind, set apart by the operator.
    PoolName, "a pool", is_label, LABEL_RULE;
    /// Nodes that fail together: a room, a building, a provider's zone.
    ZoneName, "a zone", is_label, LABEL_RULE;
    /// What a node's label is called.
    LabelName, "a label", is_tag, TAG_RULE;
    /// What a node's label says.
    LabelValue, "a label's value", is_tag, TAG_RULE;
    /// A token's name, for people.
    TokenName, "a token", is_label, LABEL_RULE;
    /// A host name, in lower case and without a final dot.
    HostName, "a host", is_host_name,
        "use labels of a-z, 0-9 and hyphens joined by dots, 253 characters at most, in lower case";
    /// The name of a variable or a secret.
    VariableName, "a variable", is_variable_name,
        "use letters, digits and _, not beginning with a digit, 128 characters at most";
    /// An e-mail address, as far as we need to know it: something, an at sign, a host.
    Email, "an e-mail address", is_email, "write it as somebody@example.org";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_names_are_refused() {
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a b",
            "a.b",
            "1a",
            "a--b",
            "ü",
            "a\n",
            "$(id)",
            "a;b",
            "../a",
            "a\0b",
            &"a".repeat(41),
        ] {
            assert!(bad.parse::<AppName>().is_err(), "{bad:?} passed");
        }
        for good in ["a", "shop", "shop-2", &"a".repeat(40)] {
            assert!(good.parse::<AppName>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn an_address_is_not_a_host_name() {
        assert!("127.0.0.1".parse::<HostName>().is_err());
        assert!("shop.example.org".parse::<HostName>().is_ok());
        assert!("shop.example.org.".parse::<HostName>().is_err());
    }

    #[test]
    fn a_refusal_quotes_little_and_nothing_that_moves_a_cursor() {
        let error = format!("\x1b[2J{}", "x".repeat(500)).parse::<AppName>().unwrap_err();
        assert!(!error.to_string().contains('\x1b'));
        assert!(error.given.chars().count() <= EXCERPT_CHARS_MAX + 1);
    }
}
