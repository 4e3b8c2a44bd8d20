//! Reads a source out of an archive that a stranger sent: `.tar.gz`, `.tar` or `.zip`.
//!
//! Contents are handed on as they stream by; nothing is written here. What comes out keeps the rules
//! of a source: plain paths, links that stay inside, only files and folders, within the limits,
//! each path once. One rule that is broken refuses the whole archive. A folder that holds everything
//! else is taken off, as archives of repositories have one.

mod fault;
pub(crate) mod meter;
pub(crate) mod tarball;
mod tree;
mod zipped;

use std::io::{self, Read, Seek};

use insula_model::Bytes;
use insula_model::limits::{SOURCE_FILE_MAX, SOURCE_FILES_MAX, SOURCE_TOTAL_MAX};

pub use fault::{ArchiveError, Refusal};

use crate::entry::Entry;

/// Programs and text shrink to a fifth, logs to a fiftieth; beyond this it was made to grow.
const RATIO_MAX: u64 = 200;
/// Below this a bomb hurts nobody, and a file of zeros is nobody's fault.
const RATIO_FROM: Bytes = Bytes::mib(32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    TarGz,
    Tar,
    Zip,
}

/// Where a tar says what it is.
const TAR_MAGIC_AT: usize = 257;
/// How much of an archive `Kind::of` wants to see.
pub const KIND_LEN: usize = TAR_MAGIC_AT + 5;

impl Kind {
    /// What an archive is, from how it begins.
    pub fn of(start: &[u8]) -> Option<Self> {
        if start.starts_with(&[0x1f, 0x8b]) {
            Some(Self::TarGz)
        } else if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
            Some(Self::Zip)
        } else if start.get(TAR_MAGIC_AT..).is_some_and(|rest| rest.starts_with(b"ustar")) {
            Some(Self::Tar)
        } else {
            None
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub total: Bytes,
    pub file: Bytes,
    pub files: usize,
    /// Bytes that come out for one that goes in, once `ratio_from` have come out.
    pub ratio: u64,
    pub ratio_from: Bytes,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: SOURCE_TOTAL_MAX,
            file: SOURCE_FILE_MAX,
            files: SOURCE_FILES_MAX,
            ratio: RATIO_MAX,
            ratio_from: RATIO_FROM,
        }
    }
}

/// A file whose contents are about to come. Its path is as it stands in the archive: a folder
/// around everything is only known at the end.
#[derive(Debug, Clone, Copy)]
pub struct FileHead<'a> {
    pub path: &'a str,
    pub size: Bytes,
    pub executable: bool,
}

/// Takes the contents of one file. What it leaves unread is read, and counted, all the same.
pub type Sink<'s, T> = dyn FnMut(FileHead<'_>, &mut dyn Read) -> io::Result<T> + 's;

/// Reads an archive to its end. The entries are sorted by path; on an error, throw away what the
/// sink has taken.
pub fn read<T>(
    kind: Kind,
    source: impl Read + Seek,
    limits: &Limits,
    sink: &mut Sink<'_, T>,
) -> Result<Vec<Entry<T>>, ArchiveError> {
    match kind {
        Kind::TarGz => tarball::read_compressed(source, limits, sink),
        Kind::Tar => tarball::read_plain(source, limits, sink),
        Kind::Zip => zipped::read(source, limits, sink),
    }
}

/// As `read`, for a source that cannot be wound back; a `.zip` has its list at the end.
pub fn read_stream<T>(
    compressed: bool,
    source: impl Read,
    limits: &Limits,
    sink: &mut Sink<'_, T>,
) -> Result<Vec<Entry<T>>, ArchiveError> {
    if compressed {
        tarball::read_compressed(source, limits, sink)
    } else {
        tarball::read_plain(source, limits, sink)
    }
}
