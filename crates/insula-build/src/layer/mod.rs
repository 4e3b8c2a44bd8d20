//! Built layers: what a build has added to its source, as one compressed tar.
//!
//! `layer.json` comes first and says what the build removed; below `tree/` stands what it wrote, with
//! modes and times, symlinks as they are (they are followed only inside a sandbox), and without
//! owners, devices or set-user-id bits. A build is a stranger's program: everything here is opened
//! beneath the folder's own descriptor, through no symlink and onto no other filesystem.

mod pack;
mod unpack;

use std::io;
use std::path::PathBuf;

use insula_model::Bytes;
use insula_model::limits::BUILD_OUTPUT_MAX;
use rustix::fs::ResolveFlags;
use serde::{Deserialize, Serialize};

pub use pack::{Packed, pack_layer};
pub use unpack::unpack_layer;

use crate::archive::ArchiveError;

const SCHEMA: u32 = 1;
const LIST: &str = "layer.json";
const TREE: &str = "tree";
/// `node_modules` of a large app has 100,000; beyond this an inode table fills up.
pub const LAYER_ENTRIES_MAX: usize = 400_000;
/// What a path may have below `/app`: half of what Linux allows for all of it.
const PATH_LEN_MAX: usize = 2_048;
/// Names of what was removed; 16 MiB of them are a source that is gone.
const LIST_LEN_MAX: Bytes = Bytes::mib(16);
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// What a build removed from its source, which a layer cannot show by what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removed {
    /// Paths that are not there any more.
    pub paths: Vec<String>,
    /// Folders of which only what the layer holds is there: made again after they were removed.
    pub folders: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    schema: u32,
    removed: Removed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerLimits {
    /// All files together, unpacked.
    pub total: Bytes,
    pub entries: usize,
}

impl Default for LayerLimits {
    fn default() -> Self {
        Self { total: BUILD_OUTPUT_MAX, entries: LAYER_ENTRIES_MAX }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("open the folder {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{doing} `{path}`")]
    Io {
        doing: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("write the layer")]
    Write {
        #[source]
        source: io::Error,
    },
    #[error("`{path}` changed while it was packed")]
    Changed { path: String },
    #[error("the build wrote more than {max}")]
    TooLarge { max: Bytes },
    #[error("the build wrote more than {max} files and folders")]
    TooMany { max: usize },
    #[error("the path `{path}` is longer than {PATH_LEN_MAX} bytes")]
    PathTooLong { path: String },
    #[error("`{path}` was moved by the filesystem without its contents")]
    Redirected { path: String },
    #[error("read the layer")]
    Archive(#[from] ArchiveError),
    #[error("the layer is not one of ours: {reason}")]
    NotOurs { reason: String },
}

fn shown(path: &[u8]) -> String {
    insula_model::names::excerpt(&String::from_utf8_lossy(path))
}
