//! From a folder that a build wrote (an overlay's upper one, or a plain one) to a layer.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use insula_model::Bytes;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fgetxattr, openat2, readlinkat, statat,
};
use tar::{Builder, EntryType, Header};

use super::{
    INSIDE, LIST, LIST_LEN_MAX, LayerError, LayerLimits, List, PATH_LEN_MAX, Removed, SCHEMA, TREE,
    shown,
};

/// Where overlayfs notes that a folder hides the one below it; the first as root, the second as an
/// ordinary user.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];
/// Where it notes that a folder's contents are elsewhere; we mount so that it does not.
const REDIRECT: [&str; 2] = ["trusted.overlay.redirect", "user.overlay.redirect"];
/// Longest name or target that a tar header holds itself.
const HEADER_NAME_LEN: usize = 100;
const SKIPPED_MAX: usize = 20;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    pub removed: Removed,
    /// All files together, unpacked.
    pub size: Bytes,
    pub entries: usize,
    /// Sockets, pipes and devices, which do not travel; the first few.
    pub skipped: Vec<String>,
}

/// Writes a layer of everything below `top`. Nothing may be writing there any more.
pub fn pack_layer(top: &Path, out: impl Write, limits: &LayerLimits) -> Result<Packed, LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = rustix::fs::openat(CWD, top, flags, Mode::empty())
        .map_err(|error| LayerError::Open { path: top.to_owned(), source: error.into() })?;
    let mut packed = Packed::default();
    let found = survey(top.as_fd(), limits, &mut packed)?;
    let mut builder = Builder::new(GzEncoder::new(out, Compression::fast()));
    write_list(&mut builder, &packed.removed)?;
    for item in &found {
        write_item(&mut builder, top.as_fd(), item)?;
    }
    let encoder = builder.into_inner().map_err(write_error)?;
    let mut out = encoder.finish().map_err(write_error)?;
    out.flush().map_err(write_error)?;
    Ok(packed)
}

fn write_error(source: io::Error) -> LayerError {
    LayerError::Write { source }
}

/// Something to be packed. Folders come before what is in them.
struct Item {
    path: Vec<u8>,
    kind: FileType,
    size: u64,
    mode: u32,
    mtime: u64,
}

fn failed<'p>(
    doing: &'static str,
    path: &'p [u8],
) -> impl FnOnce(rustix::io::Errno) -> LayerError + 'p {
    move |error| LayerError::Io { doing, path: shown(path), source: error.into() }
}

fn open(top: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    openat2(top, path, flags, Mode::empty(), INSIDE)
}

/// Looks at everything once, so that the list of what was removed can come first.
fn survey(
    top: BorrowedFd<'_>,
    limits: &LayerLimits,
    packed: &mut Packed,
) -> Result<Vec<Item>, LayerError> {
    let mut items = Vec::new();
    let mut folders = vec![Vec::new()];
    while let Some(folder) = folders.pop() {
        let fd = open(top, &folder, OFlags::DIRECTORY).map_err(failed("open", &folder))?;
        note_folder(fd.as_fd(), &folder, packed)?;
        for name in names(fd.as_fd(), &folder)? {
            let mut path = folder.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(&name);
            if path.len() > PATH_LEN_MAX {
                return Err(LayerError::PathTooLong { path: shown(&path) });
            }
            let stat = statat(fd.as_fd(), name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("look at", &path))?;
            packed.entries += 1;
            if packed.entries > limits.entries {
                return Err(LayerError::TooMany { max: limits.entries });
            }
            let Some(item) = look(path, &stat, limits, packed)? else { continue };
            if item.kind == FileType::Directory {
                folders.push(item.path.clone());
            }
            items.push(item);
        }
    }
    packed.removed.paths.sort();
    packed.removed.folders.sort();
    Ok(items)
}

fn look(
    path: Vec<u8>,
    stat: &Stat,
    limits: &LayerLimits,
    packed: &mut Packed,
) -> Result<Option<Item>, LayerError> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let size = match kind {
        FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(u64::MAX),
        FileType::Directory | FileType::Symlink => 0,
        // A whiteout: overlayfs says in this way that something is gone.
        FileType::CharacterDevice if stat.st_rdev == 0 => {
            packed.removed.paths.push(text(path)?);
            return Ok(None);
        }
        _ => {
            if packed.skipped.len() < SKIPPED_MAX {
                packed.skipped.push(shown(&path));
            }
            return Ok(None);
        }
    };
    packed.size.0 = packed.size.0.saturating_add(size);
    if packed.size > limits.total {
        return Err(LayerError::TooLarge { max: limits.total });
    }
    let mtime = u64::try_from(stat.st_mtime).unwrap_or(0);
    Ok(Some(Item { path, kind, size, mode: stat.st_mode & 0o777, mtime }))
}

