//! The digests of a folder's files, on two threads: one waits for the disk while one computes.

use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use insula_model::{Bytes, Digest};
use ring::digest::{Context, SHA256};

use super::Folder;
use crate::entry::{Entry, Node};

const THREADS: usize = 2;
/// Large enough that system calls do not count.
const BUFFER_LEN: usize = 128 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum HashError {
    #[error("read `{path}`")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` changed while it was read")]
    Changed { path: String },
}

impl Folder {
    /// The same list with the digest of each file. A file that is not as long as it was when it was
    /// listed is an error: half of a change is nobody's source.
    pub fn hash(&self) -> Result<Vec<Entry<Digest>>, HashError> {
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<(usize, Digest)>> = Mutex::new(Vec::new());
        let failure: Mutex<Option<HashError>> = Mutex::new(None);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let mut digests = Vec::new();
                    if let Err(error) = self.hash_some(&next, &mut digests) {
                        // The other thread stops as well.
                        next.store(self.entries.len(), Ordering::Relaxed);
                        lock(&failure).get_or_insert(error);
                    }
                    lock(&results).append(&mut digests);
                });
            }
        });
        if let Some(error) = lock(&failure).take() {
            return Err(error);
        }
        let mut digests = std::mem::take(&mut *lock(&results));
        digests.sort_unstable_by_key(|(at, _)| *at);
        Ok(self.with_digests(digests))
    }

    fn with_digests(&self, digests: Vec<(usize, Digest)>) -> Vec<Entry<Digest>> {
        let mut digests = digests.into_iter().map(|(_, digest)| digest);
        let hashed = |entry: &Entry<()>| {
            let node = match &entry.node {
                Node::File { size, executable, contents: () } => {
                    Node::File { size: *size, executable: *executable, contents: digests.next()? }
                }
                Node::Symlink { target } => Node::Symlink { target: target.clone() },
                Node::Dir => Node::Dir,
            };
            Some(Entry { path: entry.path.clone(), node })
        };
        self.entries.iter().filter_map(hashed).collect()
    }

    fn hash_some(
        &self,
        next: &AtomicUsize,
        digests: &mut Vec<(usize, Digest)>,
    ) -> Result<(), HashError> {
        let mut buffer = vec![0; BUFFER_LEN];
        while let Some((at, entry)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            self.entries.get(at).map(|entry| (at, entry))
        } {
            if let Node::File { size, .. } = entry.node {
                digests.push((at, self.hash_file(&entry.path, size, &mut buffer)?));
            }
        }
        Ok(())
    }

    fn hash_file(&self, path: &str, size: Bytes, buffer: &mut [u8]) -> Result<Digest, HashError> {
        let failed = |source| HashError::Read { path: path.to_owned(), source };
        // One byte more than was listed is enough to know that it grew.
        let mut file = self.open(path).map_err(failed)?.take(size.0.saturating_add(1));
        let mut context = Context::new(&SHA256);
        let mut length = 0;
        loop {
            let n = file.read(buffer).map_err(failed)?;
            if n == 0 {
                break;
            }
            length += n as u64;
            context.update(&buffer[..n]);
        }
        if length != size.0 {
            return Err(HashError::Changed { path: path.to_owned() });
        }
        let digest = context.finish();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Ok(Digest::from_sha256(bytes))
    }
}

/// A thread that panicked left nothing half done: what is locked is only appended to.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
