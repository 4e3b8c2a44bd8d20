//! Lays a manifest out as a folder of files.
//!
//! The manifest was checked, and the kernel is asked to check again: every name is opened beneath
//! the new folder with `openat2`, through no symlink, and symlinks are made last, when nothing is
//! written any more. Contents are compared with their digests on the way, whoever fetched them.
//! The folder appears under its name when it is complete, or not at all. It is not synced: what is
//! laid out can be laid out again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use insula_model::Digest;
use rustix::fs::{
    CWD, Mode, OFlags, RenameFlags, ResolveFlags, fchmod, mkdirat, openat2, renameat_with,
    symlinkat,
};

use crate::error::BlobError;
use crate::manifest::{Chunk, Entry, Manifest, Node};
use crate::read::BlobStream;
use crate::staging::Hasher;

/// Files in the making: hides the wait for a store, and keeps few descriptors open.
const FILES_AT_ONCE: usize = 16;
/// Written at a time, so that small pieces do not cost a change of threads each.
const WRITE_BYTES: usize = 256 * 1024;

const INSIDE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

#[derive(Debug, thiserror::Error)]
pub enum MaterializeError {
    #[error("{} is there already", path.display())]
    Exists { path: PathBuf },
    #[error("{doing} `{path}`")]
    Io {
        doing: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("no space left to write `{path}`")]
    Full {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("fetch the contents of `{path}`")]
    Fetch {
        path: String,
        #[source]
        source: BlobError,
    },
    #[error("`{path}`: asked for {want}, and got other bytes")]
    Content { path: String, want: Digest },
    #[error("a thread that wrote files ended early")]
    Thread,
}

/// Makes `dest`, which must not exist; the folder above it must. `fetch` brings a chunk.
pub async fn materialize<F, Fut>(
    manifest: &Manifest,
    fetch: F,
    dest: &Path,
) -> Result<(), MaterializeError>
where
    F: Fn(Digest) -> Fut,
    Fut: Future<Output = Result<BlobStream, BlobError>>,
{
    let entries: Arc<[Entry]> = manifest.entries().into();
    let dest = dest.to_owned();
    let unfinished = {
        let (entries, dest) = (Arc::clone(&entries), dest.clone());
        on_thread(move || Unfinished::with_folders(&dest, &entries)).await?
    };
    let root = Arc::clone(&unfinished.root);
    stream::iter(entries.iter())
        .map(Ok)
        .try_for_each_concurrent(FILES_AT_ONCE, |entry| {
            let (root, fetch) = (Arc::clone(&root), &fetch);
            async move {
                match &entry.node {
                    Node::File { executable, chunks } => {
                        write_file(root, &entry.path, *executable, chunks, fetch).await
                    }
                    Node::Symlink { .. } | Node::Dir => Ok(()),
                }
            }
        })
        .await?;
    on_thread(move || {
        for entry in entries.iter() {
            if let Node::Symlink { target } = &entry.node {
                link(&unfinished.root, &entry.path, target)?;
            }
        }
        unfinished.finish(&dest)
    })
    .await
}

/// The folder under a name of its own, removed with all that is in it unless it was finished.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    root: Arc<OwnedFd>,
    finished: bool,
}

impl Unfinished {
    fn with_folders(dest: &Path, entries: &[Entry]) -> Result<Self, MaterializeError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let mut name = dest.file_name().map(ToOwned::to_owned).unwrap_or_default();
        name.push(format!(".unfinished-{}-{number}", std::process::id()));
        let path = dest.with_file_name(name);
        let shown = path.display().to_string();
        let failed = |doing| failed(doing, &shown);
        if path.exists() {
            // Of a process that died and had our pid.
            fs::remove_dir_all(&path).map_err(failed("clear"))?;
        }
        fs::create_dir(&path).map_err(failed("create folder"))?;
        let open = rustix::fs::open(
            &path,
            OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let root = Arc::new(open.map_err(|error| failed("open folder")(error.into()))?);
        let unfinished = Self { path, root, finished: false };
        let root = &unfinished.root;
        fchmod(root, Mode::from_raw_mode(0o755)).map_err(|e| failed("open up")(e.into()))?;
        for folder in folders_of(entries) {
            make_folder(root, folder)?;
        }
        Ok(unfinished)
    }

