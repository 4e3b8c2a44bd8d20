//! Packs the writable layer of a build, when every process of it is gone.
//!
//! Names are sorted and owners left out, so that the same result is the same archive. What the build
//! deleted from its source is packed as an overlay tells it: a character device 0/0 for one name, a
//! mark for a folder whose contents were replaced.

use std::ffi::CStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use insula_model::node::NodeMode;
use insula_model::{Bytes, Digest};
use ring::digest::{Context, SHA256};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

/// A large `node_modules` is a third of it.
pub const FILES_MAX: usize = 500_000;
/// Below what a path of the kernel holds.
pub const DEPTH_MAX: usize = 200;
/// In the archive: this folder hides what is below it.
pub const OPAQUE_RECORD: &str = "INSULA.opaque";
/// Archives travel over a socket of this machine; time matters more than the last tenth.
const COMPRESSION: Compression = Compression::new(1);

/// How an overlay marks a folder that hides what lies below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opaque {
    Trusted,
    /// In user namespaces.
    User,
}

impl Opaque {
    pub fn of(mode: NodeMode) -> Self {
        match mode {
            NodeMode::Full => Self::Trusted,
            NodeMode::Development => Self::User,
        }
    }

    pub fn attribute(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.opaque",
            Self::User => c"user.overlay.opaque",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("pack `{path}`")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the build added more than {max}")]
    TooLarge { max: Bytes },
    #[error("the build added more than {FILES_MAX} files")]
    TooMany,
    #[error("the build made folders more than {DEPTH_MAX} deep")]
    TooDeep,
}

impl PackError {
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    pub digest: Digest,
    /// Unpacked.
    pub size: Bytes,
    /// Entries, whiteouts included. None means that the build changed nothing.
    pub entries: usize,
    /// All of it belongs to us on disk, so that the folder itself can serve as a layer.
    pub owned: bool,
}

/// Packs `layer` into the file `archive`.
pub fn pack(layer: &Path, archive: &Path, max: Bytes, opaque: Opaque) -> Result<Packed, PackError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PackError::Io { path, source }
    };
    let file = File::create_new(archive).map_err(failed(archive))?;
    let hashing = Hashing { inner: io::BufWriter::new(file), hash: Context::new(&SHA256) };
    let mut packer = Packer {
        builder: Builder::new(GzEncoder::new(hashing, COMPRESSION)),
        opaque,
        max,
        size: 0,
        entries: 0,
        owned: true,
        us: rustix::process::geteuid().as_raw(),
    };
    packer.folder(layer, Path::new(""), 0)?;
    let (size, entries, owned) = (Bytes(packer.size), packer.entries, packer.owned);
    let finish = || -> io::Result<Context> {
        let mut hashing = packer.builder.into_inner()?.finish()?;
        hashing.inner.flush()?;
        Ok(hashing.hash)
    };
    let hash = finish().map_err(failed(archive))?;
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    let digest = Digest::from_sha256(digest);
    Ok(Packed { digest, size, entries, owned })
}

struct Packer<W: Write> {
    builder: Builder<W>,
    opaque: Opaque,
    max: Bytes,
    size: u64,
    entries: usize,
    owned: bool,
    us: u32,
}

