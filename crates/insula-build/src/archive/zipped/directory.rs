//! The list at the end of a `.zip`, checked against the headers that it points to.

use std::io::{Read, Seek, SeekFrom};

use insula_model::Bytes;

use super::super::fault::shown;
use super::super::{ArchiveError, Limits};

const END: u32 = 0x0605_4b50;
const END_LEN: u64 = 22;
const COMMENT_LEN_MAX: u64 = 65_535;
const END64: u32 = 0x0606_4b50;
const END64_LEN: u64 = 56;
const LOCATOR64: u32 = 0x0706_4b50;
const LOCATOR64_LEN: u64 = 20;
const CENTRAL: u32 = 0x0201_4b50;
const CENTRAL_LEN: usize = 46;
const LOCAL: u32 = 0x0403_4b50;
const LOCAL_LEN: usize = 30;
/// 100,000 entries with paths of 300 bytes and their extra fields; held in memory as a whole.
const DIRECTORY_LEN_MAX: Bytes = Bytes::mib(64);
/// The bit of an entry's flags.
const ENCRYPTED: u16 = 1;
/// The extra field with the numbers that need 64 bits.
const ZIP64_FIELD: u16 = 1;
/// What the high byte of "made by" says where permissions are those of Unix.
const MADE_ON_UNIX: &[u8] = &[3, 19];

pub struct Record {
    pub name: Vec<u8>,
    pub what: What,
    pub method: Method,
    pub crc: u32,
    pub packed: u64,
    pub size: u64,
    /// Where its bytes begin.
    pub data: u64,
    header: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    File { executable: bool },
    Folder,
    Link,
    Special(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Stored,
    Deflated,
}

/// Every entry, in the order in which their bytes stand in the file.
pub fn read(source: &mut (impl Read + Seek), limits: &Limits) -> Result<Vec<Record>, ArchiveError> {
    let place = find(source)?;
    // Folders come on top of files.
    let max = limits.files.saturating_mul(3);
    if place.entries > max as u64 {
        return Err(ArchiveError::TooMany { max });
    }
    if place.length > DIRECTORY_LEN_MAX.0 {
        return Err(ArchiveError::broken(format!("its list is longer than {DIRECTORY_LEN_MAX}")));
    }
    let list = bytes_at(source, place.start, place.length)?;
    let mut records = Vec::new();
    let mut rest = list.as_slice();
    for _ in 0..place.entries {
        let (record, length) = central(rest)?;
        records.push(record);
        rest = &rest[length..];
    }
    if !rest.is_empty() {
        return Err(ArchiveError::broken("its list is longer than it says"));
    }
    records.sort_by_key(|record| record.header);
    let mut end = 0;
    for record in &mut records {
        if record.header >= place.start {
            return Err(ArchiveError::broken("its list points to no entry"));
        }
        local(source, record)?;
        if record.header < end || record.data.saturating_add(record.packed) > place.start {
            return Err(ArchiveError::Overlap { path: shown(&record.name) });
        }
        end = record.data + record.packed;
    }
    Ok(records)
}

/// Where the list stands.
struct Place {
    start: u64,
    length: u64,
    entries: u64,
}

fn find(source: &mut (impl Read + Seek)) -> Result<Place, ArchiveError> {
    let total = source.seek(SeekFrom::End(0)).map_err(|source| ArchiveError::Read { source })?;
    let tail_at = total.saturating_sub(END_LEN + COMMENT_LEN_MAX);
    let tail = bytes_at(source, tail_at, total - tail_at)?;
    let fits = |at: usize| {
        let end = &tail[at..];
        u32_at(end, 0) == END
            && at as u64 + END_LEN + u64::from(u16_at(end, 20)) == tail.len() as u64
    };
    let last = tail.len().checked_sub(END_LEN as usize);
    let at = last.and_then(|last| (0..=last).rev().find(|at| fits(*at)));
    // A zip that was cut off has lost its end first.
    let at = at.ok_or(ArchiveError::Truncated)?;
    let end = &tail[at..];
    if u16_at(end, 4) != 0 || u16_at(end, 6) != 0 || u16_at(end, 8) != u16_at(end, 10) {
        return Err(ArchiveError::broken("it is one of several disks"));
    }
    let mut place = Place {
        entries: u16_at(end, 10).into(),
        length: u32_at(end, 12).into(),
        start: u32_at(end, 16).into(),
    };
    let mut ends_at = tail_at + at as u64;
    let large = u64::from(u32::MAX);
    if place.entries == u64::from(u16::MAX) || place.length == large || place.start == large {
        (place, ends_at) = find64(source, ends_at)?;
    }
    // Something between the list and its end, or before the first entry, is no plain archive.
    if place.start.checked_add(place.length) != Some(ends_at) {
        return Err(ArchiveError::broken("its list is not where it says"));
    }
    Ok(place)
}

fn find64(source: &mut (impl Read + Seek), end: u64) -> Result<(Place, u64), ArchiveError> {
    let broken = || ArchiveError::broken("its second end is not where it says");
    let locator_at = end.checked_sub(LOCATOR64_LEN).ok_or_else(broken)?;
    let locator = bytes_at(source, locator_at, LOCATOR64_LEN)?;
    let at = u64_at(&locator, 8);
    if u32_at(&locator, 0) != LOCATOR64
        || u32_at(&locator, 4) != 0
        || at.checked_add(END64_LEN) != Some(locator_at)
    {
        return Err(broken());
    }
    let record = bytes_at(source, at, END64_LEN)?;
    if u32_at(&record, 0) != END64 {
        return Err(broken());
    }
    let place = Place {
        entries: u64_at(&record, 32),
        length: u64_at(&record, 40),
        start: u64_at(&record, 48),
    };
    Ok((place, at))
}

/// One entry of the list, and how long it is.
fn central(bytes: &[u8]) -> Result<(Record, usize), ArchiveError> {
    let broken = || ArchiveError::broken("its list makes no sense");
    if bytes.len() < CENTRAL_LEN || u32_at(bytes, 0) != CENTRAL {
        return Err(broken());
    }
    let name_end = CENTRAL_LEN + usize::from(u16_at(bytes, 28));
    let extra_end = name_end + usize::from(u16_at(bytes, 30));
    let length = extra_end + usize::from(u16_at(bytes, 32));
    if bytes.len() < length {
        return Err(broken());
    }
    let name = bytes[CENTRAL_LEN..name_end].to_vec();
    if u16_at(bytes, 8) & ENCRYPTED != 0 {
        return Err(ArchiveError::Encrypted { path: shown(&name) });
    }
    let method = match u16_at(bytes, 10) {
        0 => Method::Stored,
        8 => Method::Deflated,
        method => return Err(ArchiveError::Method { path: shown(&name), method }),
    };
    let mut large = Large::find(&bytes[name_end..extra_end]);
    let size = large.or(u32_at(bytes, 24)).ok_or_else(broken)?;
    let packed = large.or(u32_at(bytes, 20)).ok_or_else(broken)?;
    let header = large.or(u32_at(bytes, 42)).ok_or_else(broken)?;
    if method == Method::Stored && packed != size {
        return Err(ArchiveError::Size { path: shown(&name), declared: Bytes(size) });
    }
    let what = what(&name, bytes[5], u32_at(bytes, 38));
    let crc = u32_at(bytes, 16);
    Ok((Record { name, what, method, crc, packed, size, data: 0, header }, length))
}

fn what(name: &[u8], made_by: u8, attributes: u32) -> What {
    let mode = if MADE_ON_UNIX.contains(&made_by) { attributes >> 16 } else { 0 };
    let executable = mode & 0o111 != 0;
    match mode & 0o170_000 {
        0o120_000 => What::Link,
        0o040_000 => What::Folder,
        0o060_000 | 0o020_000 => What::Special("a device"),
        0o010_000 => What::Special("a pipe"),
        0o140_000 => What::Special("a socket"),
        // Programs leave the kind out, and a slash says it.
        0 | 0o100_000 if name.ends_with(b"/") => What::Folder,
        0 | 0o100_000 => What::File { executable },
        _ => What::Special("of a kind that is not understood"),
    }
}

/// The numbers that were too large for their place, in a fixed order.
struct Large<'b>(&'b [u8]);

