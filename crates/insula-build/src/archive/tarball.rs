//! `.tar` and `.tar.gz`.
//!
//! Extended headers are read here and not by the tar crate, which keeps them in memory whatever
//! their size.

use std::io::{self, Read};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use insula_model::Bytes;
use insula_model::limits::SOURCE_PATH_LEN_MAX;
use tar::{Archive, EntryType};

use super::fault::shown;
use super::meter::{Given, Meter, Taken};
use super::tree::Tree;
use super::{ArchiveError, FileHead, Limits, Sink};
use crate::entry::Entry;

/// A header, its extensions and the padding of each entry.
const OVERHEAD_PER_ENTRY: u64 = 4 * 512;
/// What programs fill the last block with.
const OVERHEAD: u64 = 1024 * 1024;
/// Paths, times and owners with their names; a program that writes more writes it for us.
const EXTENSION_LEN_MAX: u64 = 64 * 1024;
const BLOCK: usize = 512;

pub fn read_compressed<T>(
    source: impl Read,
    limits: &Limits,
    sink: &mut Sink<'_, T>,
) -> Result<Vec<Entry<T>>, ArchiveError> {
    let meter = Meter::new();
    let source = Taken { source, meter: Rc::clone(&meter) };
    read(MultiGzDecoder::new(source), &meter, limits, sink)
}

pub fn read_plain<T>(
    source: impl Read,
    limits: &Limits,
    sink: &mut Sink<'_, T>,
) -> Result<Vec<Entry<T>>, ArchiveError> {
    let meter = Meter::new();
    let source = Taken { source, meter: Rc::clone(&meter) };
    read(source, &meter, limits, sink)
}

fn read<T>(
    source: impl Read,
    meter: &Rc<Meter>,
    limits: &Limits,
    sink: &mut Sink<'_, T>,
) -> Result<Vec<Entry<T>>, ArchiveError> {
    let mut tree = Tree::new(limits);
    members(source, meter, limits, &mut |member, body| {
        tree.count()?;
        join(&mut tree, member, body, meter, sink)
    })?;
    tree.finish()
}

fn join<T>(
    tree: &mut Tree<'_, T>,
    member: &Member,
    body: &mut dyn Read,
    meter: &Meter,
    sink: &mut Sink<'_, T>,
) -> Result<(), ArchiveError> {
    let Some(path) = tree.place(&member.name)? else { return Ok(()) };
    match &member.kind {
        MemberKind::Symlink { target } => tree.link(path, target),
        MemberKind::Folder => tree.folder(path),
        MemberKind::File => {
            let (size, executable) = (member.size, member.mode & 0o111 != 0);
            tree.admit(&path, size)?;
            let head = FileHead { path: &path, size, executable };
            let kept = sink(head, body).map_err(|error| meter.explain_sink(&member.name, error))?;
            tree.file(path, size, executable, kept);
            Ok(())
        }
    }
}

/// One entry of a tar, with what extended headers say of it.
pub(crate) struct Member {
    pub name: Vec<u8>,
    pub kind: MemberKind,
    pub size: Bytes,
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: u64,
}

pub(crate) enum MemberKind {
    File,
    Folder,
    Symlink { target: Vec<u8> },
}

pub(crate) type Visit<'v, E> = dyn FnMut(&Member, &mut dyn Read) -> Result<(), E> + 'v;

/// Goes through a tar to its end. What a visit leaves unread is read all the same.
pub(crate) fn members<E: From<ArchiveError>>(
    source: impl Read,
    meter: &Rc<Meter>,
    limits: &Limits,
    visit: &mut Visit<'_, E>,
) -> Result<(), E> {
    let overhead = limits.files as u64 * OVERHEAD_PER_ENTRY + OVERHEAD;
    let source = Given::new(source, Rc::clone(meter), limits, Bytes(overhead));
    let mut archive = Archive::new(Ending { source, block: [1; BLOCK], length: 0 });
    let mut extension = Extension::default();
    let entries = archive.entries().map_err(|error| meter.explain(error))?;
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(|error| meter.explain(error))?;
        let kind = entry.header().entry_type();
        if extension.read(kind, &mut entry, meter)? {
            continue;
        }
        let member = member(&entry, std::mem::take(&mut extension))?;
        let mut body = entry.take(member.size.0);
        visit(&member, &mut body)?;
        io::copy(&mut body, &mut io::sink()).map_err(|error| meter.explain(error))?;
        if body.limit() > 0 {
            return Err(ArchiveError::Truncated.into());
        }
    }
    if extension != Extension::default() {
        return Err(ArchiveError::Truncated.into());
    }
    // What follows the end is padding; reading it checks the checksum of the compression.
    let mut source = archive.into_inner();
    io::copy(&mut source, &mut io::sink()).map_err(|error| meter.explain(error))?;
    if source.length == 0 {
        return Err(ArchiveError::Empty.into());
    }
    if !source.ends_in_zeros() {
        return Err(ArchiveError::Truncated.into());
    }
    Ok(())
}

