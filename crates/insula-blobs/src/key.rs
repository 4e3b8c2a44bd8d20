//! What a blob is called in the store: `<org>/<kind>/<aa>/<64 hexadecimal digits>`.
//!
//! The org comes first, so that one prefix is all that an org has: to count, to list, to delete.
//! The two digits keep a folder of a directory store small.

use std::fmt;
use std::str::FromStr;

use insula_model::{Digest, OrgId};
use object_store::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A piece of a source's file.
    Chunk,
    /// A source: which chunks make which files.
    Manifest,
    /// What a build made.
    Artifact,
    Backup,
}

/// Where one org keeps blobs of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shelf {
    pub org: OrgId,
    pub kind: Kind,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Chunk, Self::Manifest, Self::Artifact, Self::Backup];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chunk => "chunks",
            Self::Manifest => "manifests",
            Self::Artifact => "artifacts",
            Self::Backup => "backups",
        }
    }
}

impl Shelf {
    pub fn new(org: OrgId, kind: Kind) -> Self {
        Self { org, kind }
    }

    pub(crate) fn prefix(self) -> Path {
        Path::from(self.to_string())
    }

    pub(crate) fn key(self, digest: Digest) -> Path {
        let hex = digest.hex();
        Path::from(format!("{self}/{}/{hex}", &hex[..2]))
    }

    /// The digest that a key of this shelf names; `None` for what somebody else put there.
    pub(crate) fn digest_of(self, key: &Path) -> Option<Digest> {
        let digest = Digest::from_str(&format!("sha256:{}", key.filename()?)).ok()?;
        (self.key(digest) == *key).then_some(digest)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.kind)
    }
}

#[cfg(test)]
mod tests {
    use insula_model::Timestamp;

    use super::*;

    #[test]
    fn a_key_tells_its_digest_and_a_stranger_tells_none() {
        let org = OrgId::from_parts(Timestamp::from_millis(1), [7; 10]);
        let shelf = Shelf::new(org, Kind::Chunk);
        let digest = Digest::from_sha256([0xab; 32]);
        let key = shelf.key(digest);
        assert_eq!(key.as_ref(), format!("{org}/chunks/ab/{}", "ab".repeat(32)));
        assert_eq!(shelf.digest_of(&key), Some(digest));
        assert_eq!(Shelf::new(org, Kind::Backup).digest_of(&key), None);
        assert_eq!(shelf.digest_of(&Path::from(format!("{shelf}/ab/readme"))), None);
    }
}
