//! Reads segments: one of them, or those of an instance one after the other while it still writes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::cut::LINE_BYTES_MAX;
use super::entry::{FRAME_OVERHEAD_MAX, Frame, Stream, decode};
use super::layout::SegmentName;

/// Longer is damage, and skipped.
const FRAME_BYTES_MAX: usize = LINE_BYTES_MAX + FRAME_OVERHEAD_MAX;
/// Small, because a reader may have one per instance open.
const BUFFER_BYTES: usize = 8 << 10;

/// A plain or a sealed file.
pub(crate) enum Bytes {
    Plain(File),
    Sealed(Box<GzDecoder<File>>),
}

impl Read for Bytes {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buf),
            Self::Sealed(gz) => gz.read(buf),
        }
    }
}

/// The lines of one segment. At the end of a plain one it can be asked again later.
pub(crate) struct SegmentReader<R> {
    source: BufReader<R>,
    line: Vec<u8>,
    /// The current line is longer than any of ours.
    overlong: bool,
    /// The line was handed out; the next call begins a new one.
    spent: bool,
    consumed: u64,
    /// Bytes of the line that is not whole yet.
    pending: u64,
}

impl SegmentReader<Bytes> {
    pub(crate) fn open(dir: &Path, name: SegmentName) -> io::Result<Self> {
        if name.sealed {
            let file = File::open(name.path(dir))?;
            return Ok(Self::over(Bytes::Sealed(Box::new(GzDecoder::new(file)))));
        }
        match File::open(name.path(dir)) {
            Ok(file) => Ok(Self::over(Bytes::Plain(file))),
            // Sealed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::open(dir, name.as_sealed())
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets an unfinished line and goes back to where it begins: the writer may take it back.
    fn rewind(&mut self) -> io::Result<()> {
        if self.pending > 0
            && let Bytes::Plain(file) = self.source.get_mut()
        {
            // The buffer is empty, as the end of the file was reached.
            file.seek(SeekFrom::Start(self.consumed))?;
            self.pending = 0;
            self.line.clear();
            self.overlong = false;
        }
        Ok(())
    }
}

impl<R: Read> SegmentReader<R> {
    pub(crate) fn over(source: R) -> Self {
        Self {
            source: BufReader::with_capacity(BUFFER_BYTES, source),
            line: Vec::new(),
            overlong: false,
            spent: false,
            consumed: 0,
            pending: 0,
        }
    }

    /// Bytes up to and with the last newline.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// The next whole line that parses. None at the end, where an unfinished line may be waiting.
    pub(crate) fn next_frame(&mut self) -> io::Result<Option<Frame<'_>>> {
        while self.next_line()? {
            if !self.overlong && decode(&self.line).is_some() {
                // Decoded twice, because the borrow checker cannot see that the loop ends here.
                return Ok(decode(&self.line));
            }
        }
        Ok(None)
    }

    fn next_line(&mut self) -> io::Result<bool> {
        if self.spent {
            self.line.clear();
            self.spent = false;
            self.overlong = false;
        }
        loop {
            let ready = match self.source.fill_buf() {
                Ok(ready) => ready,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if ready.is_empty() {
                return Ok(false);
            }
            let newline = ready.iter().position(|b| *b == b'\n');
            let piece = &ready[..newline.unwrap_or(ready.len())];
            if self.line.len() + piece.len() > FRAME_BYTES_MAX {
                self.overlong = true;
            } else {
                self.line.extend_from_slice(piece);
            }
            // Counted when the line is whole, so that a torn one is not.
            let used = piece.len() + usize::from(newline.is_some());
            self.source.consume(used);
            self.pending += used as u64;
            if newline.is_some() {
                self.consumed += std::mem::take(&mut self.pending);
                self.spent = true;
                return Ok(true);
            }
        }
    }
}

/// An entry of one instance as it stands on disk.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) seq: u64,
    pub(crate) ms: i64,
    pub(crate) stream: Stream,
    pub(crate) cut: bool,
    pub(crate) bytes: Vec<u8>,
}

impl Raw {
    fn of(frame: Frame<'_>) -> Option<Self> {
        match frame {
            Frame::Entry { seq, ms, stream, cut, mark: _, bytes } => {
                Some(Self { seq, ms, stream, cut, bytes: bytes.to_vec() })
            }
            Frame::Marks { .. } => None,
        }
    }
}

/// The entries of one segment.
pub(crate) fn entries(dir: &Path, name: SegmentName, mut each: impl FnMut(Raw)) -> io::Result<()> {
    let mut segment = match SegmentReader::open(dir, name) {
        Ok(segment) => segment,
        // Retention took it away since it was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    while let Some(frame) = segment.next_frame()? {
        if let Some(raw) = Raw::of(frame) {
            each(raw);
        }
    }
    Ok(())
}

/// The entries of one instance, oldest first, opening a segment only when it is asked for. After the
/// end it may be asked again: it goes on where the writer went on, also in a newer segment.
pub(crate) struct InstanceReader {
    dir: PathBuf,
    ahead: VecDeque<SegmentName>,
    open: Option<(SegmentName, SegmentReader<Bytes>)>,
    /// The newest segment that was opened.
    reached: u64,
    last_seq: u64,
}

impl InstanceReader {
    /// Leaves out whole segments that hold nothing from `since_ms` on.
    pub(crate) fn open(dir: &Path, since_ms: i64) -> io::Result<Self> {
        let mut ahead: VecDeque<_> = SegmentName::list(dir)?.into();
        // A segment ends where the next one begins.
        while ahead.get(1).is_some_and(|next| next.ms < since_ms) {
            ahead.pop_front();
        }
        Ok(Self { dir: dir.to_owned(), ahead, open: None, reached: 0, last_seq: 0 })
    }

    /// No entry to come is older than this; none when there is nothing more for now.
    pub(crate) fn no_older_than(&self) -> Option<i64> {
        match &self.open {
            Some((name, _)) => Some(name.ms),
            None => self.ahead.front().map(|name| name.ms),
        }
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<Raw>> {
        loop {
            if let Some(raw) = self.rest_of_open()? {
                return Ok(Some(raw));
            }
            if self.ahead.is_empty() {
                self.ahead = SegmentName::list(&self.dir)?
                    .into_iter()
                    .filter(|n| n.seq > self.reached)
                    .collect();
                // The writer may have written here between our read and its roll.
                if !self.ahead.is_empty()
                    && let Some(raw) = self.rest_of_open()?
                {
                    return Ok(Some(raw));
                }
            }
            let Some(name) = self.ahead.pop_front() else { return Ok(None) };
            self.reached = name.seq;
            self.open = match SegmentReader::open(&self.dir, name) {
                Ok(segment) => Some((name, segment)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
    }

    fn rest_of_open(&mut self) -> io::Result<Option<Raw>> {
        let Some((_, segment)) = self.open.as_mut() else { return Ok(None) };
        while let Some(frame) = segment.next_frame()? {
            match Raw::of(frame) {
                Some(raw) if raw.seq > self.last_seq => {
                    self.last_seq = raw.seq;
                    return Ok(Some(raw));
                }
                // A segment that was sealed while it was read may be read again from its start.
                Some(_) | None => {}
            }
        }
        segment.rewind()?;
        Ok(None)
    }
}
