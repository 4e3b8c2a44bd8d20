//! The name of a sandbox: also the name of its folder and of its cgroups, so it is checked once.

use serde::{Deserialize, Serialize};

/// Long enough for a prefixed UUID, short enough for every place that a name goes into.
pub const SANDBOX_ID_BYTES_MAX: usize = 64;

/// `[a-z0-9_-]{1,64}`: cannot be `.`, `..` or a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a sandbox id: 1 to 64 of a-z, 0-9, `_` and `-`")]
pub struct BadSandboxId(String);

impl SandboxId {
    pub fn new(text: impl Into<String>) -> Result<Self, BadSandboxId> {
        let text = text.into();
        let fits = (1..=SANDBOX_ID_BYTES_MAX).contains(&text.len());
        let plain = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if fits && plain { Ok(Self(text)) } else { Err(BadSandboxId(text)) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SandboxId {
    type Error = BadSandboxId;
    fn try_from(text: String) -> Result<Self, BadSandboxId> {
        Self::new(text)
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

impl std::fmt::Display for SandboxId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_never_paths() {
        for good in ["a", "ins_0190-x", &"a".repeat(64)] {
            assert!(SandboxId::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "A", "a b", "a\n", "ä", &"a".repeat(65)] {
            assert!(SandboxId::new(bad).is_err(), "{bad:?}");
        }
    }
}
