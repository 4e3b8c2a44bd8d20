//! Why an archive is not taken.

use std::io;

use insula_model::Bytes;
use insula_model::limits::SOURCE_TOTAL_MAX;
use insula_model::names::excerpt;

use crate::entry::{LinkFault, PathFault};

/// Paths in here are excerpts: they may be shown.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("read the archive")]
    Read {
        #[source]
        source: io::Error,
    },
    #[error("keep the contents of `{path}`")]
    Keep {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the archive is cut off")]
    Truncated,
    #[error("the archive is broken: {reason}")]
    Broken { reason: String },
    #[error("the archive is empty")]
    Empty,
    #[error("`{path}` is encrypted")]
    Encrypted { path: String },
    #[error("`{path}` is compressed in a way that is not understood (method {method})")]
    Method { path: String, method: u16 },
    #[error("`{path}` is not what its checksum says")]
    Checksum { path: String },
    #[error("`{path}` says that it is {declared}, and is not")]
    Size { path: String, declared: Bytes },
    #[error("two entries of the archive share their bytes, one of them `{path}`")]
    Overlap { path: String },
    #[error("the name `{path}` is not UTF-8")]
    NotUtf8 { path: String },

    #[error("`{path}` {why}")]
    Path { path: String, why: PathFault },
    #[error("`{path}` has a backslash in its name, which some programs take for a slash")]
    Backslash { path: String },
    #[error("`{path}` begins with the letter of a drive")]
    Drive { path: String },
    #[error("`{path}` is there twice")]
    Twice { path: String },
    #[error("`{path}` lies below `{above}`, which is not a folder")]
    BelowNoFolder { path: String, above: String },
    #[error("`{path}` links to `{target}`, which {why}")]
    Link { path: String, target: String, why: LinkFault },
    #[error("`{path}` is a hard link; pack again with --hard-dereference")]
    HardLink { path: String },
    #[error("`{path}` is {what}, not a file")]
    Special { path: String, what: &'static str },

    #[error("more than {max} entries")]
    TooMany { max: usize },
    #[error("`{path}` is {size}; a file may be {max}")]
    FileTooLarge { path: String, size: Bytes, max: Bytes },
    #[error("the files are more than {max} together; a source may be {SOURCE_TOTAL_MAX}")]
    TooLarge { max: Bytes },
    #[error("it grows more than {ratio} times as it is unpacked: this is a bomb")]
    Bomb { ratio: u64 },
}

/// What the sender is told, roughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Cannot be read.
    Invalid,
    /// Can be read, and is refused.
    Unsafe,
    TooLarge,
    /// Not the sender's fault.
    Ours,
}

impl ArchiveError {
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Read { .. } | Self::Keep { .. } => Refusal::Ours,
            Self::Truncated
            | Self::Broken { .. }
            | Self::Empty
            | Self::Encrypted { .. }
            | Self::Method { .. }
            | Self::Checksum { .. }
            | Self::Size { .. }
            | Self::NotUtf8 { .. } => Refusal::Invalid,
            Self::Overlap { .. }
            | Self::Path { .. }
            | Self::Backslash { .. }
            | Self::Drive { .. }
            | Self::Twice { .. }
            | Self::BelowNoFolder { .. }
            | Self::Link { .. }
            | Self::HardLink { .. }
            | Self::Special { .. } => Refusal::Unsafe,
            Self::TooMany { .. }
            | Self::FileTooLarge { .. }
            | Self::TooLarge { .. }
            | Self::Bomb { .. } => Refusal::TooLarge,
        }
    }

    pub(super) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken { reason: reason.into() }
    }
}

/// A stranger's name, made fit to be shown.
pub(super) fn shown(name: &[u8]) -> String {
    excerpt(&String::from_utf8_lossy(name))
}
