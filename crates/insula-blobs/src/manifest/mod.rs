//! The source manifest, version 1: which chunks make which files of a tree.
//!
//! A manifest has one spelling: entries sorted by path, folders listed only when empty, JSON
//! without spaces and in this order of keys. So the same tree has the same digest, whoever wrote
//! it down. Reading refuses whatever this program would not have written, and whatever could
//! reach out of the folder in which it is laid out; see `check`.
//!
//! Pure: no files are touched here (see `materialize`).

mod check;
mod links;

use std::collections::BTreeMap;

use insula_model::{Bytes, Digest};
use serde::{Deserialize, Serialize};

use crate::staging::Hasher;

pub use check::ManifestError;

/// The only version there is. A later one is a new type behind the same door.
const SCHEMA: u32 = 1;

/// 100,000 entries with paths of 300 bytes and one chunk each; a longer one is refused unread.
pub const MANIFEST_BYTES_MAX: Bytes = Bytes::mib(64);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    entries: Vec<Entry>,
}

/// A tree that was checked: it stays inside its folder and within the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative, with `/` between names.
    pub path: String,
    #[serde(flatten)]
    pub node: Node,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Node {
    /// The chunks one after the other; none for an empty file.
    File {
        executable: bool,
        chunks: Vec<Chunk>,
    },
    Symlink {
        target: String,
    },
    /// An empty folder. The others follow from what is in them.
    Dir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    pub digest: Digest,
    pub size: Bytes,
}

impl Manifest {
    /// Checks and orders what was found in a folder. Folders that are not empty are left out.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, ManifestError> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let full: Vec<bool> =
            entries.iter().map(|entry| has_entries_below(&entries, entry)).collect();
        let mut full = full.into_iter();
        entries.retain(|entry| !(full.next().unwrap_or(false) && entry.node == Node::Dir));
        check::check(&entries)?;
        Ok(Self { entries })
    }

    /// Reads what `encode` wrote, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MANIFEST_BYTES_MAX.0 {
            return Err(ManifestError::TooLong { bytes: Bytes(bytes.len() as u64) });
        }
        let document: Document =
            serde_json::from_slice(bytes).map_err(|source| ManifestError::Form { source })?;
        if document.schema != SCHEMA {
            return Err(ManifestError::Schema { schema: document.schema });
        }
        check::check(&document.entries)?;
        let manifest = Self { entries: document.entries };
        // Also refuses unknown keys inside entries, doubled keys, spaces and other escapes.
        if manifest.encode() != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    pub fn encode(&self) -> Vec<u8> {
        let document = Document { schema: SCHEMA, entries: self.entries.clone() };
        serde_json::to_vec(&document).expect("strings and numbers always become JSON")
    }

    pub fn digest(&self) -> Digest {
        Hasher::of(&self.encode())
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Each chunk once, in a determined order: what to ask the store for.
    pub fn chunks(&self) -> Vec<Chunk> {
        let chunks = self.entries.iter().flat_map(|entry| entry.node.chunks());
        let distinct: BTreeMap<Digest, Chunk> =
            chunks.map(|chunk| (chunk.digest, *chunk)).collect();
        distinct.into_values().collect()
    }

    /// What the tree takes on disk, as far as contents go.
    pub fn size(&self) -> Bytes {
        Bytes(self.entries.iter().map(|entry| entry.node.size().0).sum())
    }
}

impl Entry {
    /// A file in one chunk, or none if it is empty.
    pub fn file(path: impl Into<String>, digest: Digest, size: Bytes, executable: bool) -> Self {
        let chunks = if size.0 == 0 { Vec::new() } else { vec![Chunk { digest, size }] };
        Self { path: path.into(), node: Node::File { executable, chunks } }
    }

    pub fn symlink(path: impl Into<String>, target: impl Into<String>) -> Self {
        Self { path: path.into(), node: Node::Symlink { target: target.into() } }
    }