impl<W: Write> Packer<W> {
    fn folder(&mut self, path: &Path, name: &Path, depth: usize) -> Result<(), PackError> {
        if depth > DEPTH_MAX {
            return Err(PackError::TooDeep);
        }
        let failed = |source| PackError::Io { path: name.to_owned(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
            if self.entries + names.len() > FILES_MAX {
                return Err(PackError::TooMany);
            }
        }
        names.sort();
        for entry in names {
            self.entry(&path.join(&entry), &name.join(&entry), depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path, depth: usize) -> Result<(), PackError> {
        let failed = |source| PackError::Io { path: name.to_owned(), source };
        let about = fs::symlink_metadata(path).map_err(failed)?;
        let kind = about.file_type();
        self.owned &= about.uid() == self.us;
        self.entries += 1;
        if self.entries > FILES_MAX {
            return Err(PackError::TooMany);
        }
        if kind.is_dir() {
            if self.is_opaque(path).map_err(failed)? {
                let record = [(OPAQUE_RECORD, &b"y"[..])];
                self.builder.append_pax_extensions(record).map_err(failed)?;
            }
            let mut header = header(EntryType::Directory, &about);
            self.builder.append_data(&mut header, name, io::empty()).map_err(failed)?;
            return self.folder(path, name, depth + 1);
        }
        if kind.is_file() {
            self.size = self.size.saturating_add(about.len());
            if self.size > self.max.0 {
                return Err(PackError::TooLarge { max: self.max });
            }
            let mut header = header(EntryType::Regular, &about);
            header.set_size(about.len());
            let file = File::open(path).map_err(failed)?;
            return self.builder.append_data(&mut header, name, file).map_err(failed);
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(failed)?;
            let mut header = header(EntryType::Symlink, &about);
            return self.builder.append_link(&mut header, name, target).map_err(failed);
        }
        if kind.is_char_device() && about.rdev() == 0 {
            let mut header = header(EntryType::Char, &about);
            header.set_device_major(0).map_err(failed)?;
            header.set_device_minor(0).map_err(failed)?;
            return self.builder.append_data(&mut header, name, io::empty()).map_err(failed);
        }
        // Sockets and pipes that the build left behind: nothing to them without a process.
        self.entries -= 1;
        Ok(())
    }

    fn is_opaque(&self, path: &Path) -> io::Result<bool> {
        let mut value = [0; 8];
        match rustix::fs::lgetxattr(path, self.opaque.attribute(), &mut value) {
            Ok(len) => Ok(value[..len] == *b"y"),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Owners are left out, and everything can be read: inside an instance all of it belongs to the app.
fn header(kind: EntryType, about: &Metadata) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    let executable = about.mode() & 0o111 != 0 || kind == EntryType::Directory;
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_mtime(u64::try_from(about.mtime()).unwrap_or(0));
    header
}

struct Hashing<W> {
    inner: W,
    hash: Context,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};

    use super::super::layer::unpack;
    use super::*;

    #[test]
    fn what_is_packed_comes_back_with_its_deletions() {
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("layer");
        fs::create_dir_all(layer.join("bin/empty")).unwrap();
        fs::write(layer.join("bin/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(layer.join("bin/run"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::write(layer.join("private"), "x").unwrap();
        fs::set_permissions(layer.join("private"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("/usr/bin/python3", layer.join("bin/python")).unwrap();
        let long = "d".repeat(90).to_string();
        fs::create_dir_all(layer.join(&long).join(&long)).unwrap();
        fs::write(layer.join(&long).join(&long).join("deep"), "deep").unwrap();
        mknodat(CWD, layer.join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        let marks =
            setxattr(layer.join("bin"), Opaque::User.attribute(), b"y", XattrFlags::empty());
        let archive = folder.path().join("archive");
        let packed = pack(&layer, &archive, Bytes::mib(1), Opaque::User).unwrap();
        assert_eq!(packed.size.0, 10 + 1 + 4);

        let out = folder.path().join("out");
        unpack(File::open(&archive).unwrap(), &out, 1 << 20, Opaque::User).unwrap();
        let mode = |name: &str| fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("bin/run"), 0o755);
        assert_eq!(mode("private"), 0o644);
        assert!(out.join("bin/empty").is_dir());
        assert_eq!(fs::read_link(out.join("bin/python")).unwrap(), Path::new("/usr/bin/python3"));
        assert_eq!(fs::read(out.join(&long).join(&long).join("deep")).unwrap(), b"deep");
        let gone = fs::symlink_metadata(out.join("gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        if marks.is_ok() {
            let mut value = [0; 4];
            let got = rustix::fs::lgetxattr(out.join("bin"), Opaque::User.attribute(), &mut value);
            assert_eq!(got, Ok(1));
        }
        // The same layer is the same archive.
        let again =
            pack(&layer, &folder.path().join("again"), Bytes::mib(1), Opaque::User).unwrap();
        assert_eq!(again, packed);
    }

    #[test]
    fn too_much_is_refused_while_it_is_packed() {
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("layer");
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join("big"), vec![0; 4096]).unwrap();
        let refused = pack(&layer, &folder.path().join("archive"), Bytes(4095), Opaque::User);
        assert!(matches!(refused, Err(PackError::TooLarge { .. })));
    }
}
