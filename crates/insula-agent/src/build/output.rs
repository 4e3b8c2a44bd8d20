//! What a build writes, on its way into the log.
//!
//! The pipes are opened before the first process runs and read until the last is gone. One thread
//! writes the log, and the queue to it is short: a build that writes faster than the disk waits.

use std::io;

use insula_kit::clock::Clock;
use insula_kit::seal::SecretBytes;
use insula_model::{BuildId, Timestamp};
use insula_sandbox::SandboxDir;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::log::{LogError, LogRoot, LogWriter, Stream};
use crate::sandbox::Early;

const READ_BYTES: usize = 64 * 1024;
/// Pieces between the pipes and the disk.
const QUEUE: usize = 16;
/// What may be left in two pipes, twice over.
const DRAIN_READS_MAX: usize = 64;

enum Said {
    Bytes(Stream, Vec<u8>),
    Platform(String),
}

/// The log of one build, written by a thread of its own.
#[derive(Debug)]
pub struct BuildLog {
    queue: mpsc::Sender<Said>,
    writing: JoinHandle<Result<(), LogError>>,
}

struct Secret<'a>(&'a SecretBytes);

impl AsRef<[u8]> for Secret<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

impl BuildLog {
    pub fn open<'a>(
        root: &LogRoot,
        build: BuildId,
        secrets: impl Iterator<Item = &'a SecretBytes>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LogError> {
        let secrets: Vec<Secret<'_>> = secrets.map(Secret).collect();
        let now = Timestamp::from_millis(clock.now_ms());
        let mut log = LogWriter::open(root, build, &secrets, now)?;
        let (queue, mut said) = mpsc::channel(QUEUE);
        let writing = tokio::task::spawn_blocking(move || {
            let now = || Timestamp::from_millis(clock.now_ms());
            // A disk that is full must not stop the build from being drained.
            let mut failed = None;
            while let Some(said) = said.blocking_recv() {
                let written = match said {
                    Said::Bytes(stream, bytes) => log.append(stream, &bytes, now()),
                    Said::Platform(text) => log.append_platform(&text, now()),
                };
                failed = failed.or(written.err());
            }
            let finished = log.finish(now());
            failed.map_or(finished, Err)
        });
        Ok(Self { queue, writing })
    }

    /// A line of ours.
    pub async fn say(&self, text: String) {
        // The thread ends only with the queue.
        let _ = self.queue.send(Said::Platform(text)).await;
    }

    /// All that was said is on disk when this returns.
    pub async fn finish(self) -> Result<(), LogError> {
        drop(self.queue);
        self.writing.await.map_err(LogError::Thread)?
    }
}

/// Opens both pipes of a sandbox as soon as they are there.
#[derive(Debug, Default)]
pub struct Pipes {
    out: Option<pipe::Receiver>,
    err: Option<pipe::Receiver>,
}

impl Early for Pipes {
    fn attempt(&mut self, dir: &SandboxDir) -> bool {
        // For writing as well, so that neither is at its end before the sandbox has opened it.
        let open = |path| pipe::OpenOptions::new().read_write(true).open_receiver(path).ok();
        if self.out.is_none() {
            self.out = open(dir.out());
        }
        if self.err.is_none() {
            self.err = open(dir.err());
        }
        self.out.is_some() && self.err.is_some()
    }
}

impl Pipes {
    /// Until dropped.
    pub async fn copy(&mut self, log: &BuildLog) -> io::Result<std::convert::Infallible> {
        let (mut out, mut err) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
        loop {
            let said = tokio::select! {
                read = next(self.out.as_mut(), &mut out) => Said::Bytes(Stream::Out, out[..read?].to_vec()),
                read = next(self.err.as_mut(), &mut err) => Said::Bytes(Stream::Err, err[..read?].to_vec()),
            };
            // Taken from the pipe and not lost: nothing between here and the next wait gives way.
            let _ = log.queue.send(said).await;
        }
    }

    /// What is left, once nobody writes any more.
    pub async fn drain(&mut self, log: &BuildLog) {
        for (stream, pipe) in [(Stream::Out, &mut self.out), (Stream::Err, &mut self.err)] {
            let Some(pipe) = pipe else { continue };
            let mut buffer = vec![0; READ_BYTES];
            for _ in 0..DRAIN_READS_MAX {
                match try_read(pipe, &mut buffer) {
                    Some(read) => {
                        let said = Said::Bytes(stream, buffer[..read].to_vec());
                        let _ = log.queue.send(said).await;
                    }
                    None => break,
                }
            }
        }
    }
}

/// Asks the kernel, not tokio, which may not have heard yet of what came last.
fn try_read(pipe: &pipe::Receiver, buffer: &mut [u8]) -> Option<usize> {
    rustix::io::read(pipe, buffer).ok().filter(|read| *read > 0)
}

async fn next(pipe: Option<&mut pipe::Receiver>, buffer: &mut [u8]) -> io::Result<usize> {
    match pipe {
        Some(pipe) => pipe.read(buffer).await,
        None => std::future::pending().await,
    }
}
