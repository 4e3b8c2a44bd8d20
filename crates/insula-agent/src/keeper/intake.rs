//! One FIFO of an instance: out of the pipe, through the spool, into lines.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use insula_model::Timestamp;
use rustix::io::Errno;

use super::gate::LINE_COST_BYTES;
use super::spool::Spool;
use crate::log::{Batch, LineCutter, SegmentWriter, Stream};

/// How much one instance may have in the pipe while we are away or busy; the kernel's own default
/// is a quarter of it.
const PIPE_BYTES: usize = 256 << 10;
/// One step: large enough to be cheap, small enough to be fair to the others.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// What one attempt to read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Took {
    Bytes(usize),
    Nothing,
    /// Nobody holds the other end, and nothing is left.
    End,
}

#[derive(Debug)]
pub(crate) struct Intake {
    stream: Stream,
    fifo: File,
    spool: Option<Spool>,
    cutter: LineCutter,
    pub(crate) over: bool,
}

impl Intake {
    pub(crate) fn open(fifo: &Path, stream: Stream) -> io::Result<Self> {
        // Not blocking: a FIFO without a writer must not hold us up. Read only: holding a write end
        // would hide the end of the sandbox.
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
        let fifo = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(fifo)?;
        if !fifo.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a FIFO"));
        }
        // The user's limit for pipes may be reached; the default is good enough.
        let _ = rustix::pipe::fcntl_setpipe_size(&fifo, PIPE_BYTES);
        Ok(Self { stream, fifo, spool: None, cutter: LineCutter::default(), over: false })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }

    /// Takes up what an earlier keeper took out of the pipe and did not bring into the log.
    pub(crate) fn recover(
        &mut self,
        writer: &mut SegmentWriter,
        each: &mut dyn FnMut(&mut SegmentWriter, &mut Batch),
        scratch: &mut Scratch,
    ) -> io::Result<()> {
        let name = self.stream.as_str();
        if !Spool::exists(writer.dir(), name)? {
            return Ok(());
        }
        let mark = writer.marks().of(self.stream);
        let spool = Spool::open(writer.dir(), name, mark)?;
        let then = spool.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let then = Timestamp::from_millis(i64::try_from(then.as_millis()).unwrap_or(0));
        let mut from = mark.max(spool.base());
        while from < spool.end() {
            let n = spool.read(from, &mut scratch.bytes)?;
            if n == 0 {
                break;
            }
            self.cut(writer, from, n, then, scratch);
            each(writer, &mut scratch.batch);
            from += n as u64;
        }
        self.spool = Some(spool);
        Ok(())
    }

    /// Takes at most `max` bytes and stages the lines they complete. Returns what that costs, too.
    pub(crate) fn take(
        &mut self,
        writer: &SegmentWriter,
        max: usize,
        now: Timestamp,
        scratch: &mut Scratch,
    ) -> io::Result<(Took, u64)> {
        let spool = match self.spool.as_mut() {
            Some(spool) => spool,
            None => {
                let mark = writer.marks().of(self.stream);
                let spool = Spool::open(writer.dir(), self.stream.as_str(), mark)?;
                self.spool.insert(spool)
            }
        };
        let from = spool.end();
        let n = match spool.fill(&self.fifo, max.min(CHUNK_BYTES)) {
            Ok(0) => return Ok((Took::End, 0)),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok((Took::Nothing, 0));
            }
            Err(error) => return Err(error),
        };
        let read = spool.read(from, &mut scratch.bytes[..n])?;
        let lines = self.cut(writer, from, read, now, scratch);
        Ok((Took::Bytes(n), n as u64 + lines * LINE_COST_BYTES))
    }

    /// To be called when what was staged is committed.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        match self.spool.as_mut() {
            Some(spool) => spool.roll(self.cutter.pending()),
            None => Ok(()),
        }
    }

    /// Reads what is there and forgets it.
    pub(crate) fn drop_some(&mut self, scratch: &mut Scratch) -> io::Result<Took> {
        match self.fifo.read(&mut scratch.bytes) {
            Ok(0) => Ok(Took::End),
            Ok(n) => {
                // The start of the line is gone, so the rest of it would make no sense.
                self.cutter.skip_line(scratch.bytes[n - 1] != b'\n');
                Ok(Took::Bytes(n))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Took::Nothing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Took::Bytes(0)),
            Err(error) => Err(error),
        }
    }

    /// Stages the unfinished line: its end is lost (`cut`) or will never come.
    pub(crate) fn flush(
        &mut self,
        writer: &SegmentWriter,
        cut: bool,
        now: Timestamp,
        batch: &mut Batch,
    ) {
        let mark = self.spool.as_ref().map_or(0, Spool::end);
        if let Some(rest) = self.cutter.finish() {
            writer.stage(batch, now, (self.stream, cut), mark, &rest);
        }
    }

    /// Everything is in the log; removes the spool.
    pub(crate) fn close(self) -> io::Result<()> {
        self.spool.map_or(Ok(()), Spool::remove)
    }

    fn cut(
        &mut self,
        writer: &SegmentWriter,
        from: u64,
        n: usize,
        now: Timestamp,
        scratch: &mut Scratch,
    ) -> u64 {
        let Scratch { bytes, batch } = scratch;
        let mut lines = 0;
        self.cutter.feed(&bytes[..n], |cut| {
            lines += 1;
            let mark = from + cut.used as u64;
            writer.stage(batch, now, (self.stream, cut.more), mark, cut.bytes);
        });
        lines
    }
}

/// The buffers of the whole keeper: one of each, however many instances there are.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) batch: Batch,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; CHUNK_BYTES].into(), batch: Batch::default() }
    }
}

/// The disk is full, over quota or broken: reasons to drop, not to stop.
pub(crate) fn is_about_the_disk(error: &io::Error) -> bool {
    [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS, Errno::FBIG]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
