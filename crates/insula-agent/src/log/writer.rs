//! Appends entries to the segments of one directory, and repairs what a killed writer left behind.
//!
//! The file is the truth: a writer that opens a directory finds in the active segment the last
//! number, the last time and how far each stream had been taken in. A torn last line is cut off;
//! whoever owns the marks brings it again. Nothing here waits for the disk; `sync` does.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use insula_model::Timestamp;
use rustix::fs::FlockOperation;

use super::entry::{self, Frame, Stream};
use super::layout::{SegmentName, list};
use super::reader::SegmentReader;
use super::seal::Seal;

/// A segment of this length is compressed: some 10 ms of work and 100 KiB for text.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 20;

/// How many bytes of each stream are in entries (or were dropped knowingly).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    pub out: u64,
    pub err: u64,
}

impl Marks {
    pub fn of(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Out => self.out,
            Stream::Err => self.err,
            Stream::Platform => 0,
        }
    }

    fn set(&mut self, stream: Stream, mark: u64) {
        match stream {
            Stream::Out => self.out = mark,
            Stream::Err => self.err = mark,
            Stream::Platform => {}
        }
    }
}

/// Entries on their way to a segment. Reused between writers, so that the buffer is there once.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u64,
    first_ms: i64,
    last_ms: i64,
    marks: Marks,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn len(&self) -> u64 {
        self.count
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }
}

/// The disk refused; what had been written whole stays, the rest is gone.
#[derive(Debug, thiserror::Error)]
#[error("append to {path}: {lost_bytes} bytes in {lost_entries} entries were not written")]
pub struct AppendError {
    pub path: PathBuf,
    pub lost_entries: u64,
    /// Bytes of the app, without our framing.
    pub lost_bytes: u64,
    #[source]
    pub source: io::Error,
}

#[derive(Debug)]
pub struct SegmentWriter {
    dir: PathBuf,
    file: File,
    name: SegmentName,
    len: u64,
    /// Bytes of a half-written entry lie behind `len`.
    torn: bool,
    next_seq: u64,
    last_ms: i64,
    marks: Marks,
}