    pub fn dir(path: impl Into<String>) -> Self {
        Self { path: path.into(), node: Node::Dir }
    }
}

impl Node {
    pub fn chunks(&self) -> &[Chunk] {
        match self {
            Self::File { chunks, .. } => chunks,
            Self::Symlink { .. } | Self::Dir => &[],
        }
    }

    pub fn size(&self) -> Bytes {
        // Sizes were checked against a limit far below what would overflow.
        Bytes(self.chunks().iter().fold(0, |sum: u64, chunk| sum.saturating_add(chunk.size.0)))
    }
}

/// `entries` are sorted, so the first candidate is where a search for `path/` lands.
fn has_entries_below(entries: &[Entry], entry: &Entry) -> bool {
    let below = format!("{}/", entry.path);
    let at = entries.partition_point(|other| other.path < below);
    entries.get(at).is_some_and(|other| other.path.starts_with(&below))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::from_sha256([byte; 32])
    }

    fn tree() -> Vec<Entry> {
        vec![
            Entry::file("src/main.py", digest(1), Bytes(10), false),
            Entry::file("run.sh", digest(2), Bytes(5), true),
            Entry::dir("src"),
            Entry::file("src-old", digest(1), Bytes(10), false),
            Entry::dir("empty"),
            Entry::file("none", digest(9), Bytes(0), false),
            Entry::symlink("src/link", "../run.sh"),
        ]
    }

    #[test]
    fn the_same_tree_has_the_same_digest_in_whatever_order_it_was_found() {
        let manifest = Manifest::new(tree()).unwrap();
        let mut other = tree();
        other.reverse();
        other.retain(|entry| entry.path != "src");
        assert_eq!(Manifest::new(other).unwrap().digest(), manifest.digest());
        assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
        assert_eq!(manifest.size(), Bytes(25));
        assert_eq!(manifest.chunks().len(), 2);
    }

    #[test]
    fn version_one_is_spelled_like_this_for_ever() {
        let entries = vec![
            Entry::dir("d"),
            Entry::file("f", digest(0xab), Bytes(3), true),
            Entry::symlink("l", "f"),
        ];
        let text = String::from_utf8(Manifest::new(entries).unwrap().encode()).unwrap();
        let hex = "ab".repeat(32);
        assert_eq!(
            text,
            format!(
                r#"{{"schema":1,"entries":[{{"path":"d","kind":"dir"}},{{"path":"f","kind":"file","executable":true,"chunks":[{{"digest":"sha256:{hex}","size":3}}]}},{{"path":"l","kind":"symlink","target":"f"}}]}}"#
            )
        );
    }

    #[test]
    fn any_other_spelling_is_refused() {
        let plain = r#"{"schema":1,"entries":[{"path":"d","kind":"dir"}]}"#;
        assert!(Manifest::decode(plain.as_bytes()).is_ok());
        for other in [
            r#"{"schema":1, "entries":[{"path":"d","kind":"dir"}]}"#,
            r#"{"entries":[{"path":"d","kind":"dir"}],"schema":1}"#,
            r#"{"schema":1,"entries":[{"kind":"dir","path":"d"}]}"#,
            r#"{"schema":1,"entries":[{"path":"\u0064","kind":"dir"}]}"#,
            r#"{"schema":1,"entries":[{"path":"d","kind":"dir","x":1}]}"#,
            r#"{"schema":1,"entries":[{"path":"d","kind":"device"}]}"#,
            r#"{"schema":1,"entries":[{"path":"d","kind":"dir"}],"x":1}"#,
            r#"{"schema":1,"entries":[{"path":"d","kind":"dir"}]}{}"#,
            "",
            "[]",
        ] {
            assert!(Manifest::decode(other.as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn a_later_schema_is_named_in_the_refusal() {
        let error = Manifest::decode(br#"{"schema":2,"entries":[]}"#).unwrap_err();
        assert!(matches!(error, ManifestError::Schema { schema: 2 }));
    }
}
