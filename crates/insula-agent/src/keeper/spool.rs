//! Takes bytes out of a FIFO so that no `kill -9` can lose one or bring one twice.
//!
//! The kernel moves the bytes from the pipe into the spool file (`splice`): at any moment a byte is in
//! exactly one of them, and the length of the file is the count of what was taken. The entries made of
//! it carry marks in the same count, so a keeper that returns knows which part of the spool is not yet
//! in the log. The name of the file says where in the stream it begins: `out.4096.spool`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::pipe::{SpliceFlags, splice};

/// A new file is begun beyond this; small, so that it stays in the page cache.
const SPOOL_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    stream: &'static str,
    file: File,
    base: u64,
    len: u64,
}

impl Spool {
    /// Opens what an earlier keeper left, or begins at `mark`.
    pub(crate) fn open(dir: &Path, stream: &'static str, mark: u64) -> io::Result<Self> {
        let mut found = find(dir, stream)?;
        let newest = found.pop();
        for (_, older) in found {
            // Killed between beginning a new one and removing the old one.
            std::fs::remove_file(older)?;
        }
        if let Some((base, path)) = newest {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let len = file.metadata()?.len();
            if base + len >= mark {
                return Ok(Self { dir: dir.to_owned(), stream, file, base, len });
            }
            // A power cut took its end; the log knows more.
            std::fs::remove_file(path)?;
        }
        let file = begin(dir, stream, mark, &[])?;
        Ok(Self { dir: dir.to_owned(), stream, file, base: mark, len: 0 })
    }

    /// Whether an earlier keeper left one.
    pub(crate) fn exists(dir: &Path, stream: &'static str) -> io::Result<bool> {
        Ok(!find(dir, stream)?.is_empty())
    }

    /// How much of the stream has been taken.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.len
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// When bytes last came in.
    pub(crate) fn modified(&self) -> io::Result<std::time::SystemTime> {
        self.file.metadata()?.modified()
    }

    /// Moves at most `max` bytes out of the pipe; 0 means that nobody holds its other end. Never waits.
    pub(crate) fn fill(&mut self, fifo: impl AsFd, max: usize) -> io::Result<usize> {
        let mut at = self.len;
        let n = splice(fifo, None, &self.file, Some(&mut at), max, SpliceFlags::NONBLOCK)?;
        self.len += n as u64;
        Ok(n)
    }

    /// Reads what was taken, from a place in the stream on.
    pub(crate) fn read(&self, from: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buf, from.saturating_sub(self.base))
    }

    /// Once all but `pending`, the unfinished line, is in the log: begins a new file if this is long.
    pub(crate) fn roll(&mut self, pending: &[u8]) -> io::Result<()> {
        if self.len < SPOOL_BYTES_MAX {
            return Ok(());
        }
        let base = self.end() - pending.len() as u64;
        let file = begin(&self.dir, self.stream, base, pending)?;
        let old = path(&self.dir, self.stream, self.base);
        self.file = file;
        self.base = base;
        self.len = pending.len() as u64;
        std::fs::remove_file(old)
    }

    /// Everything is in the log and nothing more comes.
    pub(crate) fn remove(self) -> io::Result<()> {
        std::fs::remove_file(path(&self.dir, self.stream, self.base))
    }
}

fn path(dir: &Path, stream: &str, base: u64) -> PathBuf {
    dir.join(format!("{stream}.{base}.spool"))
}

/// Appears under its name only when it is whole.
fn begin(dir: &Path, stream: &str, base: u64, pending: &[u8]) -> io::Result<File> {
    let half = dir.join(format!("{stream}.spool.half"));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&half)?;
    file.write_all_at(pending, 0)?;
    std::fs::rename(&half, path(dir, stream, base))?;
    Ok(file)
}

/// The spools of a stream, in the order of where they begin.
fn find(dir: &Path, stream: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let base = name
            .to_str()
            .and_then(|n| n.strip_prefix(stream)?.strip_prefix('.')?.strip_suffix(".spool"))
            .and_then(|base| base.parse().ok());
        if let Some(base) = base {
            found.push((base, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn the_count_goes_on_over_restarts_and_new_files() {
        let dir = tempfile::tempdir().unwrap();
        let (read, write) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut write = File::from(write);
        let mut spool = Spool::open(dir.path(), "out", 0).unwrap();
        for _ in 0..40 {
            write.write_all(&[b'x'; 32 << 10]).unwrap();
            assert_eq!(spool.fill(&read, 1 << 20).unwrap(), 32 << 10);
        }
        assert_eq!(spool.end(), 40 * (32 << 10));
        spool.roll(b"xx").unwrap();
        assert_eq!((spool.base(), spool.end()), (40 * (32 << 10) - 2, 40 * (32 << 10)));
        assert_eq!(
            spool.fill(&read, 9).unwrap_err().kind(),
            io::ErrorKind::WouldBlock,
            "an empty pipe is no error and no end"
        );
        write.write_all(b"yz").unwrap();
        drop(write);
        let spool = Spool::open(dir.path(), "out", 40 * (32 << 10) - 2);
        let mut spool = spool.unwrap();
        assert_eq!(spool.fill(&read, 9).unwrap(), 2);
        assert_eq!(spool.fill(&read, 9).unwrap(), 0);
        let mut buf = [0; 9];
        let n = spool.read(spool.end() - 4, &mut buf).unwrap();
        assert_eq!(&buf[..n], b"xxyz");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn of_two_left_behind_the_newer_counts_and_a_short_one_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("err.0.spool"), b"old").unwrap();
        std::fs::write(dir.path().join("err.3.spool"), b"new").unwrap();
        std::fs::write(dir.path().join("out.0.spool"), b"other").unwrap();
        assert_eq!(Spool::open(dir.path(), "err", 4).unwrap().end(), 6);
        assert!(!dir.path().join("err.0.spool").exists());
        assert_eq!(Spool::open(dir.path(), "err", 90).unwrap().end(), 90);
        assert_eq!(Spool::open(dir.path(), "out", 0).unwrap().end(), 5);
    }
}