impl SegmentWriter {
    /// Opens the directory, makes it if need be. Fails with `WouldBlock` when another writes there.
    pub fn open(dir: &Path, now: Timestamp) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        forget_half_sealed(dir)?;
        match SegmentName::list(dir)?.last() {
            None => Self::begin(dir, 1, now.as_millis().max(0), Marks::default()),
            Some(last) if last.sealed => {
                let end = End::of(SegmentReader::open(dir, *last)?)?;
                let now = now.as_millis().max(end.last_ms);
                Self::begin(dir, end.next_seq.max(last.seq + 1), now, end.marks)
            }
            Some(last) => Self::resume(dir, *last),
        }
    }

    fn begin(dir: &Path, seq: u64, ms: i64, marks: Marks) -> io::Result<Self> {
        let name = SegmentName { seq, ms, sealed: false };
        let path = name.path(dir);
        let begun = Self::begin_file(&path, seq, ms, marks);
        if begun.is_err() {
            // A full disk: an empty file must not become the newest segment.
            let _ = std::fs::remove_file(&path);
        }
        let (file, len) = begun?;
        let dir = dir.to_owned();
        Ok(Self { dir, file, name, len, torn: false, next_seq: seq, last_ms: ms, marks })
    }

    fn begin_file(path: &Path, seq: u64, ms: i64, marks: Marks) -> io::Result<(File, u64)> {
        let mut file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        // Nobody else writes a file that is just made; whoever looks at it for retention is quick.
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        let mut head = Vec::new();
        entry::encode_marks(&mut head, seq, ms, (marks.out, marks.err));
        file.write_all(&head)?;
        Ok((file, head.len() as u64))
    }

    fn resume(dir: &Path, name: SegmentName) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(name.path(dir))?;
        lock(&file)?;
        let end = End::of(SegmentReader::over(file.try_clone()?))?;
        file.set_len(end.bytes)?;
        file.seek(SeekFrom::Start(end.bytes))?;
        let mut writer = Self {
            dir: dir.to_owned(),
            file,
            name,
            len: end.bytes,
            torn: false,
            next_seq: end.next_seq.max(name.seq),
            last_ms: end.last_ms.max(name.ms),
            marks: end.marks,
        };
        if end.bytes == 0 {
            // Killed between making the file and its first line: its marks are in the one before.
            if let Some(before) = SegmentName::list(dir)?.iter().rev().find(|n| n.seq < name.seq) {
                writer.marks = End::of(SegmentReader::open(dir, *before)?)?.marks;
            }
            let mut head = Vec::new();
            let marks = (writer.marks.out, writer.marks.err);
            entry::encode_marks(&mut head, writer.next_seq, writer.last_ms, marks);
            writer.file.write_all(&head)?;
            writer.len = head.len() as u64;
        }
        Ok(writer)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// Puts an entry into the batch; `mark` is how much of the stream is used up with it. A batch is
    /// for one writer until it is committed.
    pub fn stage(
        &self,
        batch: &mut Batch,
        now: Timestamp,
        (stream, cut): (Stream, bool),
        mark: u64,
        bytes: &[u8],
    ) {
        // Times never run backwards within an instance, so that its entries are sorted by both.
        let floor = if batch.is_empty() { self.last_ms } else { batch.last_ms };
        let ms = now.as_millis().max(floor);
        if batch.is_empty() {
            batch.first_ms = ms;
            batch.marks = self.marks;
        }
        batch.last_ms = ms;
        batch.marks.set(stream, mark);
        let seq = self.next_seq + batch.count;
        entry::encode(&mut batch.bytes, (seq, ms), (stream, cut), mark, bytes);
        batch.count += 1;
    }

    /// Writes the batch and empties it. Returns the segment that is complete now, if one is.
    pub fn commit(&mut self, batch: &mut Batch) -> Result<Option<PathBuf>, AppendError> {
        if batch.is_empty() {
            return Ok(None);
        }
        let rolled = if self.len >= SEGMENT_BYTES_MAX {
            match Self::begin(&self.dir, self.next_seq, batch.first_ms, self.marks) {
                Ok(next) => Some(std::mem::replace(self, next).name.path(&self.dir)),
                // The old one goes on for a while; if the disk is full the write below says so.
                Err(_) => None,
            }
        } else {
            None
        };
        let written = self.write(&batch.bytes);
        // What was lost is lost: it is never asked for again.
        self.marks = batch.marks;
        let outcome = match written {
            Ok(()) => {
                self.next_seq += batch.count;
                self.last_ms = batch.last_ms;
                Ok(rolled)
            }
            Err((whole, source)) => {
                let kept = newlines(&batch.bytes[..whole]);
                self.next_seq += kept;
                if kept > 0 {
                    self.last_ms = batch.last_ms;
                }
                Err(AppendError {
                    path: self.name.path(&self.dir),
                    lost_entries: batch.count - kept,
                    lost_bytes: payload(&batch.bytes[whole..]),
                    source,
                })
            }
        };
        batch.clear();
        outcome
    }

    /// Writes all, or says how many bytes of whole lines were written and why not more.
    fn write(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        if self.torn {
            self.mend().map_err(|error| (0, error))?;
        }
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write(&bytes[done..]) {
                Ok(0) => return Err(self.stop(bytes, done, io::ErrorKind::WriteZero.into())),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.stop(bytes, done, error)),
            }
        }
        self.len += done as u64;
        Ok(())
    }

    /// Readers may have seen every whole line by now, so only the half one is taken back.
    fn stop(&mut self, bytes: &[u8], done: usize, error: io::Error) -> (usize, io::Error) {
        let whole = bytes[..done].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
        self.len += whole as u64;
        if whole < done && self.mend().is_err() {
            self.torn = true;
        }
        (whole, error)
    }

    fn mend(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.file.seek(SeekFrom::Start(self.len))?;
        self.torn = false;
        Ok(())
    }

    /// Whatever was committed is on the disk when this returns.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Nothing more will be written; returns the last segment, to be sealed.
    pub fn finish(self) -> PathBuf {
        self.name.path(&self.dir)
    }
}

/// What a segment says about where to go on.
struct End {
    next_seq: u64,
    last_ms: i64,
    marks: Marks,
    /// Length up to and with the last newline.
    bytes: u64,
}

impl End {
    fn of<R: Read>(mut segment: SegmentReader<R>) -> io::Result<Self> {
        let mut end = Self { next_seq: 0, last_ms: 0, marks: Marks::default(), bytes: 0 };
        while let Some(frame) = segment.next_frame()? {
            match frame {
                Frame::Marks { seq, ms, out, err } => {
                    end.next_seq = seq;
                    end.last_ms = ms;
                    end.marks = Marks { out, err };
                }
                Frame::Entry { seq, ms, stream, mark, .. } => {
                    end.next_seq = seq + 1;
                    end.last_ms = ms;
                    end.marks.set(stream, mark);
                }
            }
        }
        end.bytes = segment.consumed();
        Ok(end)
    }
}

