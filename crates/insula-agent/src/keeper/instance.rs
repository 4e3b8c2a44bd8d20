//! What the keeper does for one sandbox, from its first byte to its last.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use insula_model::Timestamp;

use super::contract::{ContractError, Exit, KeptRecord, LOG_SCHEMA, LogSpec};
use super::gate::RateGate;
use super::intake::{Intake, Scratch, Took, is_about_the_disk};
use super::sandbox;
use crate::log::{Batch, Bound, LogRoot, SegmentWriter, Stream};

/// Steps for one FIFO before the others get their turn.
const STEPS_PER_TURN: usize = 8;
/// What is taken after the end: the pipes themselves and a little. More comes only from a process
/// that escaped its sandbox's end, and that must not keep us.
const DRAIN_BYTES_MAX: usize = 4 << 20;
/// How long after dropping we say so, if nothing else comes; and how often we try a full disk.
const TELL_AFTER_MS: i64 = 1_000;

#[derive(Debug)]
pub(crate) struct Instance {
    dir: PathBuf,
    spec: LogSpec,
    writer: SegmentWriter,
    out: Intake,
    err: Intake,
    /// None when the sandbox had ended before we came.
    pidfd: Option<OwnedFd>,
    gate: RateGate,
    dropped: Dropped,
    disk: Disk,
    /// When something must be done though nothing comes.
    due_ms: Option<i64>,
    /// Complete segments, to be sealed.
    complete: Vec<PathBuf>,
}

#[derive(Debug, Default)]
struct Dropped {
    over_rate: Tally,
    disk_full: Tally,
}

