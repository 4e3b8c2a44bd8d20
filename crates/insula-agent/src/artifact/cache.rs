//! Trees and layers by digest, unpacked once and shared by all who run them.
//!
//! Each appears under its name when it is whole. What nobody uses and no Target names goes, the
//! longest unused first, when there is too much of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use insula_blobs::manifest::MANIFEST_BYTES_MAX;
use insula_blobs::{BlobError as StoreError, Manifest, MaterializeError, materialize};
use insula_kit::backoff::Backoff;
use insula_model::build::Artifact;
use insula_model::deployment::{Cause, CauseCode};
use insula_model::limits::BUILD_OUTPUT_MAX;
use insula_model::node::NodeMode;
use insula_model::{Bytes, Digest, OrgId};
use serde::{Deserialize, Serialize};

use super::chunk::{self, CHUNKS_BYTES_MAX, Chunks};
use super::layer::{self, LayerError};
use super::pack::Opaque;
use crate::layout::Layout;
use crate::server::{BlobError, BlobKind, Server};
use crate::tree;

/// Of what no Target names: enough for the releases that a team goes back to.
pub const UNUSED_BYTES_MAX: u64 = 4 << 30;
pub const UNUSED_ENTRIES_MAX: usize = 64;
/// A server that is away comes back; until then nothing is lost by asking now and then.
const FETCH_AGAIN: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
/// Of a build's archive, compressed; never more than what it may unpack to.
const ARCHIVE_BYTES_MAX: u64 = BUILD_OUTPUT_MAX.0;

#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("read the manifest {digest}")]
    Manifest {
        digest: Digest,
        #[source]
        source: Box<insula_blobs::ManifestError>,
    },
    #[error("lay out the source {digest}")]
    Lay {
        digest: Digest,
        #[source]
        source: Box<MaterializeError>,
    },
    #[error("unpack the result {digest} of a build")]
    Layer {
        digest: Digest,
        #[source]
        source: LayerError,
    },
    #[error("{doing} {}", path.display())]
    Disk {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("a thread that worked on artifacts ended early")]
    Thread,
}

impl PrepareError {
    /// The server is away, and will be back.
    fn is_passing(&self) -> bool {
        match self {
            Self::Blob(error) => error.is_passing(),
            Self::Lay { source, .. } => fetch_error(source).is_some_and(BlobError::is_passing),
            Self::Manifest { .. } | Self::Layer { .. } | Self::Disk { .. } | Self::Thread => false,
        }
    }

    pub fn cause(&self) -> Cause {
        let full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        let code = match self {
            Self::Blob(BlobError::Disk { source, .. }) | Self::Disk { source, .. }
                if full(source) =>
            {
                CauseCode::DiskFull
            }
            Self::Lay { source, .. } if matches!(&**source, MaterializeError::Full { .. }) => {
                CauseCode::DiskFull
            }
            Self::Layer { source, .. } if source.is_full() => CauseCode::DiskFull,
            Self::Blob(BlobError::Missing { .. } | BlobError::NotIt { .. }) => {
                CauseCode::SourceLost
            }
            Self::Lay { source, .. } if fetch_error(source).is_some() => CauseCode::SourceLost,
            Self::Blob(_)
            | Self::Manifest { .. }
            | Self::Lay { .. }
            | Self::Layer { .. }
            | Self::Disk { .. }
            | Self::Thread => CauseCode::Internal,
        };
        Cause::new(code, crate::error::chain(self))
    }
}

/// What the server said, inside of what the layout said.
fn fetch_error(error: &MaterializeError) -> Option<&BlobError> {
    match error {
        MaterializeError::Fetch { source: StoreError::Sender { source }, .. } => {
            source.downcast_ref()
        }
        _ => None,
    }
}

/// The name of an entry: the last part of its path.
type Name = String;

#[derive(Debug)]
pub struct Artifacts {
    layout: Layout,
    server: Server,
    opaque: Opaque,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<Name, Entry>,
    /// Counts uses, so that the longest unused is known.
    clock: u64,
    named: BTreeSet<Name>,
}