fn note_folder(fd: BorrowedFd<'_>, path: &[u8], packed: &mut Packed) -> Result<(), LayerError> {
    // The top hides nothing: it is not in the source as an entry.
    if path.is_empty() {
        return Ok(());
    }
    if REDIRECT.iter().any(|name| attribute(fd, name).is_some()) {
        return Err(LayerError::Redirected { path: shown(path) });
    }
    if OPAQUE.iter().any(|name| attribute(fd, name).as_deref() == Some(b"y")) {
        packed.removed.folders.push(text(path.to_vec())?);
    }
    Ok(())
}

/// The start of an extended attribute, if it is there and we may see it.
fn attribute(fd: BorrowedFd<'_>, name: &str) -> Option<Vec<u8>> {
    let mut value = [0_u8; 8];
    match fgetxattr(fd, name, &mut value[..]) {
        Ok(length) => Some(value[..length].to_vec()),
        // It is there, and longer than anything that we compare with.
        Err(rustix::io::Errno::RANGE) => Some(Vec::new()),
        Err(_) => None,
    }
}

/// What was removed was in the source, whose paths are UTF-8.
fn text(path: Vec<u8>) -> Result<String, LayerError> {
    String::from_utf8(path).map_err(|error| LayerError::NotOurs {
        reason: format!("`{}` was removed and never there", shown(error.as_bytes())),
    })
}

fn names(fd: BorrowedFd<'_>, folder: &[u8]) -> Result<Vec<Vec<u8>>, LayerError> {
    let read = || -> rustix::io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        // The same tree makes the same layer.
        names.sort();
        Ok(names)
    };
    read().map_err(failed("list", folder))
}

type Tar<W> = Builder<GzEncoder<W>>;

fn write_list<W: Write>(builder: &mut Tar<W>, removed: &Removed) -> Result<(), LayerError> {
    let list = List { schema: SCHEMA, removed: removed.clone() };
    let json = serde_json::to_vec(&list).map_err(|error| write_error(error.into()))?;
    if json.len() as u64 > LIST_LEN_MAX.0 {
        return Err(LayerError::TooMany { max: removed.paths.len() });
    }
    let mut header = header(EntryType::Regular, json.len() as u64, 0o644, 0);
    append(builder, &mut header, LIST.as_bytes(), b"", json.as_slice())
}

fn write_item<W: Write>(
    builder: &mut Tar<W>,
    top: BorrowedFd<'_>,
    item: &Item,
) -> Result<(), LayerError> {
    let mut name = format!("{TREE}/").into_bytes();
    name.extend(&item.path);
    let make = |kind| header(kind, item.size, item.mode, item.mtime);
    match item.kind {
        FileType::Directory => {
            append(builder, &mut make(EntryType::Directory), &name, b"", io::empty())
        }
        FileType::Symlink => {
            let (parent, last) = split(&item.path);
            let parent = open(top, parent, OFlags::DIRECTORY).map_err(failed("open", parent))?;
            let target = readlinkat(parent, OsStr::from_bytes(last), Vec::new())
                .map_err(failed("read the link", &item.path))?;
            append(builder, &mut make(EntryType::Symlink), &name, target.to_bytes(), io::empty())
        }
        _ => {
            let fd = open(top, &item.path, OFlags::empty()).map_err(failed("open", &item.path))?;
            let changed = || LayerError::Changed { path: shown(&item.path) };
            let file = File::from(fd);
            let metadata = file.metadata().map_err(write_error)?;
            if !metadata.is_file() || metadata.len() != item.size {
                return Err(changed());
            }
            let mut body = file.take(item.size);
            append(builder, &mut make(EntryType::Regular), &name, b"", &mut body)?;
            // A tar is broken by a body that is shorter than its header says.
            if body.limit() > 0 { Err(changed()) } else { Ok(()) }
        }
    }
}

pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn header(kind: EntryType, size: u64, mode: u32, mtime: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(mtime);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Names are bytes, and long ones stand in an entry before their own.
fn append<W: Write>(
    builder: &mut Tar<W>,
    header: &mut Header,
    name: &[u8],
    target: &[u8],
    body: impl Read,
) -> Result<(), LayerError> {
    for (kind, long) in [(EntryType::GNULongName, name), (EntryType::GNULongLink, target)] {
        if long.len() > HEADER_NAME_LEN {
            let mut extra = self::header(kind, long.len() as u64 + 1, 0o644, 0);
            put(&mut extra, b"././@LongLink", b"");
            builder.append(&extra, long.chain(&b"\0"[..])).map_err(write_error)?;
        }
    }
    put(header, name, target);
    builder.append(header, body).map_err(write_error)
}

fn put(header: &mut Header, name: &[u8], target: &[u8]) {
    if let Some(gnu) = header.as_gnu_mut() {
        let length = name.len().min(HEADER_NAME_LEN);
        gnu.name[..length].copy_from_slice(&name[..length]);
        let length = target.len().min(HEADER_NAME_LEN);
        gnu.linkname[..length].copy_from_slice(&target[..length]);
    }
    header.set_cksum();
}
