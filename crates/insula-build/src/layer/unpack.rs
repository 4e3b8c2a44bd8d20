//! From a layer to a folder. The layer is ours only as far as its digest was ours: what is in it was
//! named by a build, and is laid out as if it were hostile.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use flate2::read::GzDecoder;
use insula_model::Bytes;
use rustix::fs::{
    CWD, Mode, OFlags, Timespec, Timestamps, fchmod, futimens, mkdirat, openat2, symlinkat,
};

use super::pack::split;
use super::{
    INSIDE, LIST, LIST_LEN_MAX, LayerError, LayerLimits, List, PATH_LEN_MAX, Removed, SCHEMA, TREE,
    shown,
};
use crate::archive::Limits;
use crate::archive::meter::{Meter, Taken};
use crate::archive::tarball::{Member, MemberKind, members};
use crate::entry::check_path;

/// Lays a layer out in `top`, which must be there and should be empty: nothing in it is replaced.
/// What stands there after an error is to be thrown away.
pub fn unpack_layer(
    source: impl Read,
    top: &Path,
    limits: &LayerLimits,
) -> Result<Removed, LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = rustix::fs::openat(CWD, top, flags, Mode::empty())
        .map_err(|error| LayerError::Open { path: top.to_owned(), source: error.into() })?;
    let meter = Meter::new();
    let source = Taken { source, meter: Rc::clone(&meter) };
    let mut layer = Layer { top, limits, removed: None, folders: Vec::new(), entries: 0, total: 0 };
    members(GzDecoder::new(source), &meter, &archive_limits(limits), &mut |member, body| {
        layer.take(member, body, &meter)
    })?;
    layer.finish()
}

fn archive_limits(limits: &LayerLimits) -> Limits {
    Limits {
        total: Bytes(limits.total.0.saturating_add(LIST_LEN_MAX.0)),
        file: limits.total,
        files: limits.entries,
        // A build may write what compresses well; its total is bounded.
        ratio: u64::MAX,
        ratio_from: Bytes(u64::MAX),
    }
}

struct Layer<'l> {
    top: OwnedFd,
    limits: &'l LayerLimits,
    removed: Option<Removed>,
    /// Folders get their modes at the end: one that may not be written could not be filled.
    folders: Vec<(Vec<u8>, u32)>,
    entries: usize,
    total: u64,
}

impl Layer<'_> {
    fn take(
        &mut self,
        member: &Member,
        body: &mut dyn Read,
        meter: &Meter,
    ) -> Result<(), LayerError> {
        let Some(path) =
            member.name.strip_prefix(TREE.as_bytes()).and_then(|n| n.strip_prefix(b"/"))
        else {
            return self.take_list(member, body, meter);
        };
        if self.removed.is_none() {
            return Err(not_ours("it does not begin with its list"));
        }
        let path = path.strip_suffix(b"/").unwrap_or(path);
        check(path)?;
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(LayerError::TooMany { max: self.limits.entries });
        }
        match &member.kind {
            MemberKind::Folder => self.folder(path, member),
            MemberKind::Symlink { target } => self.link(path, target),
            MemberKind::File => self.file(path, member, body, meter),
        }
    }

    fn take_list(
        &mut self,
        member: &Member,
        body: &mut dyn Read,
        meter: &Meter,
    ) -> Result<(), LayerError> {
        let expected = member.name == LIST.as_bytes() && self.removed.is_none();
        if !expected || member.size > LIST_LEN_MAX {
            return Err(not_ours("something stands beside its tree"));
        }
        let mut json = Vec::new();
        body.read_to_end(&mut json).map_err(|error| meter.explain(error))?;
        let list: List = serde_json::from_slice(&json)
            .map_err(|error| not_ours(&format!("its list makes no sense: {error}")))?;
        if list.schema != SCHEMA {
            return Err(not_ours(&format!("its schema is {}", list.schema)));
        }
        // Whoever applies the list relies on this.
        for path in list.removed.paths.iter().chain(&list.removed.folders) {
            check_path(path)
                .map_err(|why| not_ours(&format!("`{}` {why}", shown(path.as_bytes()))))?;
        }
        self.removed = Some(list.removed);
        Ok(())
    }

    fn parent(&self, path: &[u8]) -> Result<OwnedFd, LayerError> {
        open(self.top.as_fd(), split(path).0, OFlags::DIRECTORY, Mode::empty())
            .map_err(failed("open the folder of", path))
    }

    fn folder(&mut self, path: &[u8], member: &Member) -> Result<(), LayerError> {
        let parent = self.parent(path)?;
        mkdirat(parent, OsStr::from_bytes(split(path).1), Mode::RWXU)
            .map_err(failed("make the folder", path))?;
        self.folders.push((path.to_vec(), member.mode & 0o777));
        Ok(())
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), LayerError> {
        let parent = self.parent(path)?;
        symlinkat(OsStr::from_bytes(target), parent, OsStr::from_bytes(split(path).1))
            .map_err(failed("make the link", path))
    }

    fn file(
        &mut self,
        path: &[u8],
        member: &Member,
        body: &mut dyn Read,
        meter: &Meter,
    ) -> Result<(), LayerError> {
        self.total = self.total.saturating_add(member.size.0);
        if self.total > self.limits.total.0 {
            return Err(LayerError::TooLarge { max: self.limits.total });
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let fd = open(self.top.as_fd(), path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(failed("make the file", path))?;
        let mut file = File::from(fd);
        io::copy(body, &mut file).map_err(|source| match meter.met() {
            Some(fault) => LayerError::Archive(fault),
            None => LayerError::Io { doing: "write", path: shown(path), source },
        })?;
        let mtime = i64::try_from(member.mtime).unwrap_or(0);
        let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
        // Python compares the times of sources with those in its caches.
        futimens(&file, &Timestamps { last_access: time, last_modification: time })
            .map_err(failed("set the time of", path))?;
        fchmod(&file, Mode::from_raw_mode(member.mode & 0o777))
            .map_err(failed("set the mode of", path))
    }

    fn finish(self) -> Result<Removed, LayerError> {
        for (path, mode) in self.folders.iter().rev() {
            let fd = open(self.top.as_fd(), path, OFlags::DIRECTORY, Mode::empty())
                .map_err(failed("open", path))?;
            fchmod(fd, Mode::from_raw_mode(*mode)).map_err(failed("set the mode of", path))?;
        }
        self.removed.ok_or_else(|| not_ours("it has no list"))
    }
}

fn not_ours(reason: &str) -> LayerError {
    LayerError::NotOurs { reason: reason.to_owned() }
}

fn failed<'p>(
    doing: &'static str,
    path: &'p [u8],
) -> impl FnOnce(rustix::io::Errno) -> LayerError + 'p {
    move |error| LayerError::Io { doing, path: shown(path), source: error.into() }
}

fn open(
    top: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    openat2(top, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, INSIDE)
}

/// Names in a layer are bytes; the kernel refuses `..` that leave, and we refuse all of them.
fn check(path: &[u8]) -> Result<(), LayerError> {
    let plain = !path.contains(&0)
        && path.split(|b| *b == b'/').all(|name| !matches!(name, b"" | b"." | b".."));
    if !plain {
        return Err(not_ours(&format!("`{}` is not a plain path", shown(path))));
    }
    if path.len() > PATH_LEN_MAX {
        return Err(LayerError::PathTooLong { path: shown(path) });
    }
    Ok(())
}