fn member<R: Read>(entry: &tar::Entry<'_, R>, extended: Extension) -> Result<Member, ArchiveError> {
    let header = entry.header();
    let name = match extended.path {
        Some(path) => path,
        None => header.path_bytes().into_owned(),
    };
    let broken = |error: io::Error| ArchiveError::broken(error.to_string());
    let size = Bytes(header.entry_size().map_err(broken)?);
    if extended.size.is_some_and(|extended| extended != size.0) {
        let reason = format!("`{}` has two sizes", shown(&name));
        return Err(ArchiveError::broken(reason));
    }
    let kind = header.entry_type();
    if let Some(refused) = refused(kind, &name) {
        return Err(refused);
    }
    let kind = if kind == EntryType::Symlink {
        let target = match extended.target {
            Some(target) => target,
            None => header.link_name_bytes().unwrap_or_default().into_owned(),
        };
        MemberKind::Symlink { target }
    } else if kind == EntryType::Directory || name.ends_with(b"/") {
        MemberKind::Folder
    } else {
        MemberKind::File
    };
    let mode = header.mode().unwrap_or(0o644);
    Ok(Member { name, kind, size, mode, mtime: header.mtime().unwrap_or(0) })
}

fn refused(kind: EntryType, name: &[u8]) -> Option<ArchiveError> {
    let path = shown(name);
    let special = |what| Some(ArchiveError::Special { path: shown(name), what });
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::Directory | EntryType::Symlink => {
            None
        }
        EntryType::Link => Some(ArchiveError::HardLink { path }),
        EntryType::Char | EntryType::Block => special("a device"),
        EntryType::Fifo => special("a pipe"),
        EntryType::GNUSparse => special("a sparse file"),
        _ => special("of a kind that is not understood"),
    }
}

/// What headers before an entry say of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Extension {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extension {
    /// Whether the entry was one about the next one, or about all.
    fn read<R: Read>(
        &mut self,
        kind: EntryType,
        entry: &mut tar::Entry<'_, R>,
        meter: &Meter,
    ) -> Result<bool, ArchiveError> {
        match kind {
            EntryType::GNULongName => self.path = Some(text(entry, meter)?),
            EntryType::GNULongLink => self.target = Some(text(entry, meter)?),
            EntryType::XHeader => {
                let records = contents(entry, meter)?;
                self.records(&records)?;
            }
            // Comments of the program that packed: git writes the commit.
            EntryType::XGlobalHeader => drop(contents(entry, meter)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `<length> <key>=<value>\n`, as POSIX has it.
    fn records(&mut self, mut rest: &[u8]) -> Result<(), ArchiveError> {
        let broken = || ArchiveError::broken("an extended header makes no sense");
        while !rest.is_empty() {
            let space = rest.iter().position(|b| *b == b' ').ok_or_else(broken)?;
            let length = std::str::from_utf8(&rest[..space]).ok().and_then(|n| n.parse().ok());
            let length: usize =
                length.filter(|n| (space + 1..=rest.len()).contains(n)).ok_or_else(broken)?;
            let record = rest[space + 1..length].strip_suffix(b"\n").ok_or_else(broken)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|n| n.parse().ok());
                    self.size = Some(size.ok_or_else(broken)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    let path = shown(self.path.as_deref().unwrap_or_default());
                    return Err(ArchiveError::Special { path, what: "a sparse file" });
                }
                // Times and owners: none of them travels.
                _ => {}
            }
            rest = &rest[length..];
        }
        Ok(())
    }
}

/// The contents of an extended header, bounded.
fn contents<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    meter: &Meter,
) -> Result<Vec<u8>, ArchiveError> {
    let size = entry.header().entry_size().unwrap_or(u64::MAX);
    if size > EXTENSION_LEN_MAX {
        return Err(ArchiveError::broken("an extended header is far too long"));
    }
    let mut contents = Vec::new();
    entry.read_to_end(&mut contents).map_err(|error| meter.explain(error))?;
    if (contents.len() as u64) < size {
        return Err(ArchiveError::Truncated);
    }
    Ok(contents)
}

/// A name in a header of its own, which ends with a NUL.
fn text<R: Read>(entry: &mut tar::Entry<'_, R>, meter: &Meter) -> Result<Vec<u8>, ArchiveError> {
    let mut text = contents(entry, meter)?;
    if let Some(end) = text.iter().position(|b| *b == 0) {
        text.truncate(end);
    }
    // So that an error does not have to show it.
    text.truncate(2 * SOURCE_PATH_LEN_MAX);
    Ok(text)
}

/// Remembers the last block: an archive that was not cut off ends in zeros.
struct Ending<R> {
    source: R,
    /// A ring of the last bytes.
    block: [u8; BLOCK],
    length: u64,
}

impl<R> Ending<R> {
    fn ends_in_zeros(&self) -> bool {
        self.length >= BLOCK as u64 && self.block.iter().all(|b| *b == 0)
    }
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        let last = &buffer[n.saturating_sub(BLOCK)..n];
        let skipped = (n - last.len()) as u64;
        for (byte, at) in last.iter().zip(self.length + skipped..) {
            self.block[(at % BLOCK as u64) as usize] = *byte;
        }
        self.length += n as u64;
        Ok(n)
    }
}
