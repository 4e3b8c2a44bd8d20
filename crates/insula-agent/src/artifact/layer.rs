//! Unpacks the layer that a build added: an archive that a tenant's build shaped.
//!
//! Every name is resolved by the kernel beneath the new folder and through no symlink, so that
//! neither `..` nor a symlink unpacked before leads out. Only files, folders, symlinks and the marks
//! of an overlay (what the build deleted) are taken; sizes and counts are bounded before they are
//! believed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use flate2::read::GzDecoder;
use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, fchmod, fsetxattr,
    futimens, mkdirat, mknodat, openat2, symlinkat,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::pack::{DEPTH_MAX, FILES_MAX, OPAQUE_RECORD, Opaque};

const INSIDE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("read the archive of a build")]
    Read(#[source] io::Error),
    #[error("unpack `{path}` of a build: {what}")]
    Refused { path: String, what: &'static str },
    #[error("unpack `{path}` of a build")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the archive of a build unpacks to more than {max} bytes")]
    TooLarge { max: u64 },
    #[error("the archive of a build holds more than {FILES_MAX} files")]
    TooMany,
}

impl LayerError {
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

/// Makes `dest`, which must not exist. Says how many bytes it holds.
pub fn unpack(
    archive: impl Read,
    dest: &Path,
    max: u64,
    opaque: Opaque,
) -> Result<u64, LayerError> {
    let start = |source: Errno| LayerError::Write { path: String::new(), source: source.into() };
    rustix::fs::mkdir(dest, Mode::from_raw_mode(0o755)).map_err(start)?;
    let root = rustix::fs::openat(CWD, dest, FOLDER, Mode::empty()).map_err(start)?;
    fchmod(&root, Mode::from_raw_mode(0o755)).map_err(start)?;
    let mut archive = Archive::new(GzDecoder::new(io::BufReader::new(archive)));
    let (mut total, mut count) = (0u64, 0usize);
    for entry in archive.entries().map_err(LayerError::Read)? {
        let mut entry = entry.map_err(LayerError::Read)?;
        count += 1;
        if count > FILES_MAX {
            return Err(LayerError::TooMany);
        }
        total = total.saturating_add(entry.size());
        if total > max {
            return Err(LayerError::TooLarge { max });
        }
        place(&mut entry, &root, opaque)?;
    }
    Ok(total)
}

fn place<R: Read>(
    entry: &mut Entry<'_, R>,
    root: &OwnedFd,
    opaque: Opaque,
) -> Result<(), LayerError> {
    let path = entry.path().map_err(LayerError::Read)?.into_owned();
    let shown = path.display().to_string();
    let refused = |what| LayerError::Refused { path: insula_model::names::excerpt(&shown), what };
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.components().count() > DEPTH_MAX {
        return Err(refused("its name leads elsewhere or too deep"));
    }
    let marked = entry.pax_extensions().map_err(LayerError::Read)?.is_some_and(|records| {
        records.flatten().any(|record| record.key_bytes() == OPAQUE_RECORD.as_bytes())
    });
    let write = |source: Errno| LayerError::Write {
        path: insula_model::names::excerpt(&shown),
        source: source.into(),
    };
    let Some(name) = path.file_name() else {
        // The top of the layer itself.
        return if marked { opaque.mark(root).map_err(write) } else { Ok(()) };
    };
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => folder(root, parent).map_err(write)?,
        Some(_) | None => root.try_clone().map_err(LayerError::Read)?,
    };
    let mode = entry.header().mode().map_err(LayerError::Read)? & 0o755;
    match entry.header().entry_type() {
        EntryType::Directory => {
            match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(write(error)),
            }
            let made = openat2(&parent, name, FOLDER, Mode::empty(), INSIDE).map_err(write)?;
            fchmod(&made, Mode::from_raw_mode(mode | 0o700)).map_err(write)?;
            if marked {
                opaque.mark(&made).map_err(write)?;
            }
            Ok(())
        }
        EntryType::Regular => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let made =
                openat2(&parent, name, flags, Mode::from_raw_mode(0o600), INSIDE).map_err(write)?;
            let mtime = entry.header().mtime().map_err(LayerError::Read)?;
            let mut file = File::from(made);
            io::copy(entry, &mut file).map_err(|source| LayerError::Write {
                path: insula_model::names::excerpt(&shown),
                source,
            })?;
            fchmod(&file, Mode::from_raw_mode(mode)).map_err(write)?;
            // Python compares the time of a source with what its compiled file says of it.
            let time = Timespec { tv_sec: i64::try_from(mtime).unwrap_or(0), tv_nsec: 0 };
            futimens(&file, &Timestamps { last_access: time, last_modification: time })
                .map_err(write)
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().ok_or_else(|| refused("a symlink to nowhere"))?;
            let target = std::ffi::OsStr::from_bytes(&target);
            // It is resolved inside a sandbox and nowhere else, so it may say what it likes.
            symlinkat(target, &parent, name).map_err(write)
        }
        EntryType::Char if is_whiteout(entry) => {
            mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), 0).map_err(write)
        }
        EntryType::Char => Err(refused("a device")),
        EntryType::Block | EntryType::Fifo | EntryType::Link => Err(refused("not a plain file")),
        _ => Err(refused("of a kind that we never pack")),
    }
}

