//! `.zip`, read by its central directory, with the rules that a library for friendly archives has
//! no reason to keep: each name once, no two entries over the same bytes, both headers of an entry
//! of one mind, and no more of either than we are ready to hold.
//!
//! Stored and deflated entries only; no encryption, no archives of several disks.

mod directory;

use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use flate2::Crc;
use flate2::read::DeflateDecoder;
use insula_model::Bytes;
use insula_model::limits::SOURCE_PATH_LEN_MAX;

use super::fault::shown;
use super::meter::{Given, Meter, Taken};
use super::tree::Tree;
use super::{ArchiveError, FileHead, Limits, Sink};
use crate::entry::Entry;
use directory::{Method, Record, What};

pub fn read<T>(
    mut source: impl Read + Seek,
    limits: &Limits,
    sink: &mut Sink<'_, T>,
) -> Result<Vec<Entry<T>>, ArchiveError> {
    let records = directory::read(&mut source, limits)?;
    let meter = Meter::new();
    let mut tree = Tree::new(limits);
    for record in &records {
        tree.count()?;
        let Some(path) = tree.place(&record.name)? else { continue };
        match record.what {
            What::Folder => tree.folder(path)?,
            What::Special(what) => {
                return Err(ArchiveError::Special { path: shown(&record.name), what });
            }
            What::Link => {
                let target = link_target(&mut source, record, &meter, limits)?;
                tree.link(path, &target)?;
            }
            What::File { executable } => {
                let size = Bytes(record.size);
                tree.admit(&path, size)?;
                let head = FileHead { path: &path, size, executable };
                let kept = contents(&mut source, record, &meter, limits, |body| sink(head, body))?;
                tree.file(path, size, executable, kept);
            }
        }
    }
    tree.finish()
}

fn link_target(
    source: &mut (impl Read + Seek),
    record: &Record,
    meter: &Rc<Meter>,
    limits: &Limits,
) -> Result<Vec<u8>, ArchiveError> {
    if record.size > SOURCE_PATH_LEN_MAX as u64 {
        return Err(ArchiveError::Broken {
            reason: format!("the target of the link `{}` is too long", shown(&record.name)),
        });
    }
    contents(source, record, meter, limits, |body| {
        let mut target = Vec::new();
        body.read_to_end(&mut target)?;
        Ok(target)
    })
}

/// Unpacks one entry, and holds it to its size and its checksum.
fn contents<T>(
    source: &mut (impl Read + Seek),
    record: &Record,
    meter: &Rc<Meter>,
    limits: &Limits,
    take: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> Result<T, ArchiveError> {
    let path = || shown(&record.name);
    source.seek(SeekFrom::Start(record.data)).map_err(|source| ArchiveError::Read { source })?;
    let packed = Taken { source: source.take(record.packed), meter: Rc::clone(meter) };
    let unpacked: Box<dyn Read + '_> = match record.method {
        Method::Stored => Box::new(packed),
        Method::Deflated => Box::new(DeflateDecoder::new(packed)),
    };
    let mut body = Body {
        source: Given::new(unpacked, Rc::clone(meter), limits, Bytes(0)),
        crc: Crc::new(),
        left: record.size,
    };
    let kept = take(&mut body).map_err(|error| meter.explain_sink(&record.name, error))?;
    io::copy(&mut body, &mut io::sink()).map_err(|error| meter.explain(error))?;
    let declared = Bytes(record.size);
    if body.left > 0 {
        return Err(ArchiveError::Size { path: path(), declared });
    }
    // One byte more than was declared is too many, and more are not looked at.
    let more = body.source.read(&mut [0]).map_err(|error| meter.explain(error))?;
    if more > 0 {
        return Err(ArchiveError::Size { path: path(), declared });
    }
    if body.crc.sum() != record.crc {
        return Err(ArchiveError::Checksum { path: path() });
    }
    Ok(kept)
}

/// As many bytes as were declared, and their checksum.
struct Body<R> {
    source: R,
    crc: Crc,
    left: u64,
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.source.read(&mut buffer[..most])?;
        self.crc.update(&buffer[..n]);
        self.left -= n as u64;
        Ok(n)
    }
}