    fn finish(mut self, dest: &Path) -> Result<(), MaterializeError> {
        match renameat_with(CWD, &self.path, CWD, dest, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.finished = true;
                Ok(())
            }
            Err(rustix::io::Errno::EXIST) => {
                Err(MaterializeError::Exists { path: dest.to_owned() })
            }
            Err(error) => Err(failed("rename into", &dest.display().to_string())(error.into())),
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an unfinished folder stays behind");
        }
    }
}

/// Each folder once, parents before children.
fn folders_of(entries: &[Entry]) -> BTreeSet<&str> {
    let above = entries
        .iter()
        .flat_map(|entry| entry.path.match_indices('/').map(|(at, _)| &entry.path[..at]));
    let empty = entries.iter().filter(|entry| entry.node == Node::Dir).map(|e| e.path.as_str());
    above.chain(empty).collect()
}

fn make_folder(root: &OwnedFd, path: &str) -> Result<(), MaterializeError> {
    let failed = failed("create folder", path);
    let made = parent(root, path).and_then(|(parent, name)| {
        let mode = Mode::from_raw_mode(0o755);
        mkdirat(parent.as_fd(), name, mode)?;
        // The umask may have taken bits away.
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        fchmod(openat2(parent.as_fd(), name, flags, Mode::empty(), INSIDE)?, mode)?;
        Ok(())
    });
    made.map_err(failed)
}

fn link(root: &OwnedFd, path: &str, target: &str) -> Result<(), MaterializeError> {
    let made =
        parent(root, path).and_then(|(parent, name)| Ok(symlinkat(target, parent.as_fd(), name)?));
    made.map_err(failed("create link", path))
}

async fn write_file<F, Fut>(
    root: Arc<OwnedFd>,
    path: &str,
    executable: bool,
    chunks: &[Chunk],
    fetch: &F,
) -> Result<(), MaterializeError>
where
    F: Fn(Digest) -> Fut,
    Fut: Future<Output = Result<BlobStream, BlobError>>,
{
    let mut file = None;
    let mut waiting: Vec<u8> = Vec::new();
    for chunk in chunks {
        let fetching = |source| MaterializeError::Fetch { path: path.to_owned(), source };
        let content = || MaterializeError::Content { path: path.to_owned(), want: chunk.digest };
        let mut pieces = fetch(chunk.digest).await.map_err(fetching)?;
        let mut hasher = Hasher::new();
        while let Some(piece) = pieces.try_next().await.map_err(fetching)? {
            hasher.update(&piece);
            // Longer than announced: no need to see how much longer.
            if hasher.size() > chunk.size.0 {
                return Err(content());
            }
            waiting.extend_from_slice(&piece);
            if waiting.len() >= WRITE_BYTES {
                let bytes = std::mem::take(&mut waiting).into();
                file = Some(append(&root, file, path, executable, bytes).await?);
            }
        }
        if hasher.size() != chunk.size.0 || hasher.digest() != chunk.digest {
            return Err(content());
        }
    }
    append(&root, file, path, executable, waiting.into()).await?;
    Ok(())
}

/// Opens the file unless it is open, and writes to its end.
async fn append(
    root: &Arc<OwnedFd>,
    file: Option<File>,
    path: &str,
    executable: bool,
    bytes: Bytes,
) -> Result<File, MaterializeError> {
    let (root, path) = (Arc::clone(root), path.to_owned());
    on_thread(move || {
        let mut file = match file {
            Some(file) => file,
            None => create_file(&root, &path, executable).map_err(failed("create", &path))?,
        };
        file.write_all(&bytes).map_err(failed("write", &path))?;
        Ok(file)
    })
    .await
}

fn create_file(root: &OwnedFd, path: &str, executable: bool) -> io::Result<File> {
    let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat2(root.as_fd(), path, flags, mode, INSIDE)?;
    // The umask may have taken bits away.
    fchmod(&file, mode)?;
    Ok(file.into())
}

/// The folder that holds `path`, opened beneath `root`, and the name in it.
fn parent<'p>(root: &OwnedFd, path: &'p str) -> io::Result<(OwnedFd, &'p str)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match path.rsplit_once('/') {
        Some((folder, name)) => {
            Ok((openat2(root.as_fd(), folder, flags, Mode::empty(), INSIDE)?, name))
        }
        None => Ok((root.try_clone()?, path)),
    }
}

fn failed(doing: &'static str, path: &str) -> impl FnOnce(io::Error) -> MaterializeError + use<> {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            MaterializeError::Full { path, source }
        }
        _ => MaterializeError::Io { doing, path, source },
    }
}

async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MaterializeError> + Send + 'static,
) -> Result<T, MaterializeError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(MaterializeError::Thread))
}