fn is_whiteout<R: Read>(entry: &Entry<'_, R>) -> bool {
    let number = |part: io::Result<Option<u32>>| part.ok().flatten();
    number(entry.header().device_major()) == Some(0)
        && number(entry.header().device_minor()) == Some(0)
}

/// Opens a folder beneath the root, making what is missing.
fn folder(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    match openat2(root, path, FOLDER, Mode::empty(), INSIDE) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    let mut here = rustix::io::dup(root)?;
    for part in path.components() {
        match mkdirat(&here, part.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        here = openat2(&here, part.as_os_str(), FOLDER, Mode::empty(), INSIDE)?;
    }
    Ok(here)
}

impl Opaque {
    /// Whatever lies below in another layer is hidden.
    fn mark(self, folder: impl AsFd) -> Result<(), Errno> {
        fsetxattr(folder, self.attribute(), b"y", XattrFlags::empty())
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, Header};

    use super::*;

    const MAX: u64 = 1 << 20;

    /// An archive with one entry that the `tar` crate itself would refuse to write.
    fn archive(name: &str, kind: EntryType, content: &[u8], link: &str) -> Vec<u8> {
        let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        append(&mut builder, name, kind, content, link);
        builder.into_inner().unwrap().finish().unwrap()
    }

    fn append<W: io::Write>(
        builder: &mut Builder<W>,
        name: &str,
        kind: EntryType,
        content: &[u8],
        link: &str,
    ) {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o4777);
        header.set_mtime(1_000);
        if kind == EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    fn attempt(bytes: &[u8]) -> (Result<u64, LayerError>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("precious"), "x").unwrap();
        let result = unpack(bytes, &folder.path().join("layer"), MAX, Opaque::User);
        (result, folder)
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["../precious", "/etc/passwd", "a/../../precious", "./x/../../y"] {
            let (result, folder) = attempt(&archive(name, EntryType::Regular, b"evil", ""));
            assert!(matches!(result, Err(LayerError::Refused { .. })), "{name}: {result:?}");
            assert_eq!(std::fs::read(folder.path().join("precious")).unwrap(), b"x");
        }
    }

    #[test]
    fn a_symlink_unpacked_before_is_not_followed() {
        for link in ["..", "/tmp"] {
            let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
            append(&mut builder, "out", EntryType::Symlink, b"", link);
            append(&mut builder, "out/precious", EntryType::Regular, b"evil", "");
            let bytes = builder.into_inner().unwrap().finish().unwrap();
            let (result, folder) = attempt(&bytes);
            assert!(matches!(result, Err(LayerError::Write { .. })), "{link}: {result:?}");
            assert_eq!(std::fs::read(folder.path().join("precious")).unwrap(), b"x");
        }
        // Nor written through, where the last name itself is one.
        let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        append(&mut builder, "out", EntryType::Symlink, b"", "../precious");
        append(&mut builder, "out", EntryType::Regular, b"evil", "");
        let bytes = builder.into_inner().unwrap().finish().unwrap();
        let (result, folder) = attempt(&bytes);
        assert!(result.is_err());
        assert_eq!(std::fs::read(folder.path().join("precious")).unwrap(), b"x");
    }

    #[test]
    fn devices_hard_links_and_pipes_are_refused_and_set_user_id_is_dropped() {
        for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::Link] {
            let (result, _folder) = attempt(&archive("x", kind, b"", "../precious"));
            assert!(matches!(result, Err(LayerError::Refused { .. })), "{kind:?}: {result:?}");
        }
        let (result, folder) = attempt(&archive("x", EntryType::Regular, b"hi", ""));
        assert_eq!(result.unwrap(), 2);
        use std::os::unix::fs::PermissionsExt;
        let about = std::fs::metadata(folder.path().join("layer/x")).unwrap();
        assert_eq!(about.permissions().mode() & 0o7777, 0o755);
    }

    #[test]
    fn a_bomb_stops_at_its_limit() {
        let (result, _folder) =
            attempt(&archive("bomb", EntryType::Regular, &vec![0; 2 << 20], ""));
        assert!(matches!(result, Err(LayerError::TooLarge { max: MAX })), "{result:?}");
        // A size that the content does not keep is no way around.
        let (result, _folder) = attempt(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1]);
        assert!(matches!(result, Err(LayerError::Read(_))), "{result:?}");
    }
}