/// Bytes dropped: since the last mark in the log, and ever.
#[derive(Debug, Default)]
struct Tally {
    untold: u64,
    total: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.untold += bytes;
        self.total += bytes;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Fine,
    /// Everything is dropped until this time; then we try again.
    Full {
        until_ms: i64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing more for now.
    Done,
    /// There may be more; the others come first.
    More,
    /// This FIFO has ended.
    End,
}

/// All that is left to do for an instance: to write its record and seal its last segments.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) dir: PathBuf,
    pub(crate) kept: KeptRecord,
    pub(crate) complete: Vec<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error(transparent)]
    Contract(#[from] ContractError),
    #[error("look at the processes of {path}")]
    Process {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("open the pipes of {path}")]
    Pipes {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("open the log {path}")]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Instance {
    /// Takes over the sandbox in `dir`. `None` if it is not complete yet, or all is done already.
    pub(crate) fn adopt(
        dir: &Path,
        root: &LogRoot,
        now: Timestamp,
        scratch: &mut Scratch,
    ) -> Result<Option<Self>, AdoptError> {
        if KeptRecord::exists(dir) {
            return Ok(None);
        }
        let (Some(spec), Some(init)) = (LogSpec::load(dir)?, sandbox::init(dir)?) else {
            return Ok(None);
        };
        let process = |source| AdoptError::Process { path: dir.to_owned(), source };
        let pidfd = init.pidfd().map_err(process)?;
        let pipes = |source| AdoptError::Pipes { path: dir.to_owned(), source };
        let out = Intake::open(&dir.join("out"), Stream::Out).map_err(pipes)?;
        let err = Intake::open(&dir.join("err"), Stream::Err).map_err(pipes)?;
        let path = root.instance(spec.app, &spec.component, spec.instance);
        let log = |source| AdoptError::Log { path: path.clone(), source };
        let writer = SegmentWriter::open(&path, now).map_err(log)?;
        let gate = RateGate::new(spec.rate_bytes_per_s, spec.burst_bytes, now.as_millis());
        let mut instance = Self {
            dir: dir.to_owned(),
            spec,
            writer,
            out,
            err,
            pidfd,
            gate,
            dropped: Dropped::default(),
            disk: Disk::Fine,
            due_ms: None,
            complete: Vec::new(),
        };
        instance.recover(now, scratch).map_err(log)?;
        Ok(Some(instance))
    }

    fn recover(&mut self, now: Timestamp, scratch: &mut Scratch) -> io::Result<()> {
        let Self { writer, out, err, complete, .. } = self;
        let mut lost = 0;
        let mut commit = |writer: &mut SegmentWriter, batch: &mut Batch| match writer.commit(batch)
        {
            Ok(rolled) => complete.extend(rolled),
            Err(error) => lost += error.lost_bytes,
        };
        out.recover(writer, &mut commit, scratch)?;
        err.recover(writer, &mut commit, scratch)?;
        if lost > 0 {
            self.disk_is_full(lost, now);
        }
        Ok(())
    }

    pub(crate) fn spec(&self) -> &LogSpec {
        &self.spec
    }

    pub(crate) fn log_dir(&self) -> &Path {
        self.writer.dir()
    }

    pub(crate) fn keep(&self) -> Bound {
        self.spec.keep
    }

    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn pipe(&self, stream: Stream) -> BorrowedFd<'_> {
        match stream {
            Stream::Err => self.err.fd(),
            Stream::Out | Stream::Platform => self.out.fd(),
        }
    }

    pub(crate) fn due_ms(&self) -> Option<i64> {
        self.due_ms
    }

    pub(crate) fn take_complete(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.complete)
    }

    /// Takes what is in one pipe, for a while.
    pub(crate) fn turn(&mut self, stream: Stream, now: Timestamp, scratch: &mut Scratch) -> Turn {
        for _ in 0..STEPS_PER_TURN {
            match self.step(stream, now, scratch) {
                Took::Bytes(_) => {}
                Took::Nothing => return Turn::Done,
                Took::End => {
                    self.intake(stream).over = true;
                    return Turn::End;
                }
            }
        }
        Turn::More
    }

    fn step(&mut self, stream: Stream, now: Timestamp, scratch: &mut Scratch) -> Took {
        if let Disk::Full { until_ms } = self.disk {
            if now.as_millis() < until_ms {
                return self.drop_some(stream, now, scratch, Why::DiskFull);
            }
            self.tell(now, scratch);
            if self.disk != Disk::Fine {
                return self.drop_some(stream, now, scratch, Why::DiskFull);
            }
        }
        let admitted = self.gate.admit(now.as_millis());
        if admitted == 0 {
            return self.drop_some(stream, now, scratch, Why::OverRate);
        }
        if self.dropped.over_rate.untold > 0 {
            self.tell(now, scratch);
        }
        let Self { writer, out, err, .. } = self;
        let intake = if stream == Stream::Err { err } else { out };
        match intake.take(writer, admitted, now, scratch) {
            Ok((took, cost)) => {
                self.gate.spend(cost);
                self.commit(now, &mut scratch.batch);
                if let Err(error) = self.intake(stream).settle()
                    && is_about_the_disk(&error)
                {
                    self.disk_is_full(0, now);
                }
                took
            }
            // Whatever is wrong with the spool: the app must not wait for it.
            Err(error) => {
                if !is_about_the_disk(&error) {
                    tracing::warn!(instance = %self.spec.instance, %error, "take from a pipe");
                }
                self.disk_is_full(0, now);
                self.drop_some(stream, now, scratch, Why::DiskFull)
            }
        }
    }

    fn drop_some(
        &mut self,
        stream: Stream,
        now: Timestamp,
        scratch: &mut Scratch,
        why: Why,
    ) -> Took {
        // The line that was begun ends here, as far as the log is concerned.
        let Self { writer, out, err, .. } = self;
        let intake = if stream == Stream::Err { err } else { out };
        intake.flush(writer, true, now, &mut scratch.batch);
        self.commit(now, &mut scratch.batch);
        match self.intake(stream).drop_some(scratch) {
            Ok(took) => {
                if let Took::Bytes(n) = took {
                    match why {
                        Why::OverRate => self.dropped.over_rate.add(n as u64),
                        Why::DiskFull => self.dropped.disk_full.add(n as u64),
                    }
                    self.due_ms.get_or_insert(now.as_millis() + TELL_AFTER_MS);
                }
                took
            }
            Err(error) => {
                tracing::warn!(instance = %self.spec.instance, %error, "read a pipe");
                Took::End
            }
        }
    }

    fn commit(&mut self, now: Timestamp, batch: &mut Batch) {
        match self.writer.commit(batch) {
            Ok(rolled) => self.complete.extend(rolled),
            Err(lost) => {
                if self.disk == Disk::Fine {
                    tracing::warn!(error = %lost, cause = %lost.source, "log");
                }
                self.disk_is_full(lost.lost_bytes, now);
            }
        }
    }

    fn disk_is_full(&mut self, lost_bytes: u64, now: Timestamp) {
        self.dropped.disk_full.add(lost_bytes);
        let until_ms = now.as_millis() + TELL_AFTER_MS;
        self.disk = Disk::Full { until_ms };
        self.due_ms = Some(until_ms);
    }

    /// Something was due.
    pub(crate) fn wake(&mut self, now: Timestamp, scratch: &mut Scratch) {
        if self.due_ms.is_some_and(|due| due <= now.as_millis()) {
            self.tell(now, scratch);
        }
    }

    /// Writes into the log what was dropped. If that works, the disk is fine.
    fn tell(&mut self, now: Timestamp, scratch: &mut Scratch) {
        self.due_ms = None;
        let marks = self.dropped.marks(self.gate.rate_bytes_per_s());
        for text in &marks {
            let platform = (Stream::Platform, false);
            self.writer.stage(&mut scratch.batch, now, platform, 0, text.as_bytes());
        }
        if marks.is_empty() {
            // A full disk at which nothing came: the next byte will tell.
            self.disk = Disk::Fine;
            return;
        }
        match self.writer.commit(&mut scratch.batch) {
            Ok(rolled) => {
                self.complete.extend(rolled);
                self.dropped.over_rate.untold = 0;
                self.dropped.disk_full.untold = 0;
                self.disk = Disk::Fine;
            }
            // Our own words do not count as lost: they are said next time.
            Err(_) => self.disk_is_full(0, now),
        }
    }

    fn intake(&mut self, stream: Stream) -> &mut Intake {
        match stream {
            Stream::Err => &mut self.err,
            Stream::Out | Stream::Platform => &mut self.out,
        }
    }

    /// The sandbox has ended: takes the rest and writes the end into the log, durably.
    pub(crate) fn finish(mut self, now: Timestamp, scratch: &mut Scratch) -> Ended {
        for stream in [Stream::Out, Stream::Err] {
            let mut left = DRAIN_BYTES_MAX;
            while left > 0 {
                match self.step(stream, now, scratch) {
                    Took::Bytes(n) => left = left.saturating_sub(n.max(1)),
                    Took::Nothing | Took::End => break,
                }
            }
            let Self { writer, out, err, .. } = &mut self;
            let intake = if stream == Stream::Err { err } else { out };
            intake.flush(writer, false, now, &mut scratch.batch);
            self.commit(now, &mut scratch.batch);
        }
        let (exit, unread_bytes) = sandbox::exit(&self.dir).unwrap_or_else(|error| {
            tracing::warn!(instance = %self.spec.instance, %error, "read how it ended");
            (None, 0)
        });
        self.tell(now, scratch);
        let mut said = vec![describe(exit)];
        if unread_bytes > 0 {
            said.insert(0, format!("… {unread_bytes} bytes dropped (the log keeper was away)"));
        }
        for text in said {
            let platform = (Stream::Platform, false);
            self.writer.stage(&mut scratch.batch, now, platform, 0, text.as_bytes());
        }
        self.commit(now, &mut scratch.batch);
        if let Err(error) = self.writer.sync() {
            tracing::warn!(instance = %self.spec.instance, %error, "sync the log");
        }
        let kept = KeptRecord {
            schema: LOG_SCHEMA,
            instance: self.spec.instance,
            noticed: now,
            exit,
            over_rate_bytes: self.dropped.over_rate.total,
            disk_full_bytes: self.dropped.disk_full.total,
            unread_bytes,
        };
        let Self { dir, writer, out, err, mut complete, .. } = self;
        for intake in [out, err] {
            if let Err(error) = intake.close() {
                tracing::warn!(%error, "remove a spool");
            }
        }
        complete.push(writer.finish());
        Ended { dir, kept, complete }
    }
}

#[derive(Debug, Clone, Copy)]
enum Why {
    OverRate,
    DiskFull,
}

impl Dropped {
    fn marks(&self, rate_bytes_per_s: u64) -> Vec<String> {
        let mut marks = Vec::new();
        if self.over_rate.untold > 0 {
            let rate = insula_model::Bytes(rate_bytes_per_s);
            marks.push(format!("… {} bytes dropped (over {rate}/s)", self.over_rate.untold));
        }
        if self.disk_full.untold > 0 {
            marks.push(format!("… {} bytes dropped (disk full)", self.disk_full.untold));
        }
        marks
    }
}

fn describe(exit: Option<Exit>) -> String {
    match exit {
        Some(Exit::Code(code)) => format!("exited with code {code}"),
        Some(Exit::Signal(signal)) => format!("ended by signal {signal}"),
        Some(Exit::NotStarted { errno }) => {
            format!("could not be started: {}", io::Error::from_raw_os_error(errno))
        }
        None => "ended without an exit record".to_owned(),
    }
}