/// Removes what a writer that was killed while sealing left half done.
fn forget_half_sealed(dir: &Path) -> io::Result<()> {
    for entry in list(dir)? {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let sealed_already =
            SegmentName::parse(name).is_some_and(|n| !n.sealed && n.as_sealed().path(dir).exists());
        if sealed_already || name.ends_with(Seal::HALF) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn lock(file: &File) -> io::Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

fn payload(frames: &[u8]) -> u64 {
    frames
        .split(|b| *b == b'\n')
        .map(|line| match entry::decode(line) {
            // The newline that the app wrote is one of the bytes lost.
            Some(Frame::Entry { bytes, .. }) => bytes.len() as u64 + 1,
            Some(Frame::Marks { .. }) | None => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::super::query::read_dir_all;
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_763_673_183_000);

    fn write(writer: &mut SegmentWriter, lines: &[(&str, u64)]) -> Option<PathBuf> {
        let mut batch = Batch::default();
        for (line, mark) in lines {
            writer.stage(&mut batch, NOW, (Stream::Out, false), *mark, line.as_bytes());
        }
        writer.commit(&mut batch).unwrap()
    }

    fn texts(dir: &Path) -> Vec<String> {
        read_dir_all(dir).into_iter().map(|e| format!("{} {}", e.seq, e.text)).collect()
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_the_marks_say_where_to_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SegmentWriter::open(dir.path(), NOW).unwrap();
        write(&mut writer, &[("one", 4), ("two", 8)]);
        let path = writer.finish();
        let whole = std::fs::read(&path).unwrap();
        let last_line = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        for torn_at in last_line..whole.len() {
            std::fs::write(&path, &whole[..torn_at]).unwrap();
            let mut writer = SegmentWriter::open(dir.path(), NOW).unwrap();
            assert_eq!(writer.marks(), Marks { out: 4, err: 0 }, "torn at {torn_at}");
            write(&mut writer, &[("two", 8)]);
            assert_eq!(std::fs::read(&path).unwrap(), whole, "torn at {torn_at}");
        }
    }

    #[test]
    fn a_file_killed_before_its_first_line_takes_the_marks_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SegmentWriter::open(dir.path(), NOW).unwrap();
        write(&mut writer, &[("one", 40)]);
        drop(writer);
        let next = SegmentName { seq: 2, ms: NOW.as_millis(), sealed: false };
        File::create(next.path(dir.path())).unwrap();
        let mut writer = SegmentWriter::open(dir.path(), NOW).unwrap();
        assert_eq!(writer.marks().out, 40);
        write(&mut writer, &[("two", 44)]);
        assert_eq!(texts(dir.path()), ["1 one", "2 two"]);
    }

    #[test]
    fn damage_in_the_middle_costs_its_own_lines_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SegmentWriter::open(dir.path(), NOW).unwrap();
        write(&mut writer, &[("one", 4), ("two", 8), ("three", 14)]);
        let path = writer.finish();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(3).position(|w| w == b"two").unwrap();
        bytes[at - "2 1763673183000 o 8 ".len()..at + 3].fill(0);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(SegmentWriter::open(dir.path(), NOW).unwrap().marks().out, 14);
        assert_eq!(texts(dir.path()), ["1 one", "3 three"]);
    }

    #[test]
    fn segments_roll_are_sealed_and_numbers_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SegmentWriter::open(dir.path(), NOW).unwrap();
        let line = "x".repeat(10_000);
        let mut sealed = 0;
        for n in 0..300u64 {
            if let Some(path) = write(&mut writer, &[(&line, (n + 1) * 10_001)]) {
                Seal::begin(&path).unwrap().complete().unwrap();
                sealed += 1;
            }
        }
        assert_eq!(sealed, 2);
        let names = SegmentName::list(dir.path()).unwrap();
        assert_eq!(names.iter().map(|n| n.sealed).collect::<Vec<_>>(), [true, true, false]);
        Seal::begin(&writer.finish()).unwrap().complete().unwrap();
        let writer = SegmentWriter::open(dir.path(), NOW).unwrap();
        assert_eq!(writer.marks().out, 300 * 10_001);
        assert_eq!(writer.next_seq, 301);
        assert_eq!(texts(dir.path()).len(), 300);
    }

    #[test]
    fn two_writers_never_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _first = SegmentWriter::open(dir.path(), NOW).unwrap();
        let second = SegmentWriter::open(dir.path(), NOW).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
    }
}