impl<'b> Large<'b> {
    fn find(mut extra: &'b [u8]) -> Self {
        while extra.len() >= 4 {
            let (kind, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
            let Some(field) = extra.get(4..4 + length) else { break };
            if kind == ZIP64_FIELD {
                return Self(field);
            }
            extra = &extra[4 + length..];
        }
        Self(&[])
    }

    fn or(&mut self, small: u32) -> Option<u64> {
        if small != u32::MAX {
            return Some(small.into());
        }
        let (number, rest) = self.0.split_at_checked(8)?;
        self.0 = rest;
        Some(u64_at(number, 0))
    }
}

/// Finds where the bytes begin; the header in front of them must have the same name, so that no
/// other program takes the entry for something else.
fn local(source: &mut (impl Read + Seek), record: &mut Record) -> Result<(), ArchiveError> {
    let header = bytes_at(source, record.header, LOCAL_LEN as u64)?;
    if u32_at(&header, 0) != LOCAL {
        return Err(ArchiveError::broken("its list points to no entry"));
    }
    let (name, extra) = (u16_at(&header, 26), u16_at(&header, 28));
    let name_at = record.header + LOCAL_LEN as u64;
    if bytes_at(source, name_at, name.into())? != record.name {
        let reason = format!("`{}` has two names", shown(&record.name));
        return Err(ArchiveError::Broken { reason });
    }
    if u16_at(&header, 6) & ENCRYPTED != 0 {
        return Err(ArchiveError::Encrypted { path: shown(&record.name) });
    }
    record.data = name_at + u64::from(name) + u64::from(extra);
    Ok(())
}

fn bytes_at(
    source: &mut (impl Read + Seek),
    at: u64,
    length: u64,
) -> Result<Vec<u8>, ArchiveError> {
    let read = |source| ArchiveError::Read { source };
    source.seek(SeekFrom::Start(at)).map_err(read)?;
    let mut bytes = Vec::new();
    source.take(length).read_to_end(&mut bytes).map_err(read)?;
    if (bytes.len() as u64) < length { Err(ArchiveError::Truncated) } else { Ok(bytes) }
}

// The callers have checked the lengths.

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