#[derive(Debug, Default)]
struct Entry {
    users: usize,
    used: u64,
    bytes: u64,
    /// Held while somebody makes it.
    making: Arc<tokio::sync::Mutex<()>>,
    whole: bool,
}

/// Beside each entry: that it is whole on the disk, not only in memory.
#[derive(Debug, Serialize, Deserialize)]
struct Seal {
    bytes: u64,
}

/// The layers of an artifact, which stay where they are for as long as this is held.
#[derive(Debug)]
pub struct Lease {
    /// The topmost first.
    pub layers: Vec<PathBuf>,
    /// Of all layers together, unpacked.
    pub bytes: Bytes,
    names: Vec<Name>,
    artifacts: Arc<Artifacts>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut inner = self.artifacts.lock();
        for name in &self.names {
            if let Some(entry) = inner.entries.get_mut(name) {
                entry.users = entry.users.saturating_sub(1);
            }
        }
    }
}

impl Artifacts {
    /// Takes over what an earlier agent left, and removes what it left half-made.
    pub fn open(layout: &Layout, server: Server, mode: NodeMode) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(layout.artifacts())?;
        tree::remove(&layout.scratch())?;
        std::fs::create_dir_all(layout.scratch())?;
        let booted_since = crate::boot::changed(&layout.artifacts().join("boot-id"))?;
        let mut inner = Inner::default();
        for entry in std::fs::read_dir(layout.artifacts())? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if !(name.starts_with("source-") || name.starts_with("built-")) || !path.is_dir() {
                continue;
            }
            let seal: Option<Seal> = insula_kit::files::read_json(&seal_of(&path)).ok();
            match seal {
                // What was not synced before a power cut may have holes.
                None if booted_since => tree::remove(&path)?,
                seal => {
                    let bytes = seal.map_or(0, |seal| seal.bytes);
                    let entry = Entry { bytes, whole: true, ..Entry::default() };
                    inner.entries.insert(name.to_owned(), entry);
                }
            }
        }
        let (layout, opaque) = (layout.clone(), Opaque::of(mode));
        Ok(Arc::new(Self { layout, server, opaque, inner: Mutex::new(inner) }))
    }

    /// Has both layers at hand. Waits for a server that is away; fails for what waiting cannot mend.
    pub async fn lease(
        self: &Arc<Self>,
        org: OrgId,
        artifact: &Artifact,
    ) -> Result<Lease, PrepareError> {
        let mut lease =
            Lease { layers: vec![], bytes: Bytes(0), names: vec![], artifacts: Arc::clone(self) };
        if let Some(built) = artifact.built {
            let path = self.layout.built(&built);
            self.have(&mut lease, path, |path| self.fetch_layer(org, built, path)).await?;
        }
        let source = artifact.source;
        let path = self.layout.source(&source);
        self.have(&mut lease, path, |path| self.fetch_source(org, source, path)).await?;
        let inner = self.lock();
        let sizes = lease.names.iter().filter_map(|name| Some(inner.entries.get(name)?.bytes));
        lease.bytes = Bytes(sizes.sum());
        drop(inner);
        Ok(lease)
    }

    /// Takes in the layer of a build that ended here, so that it need not be fetched again.
    pub fn adopt_layer(
        &self,
        digest: &Digest,
        layer: &Path,
        bytes: u64,
    ) -> Result<(), PrepareError> {
        let path = self.layout.built(digest);
        if !path.exists() {
            let doing = "keep the layer of a build as";
            std::fs::rename(layer, &path).map_err(|source| PrepareError::Disk {
                doing,
                path: path.clone(),
                source,
            })?;
        }
        self.note(&name_of(&path), bytes);
        self.sync_later(path, bytes);
        Ok(())
    }

    async fn have<F, Fut>(
        self: &Arc<Self>,
        lease: &mut Lease,
        path: PathBuf,
        make: F,
    ) -> Result<(), PrepareError>
    where
        F: Fn(PathBuf) -> Fut,
        Fut: Future<Output = Result<u64, PrepareError>>,
    {
        let name = name_of(&path);
        let (making, whole) = {
            let mut inner = self.lock();
            inner.clock += 1;
            let clock = inner.clock;
            let entry = inner.entries.entry(name.clone()).or_default();
            entry.users += 1;
            entry.used = clock;
            (Arc::clone(&entry.making), entry.whole)
        };
        lease.names.push(name.clone());
        lease.layers.push(path.clone());
        if whole {
            return Ok(());
        }
        // One makes it, the others wait and find it made.
        let _making = making.lock_owned().await;
        if self.lock().entries.get(&name).is_some_and(|entry| entry.whole) {
            return Ok(());
        }
        let mut failures = 0;
        let bytes = loop {
            match make(path.clone()).await {
                Ok(bytes) => break bytes,
                Err(error) if error.is_passing() => {
                    failures += 1;
                    tracing::debug!(error = %crate::error::chain(&error), "fetch again");
                    tokio::time::sleep(FETCH_AGAIN.delay(failures, 1.0)).await;
                }
                Err(error) => return Err(error),
            }
        };
        self.note(&name, bytes);
        self.sync_later(path, bytes);
        Ok(())
    }

    async fn fetch_source(
        &self,
        org: OrgId,
        digest: Digest,
        path: PathBuf,
    ) -> Result<u64, PrepareError> {
        let max = MANIFEST_BYTES_MAX.0;
        let bytes = self.server.fetch_small(org, BlobKind::Manifest, digest, max).await?;
        let manifest = Manifest::decode(&bytes)
            .map_err(|source| PrepareError::Manifest { digest, source: Box::new(source) })?;
        let beside = self.scratch(&path);
        remove_if_there(&beside).await?;
        let (folder, scratch) = (self.layout.chunks(), self.layout.scratch());
        let chunks = Chunks::new(&folder, &scratch, org, self.server.clone());
        materialize(&manifest, |digest| chunks.stream(digest), &beside)
            .await
            .map_err(|source| PrepareError::Lay { digest, source: Box::new(source) })?;
        rename(&beside, &path)?;
        tokio::task::spawn_blocking(move || {
            if let Err(error) = chunk::trim(&folder, CHUNKS_BYTES_MAX) {
                tracing::warn!(%error, "remove old chunks");
            }
        });
        Ok(manifest.size().0)
    }

    async fn fetch_layer(
        &self,
        org: OrgId,
        digest: Digest,
        path: PathBuf,
    ) -> Result<u64, PrepareError> {
        let archive = self.layout.scratch().join(format!("{}.tar.gz", digest.hex()));
        let disk = |source| PrepareError::Disk { doing: "write", path: archive.clone(), source };
        let mut file = File::create(&archive).map_err(disk)?;
        self.server
            .fetch(org, BlobKind::Artifact, digest, ARCHIVE_BYTES_MAX, |piece| {
                file.write_all(piece)
            })
            .await?;
        drop(file);
        let beside = self.scratch(&path);
        remove_if_there(&beside).await?;
        let opaque = self.opaque;
        let bytes = tokio::task::spawn_blocking({
            let (archive, beside) = (archive.clone(), beside.clone());
            move || {
                let file = File::open(&archive).map_err(LayerError::Read)?;
                layer::unpack(file, &beside, BUILD_OUTPUT_MAX.0, opaque)
            }
        })
        .await
        .map_err(|_| PrepareError::Thread)?
        .map_err(|source| PrepareError::Layer { digest, source })?;
        rename(&beside, &path)?;
        let _ = std::fs::remove_file(&archive);
        Ok(bytes)
    }

    fn scratch(&self, path: &Path) -> PathBuf {
        self.layout.scratch().join(name_of(path))
    }

    fn note(&self, name: &str, bytes: u64) {
        let mut inner = self.lock();
        let entry = inner.entries.entry(name.to_owned()).or_default();
        (entry.whole, entry.bytes) = (true, bytes);
    }

    /// Nobody waits for the disk: until it is done, a power cut costs fetching once more.
    fn sync_later(&self, path: PathBuf, bytes: u64) {
        tokio::task::spawn_blocking(move || {
            let synced = File::open(&path).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
            if synced.is_ok() {
                let seal = Seal { bytes };
                let _ = insula_kit::files::write_json(
                    &seal_of(&path),
                    &seal,
                    insula_kit::files::Access::Private,
                );
            }
        });
    }

    /// Tells what Targets name, and removes what is too much of the rest.
    pub fn keep(&self, named: &BTreeSet<Artifact>) {
        let mut names = BTreeSet::new();
        for artifact in named {
            names.insert(name_of(&self.layout.source(&artifact.source)));
            names.extend(artifact.built.map(|built| name_of(&self.layout.built(&built))));
        }
        let gone = {
            let mut inner = self.lock();
            inner.named = names;
            let gone = surplus(&inner);
            // Out of sight while nobody else looks: whoever asks for it next makes it anew.
            gone.into_iter()
                .filter_map(|name| self.put_aside(&mut inner, &name))
                .collect::<Vec<_>>()
        };
        if gone.is_empty() {
            return;
        }
        tokio::task::spawn_blocking(move || {
            for path in gone {
                if let Err(error) = tree::remove(&path) {
                    tracing::warn!(%error, path = %path.display(), "remove an unused artifact");
                }
            }
        });
    }

    fn put_aside(&self, inner: &mut Inner, name: &str) -> Option<PathBuf> {
        let path = self.layout.artifacts().join(name);
        let aside = self.layout.scratch().join(format!("gone-{}-{name}", inner.clock));
        inner.clock += 1;
        let _ = std::fs::remove_file(seal_of(&path));
        match std::fs::rename(&path, &aside) {
            Ok(()) => {
                inner.entries.remove(name);
                Some(aside)
            }
            Err(error) => {
                tracing::warn!(%error, name, "put an unused artifact aside");
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which entries go, the longest unused first. Pure.
fn surplus(inner: &Inner) -> Vec<Name> {
    let mut unused: Vec<(&Name, &Entry)> = inner
        .entries
        .iter()
        .filter(|(name, entry)| entry.whole && entry.users == 0 && !inner.named.contains(*name))
        .collect();
    unused.sort_by_key(|(name, entry)| (entry.used, *name));
    let (mut bytes, mut count) =
        (unused.iter().map(|(_, entry)| entry.bytes).sum::<u64>(), unused.len());
    let mut gone = Vec::new();
    for (name, entry) in unused {
        if bytes <= UNUSED_BYTES_MAX && count <= UNUSED_ENTRIES_MAX {
            break;
        }
        bytes -= entry.bytes;
        count -= 1;
        gone.push(name.clone());
    }
    gone
}

fn name_of(path: &Path) -> Name {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn seal_of(path: &Path) -> PathBuf {
    path.with_extension("seal")
}

fn rename(from: &Path, to: &Path) -> Result<(), PrepareError> {
    let doing = "put into place";
    std::fs::rename(from, to).map_err(|source| PrepareError::Disk {
        doing,
        path: to.to_owned(),
        source,
    })
}

async fn remove_if_there(path: &Path) -> Result<(), PrepareError> {
    let folder = path.to_owned();
    tokio::task::spawn_blocking(move || tree::remove(&folder))
        .await
        .map_err(|_| PrepareError::Thread)?
        .map_err(|source| PrepareError::Disk { doing: "remove", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_names_or_uses_goes_and_the_oldest_first() {
        let mut inner = Inner::default();
        let entry =
            |users, used, bytes| Entry { users, used, bytes, whole: true, ..Entry::default() };
        inner.entries.insert("source-named".into(), entry(0, 1, UNUSED_BYTES_MAX));
        inner.entries.insert("source-used".into(), entry(1, 2, UNUSED_BYTES_MAX));
        inner.entries.insert("source-old".into(), entry(0, 3, UNUSED_BYTES_MAX));
        inner.entries.insert("source-new".into(), entry(0, 4, 1));
        inner.named.insert("source-named".into());
        assert_eq!(surplus(&inner), ["source-old"]);
        for n in 0..UNUSED_ENTRIES_MAX {
            inner.entries.insert(format!("built-{n}"), entry(0, 10, 0));
        }
        inner.entries.remove("source-old");
        assert_eq!(surplus(&inner), ["source-new"]);
    }
}
