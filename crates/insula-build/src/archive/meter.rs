//! Counts what goes into a decompressor and what comes out, and stops what grows too much.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::rc::Rc;

use insula_model::Bytes;

use super::fault::shown;
use super::{ArchiveError, Limits};

/// Shared by both sides of the decompressor. An `io::Error` loses its meaning on its way through
/// other people's readers, so the meaning is kept here.
#[derive(Debug, Default)]
pub struct Meter {
    taken: Cell<u64>,
    given: Cell<u64>,
    ended: Cell<bool>,
    failed: Cell<bool>,
    fault: RefCell<Option<ArchiveError>>,
}

impl Meter {
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// What an error from some reader means.
    pub fn explain(&self, error: io::Error) -> ArchiveError {
        match self.fault.take() {
            Some(fault) => fault,
            // Whoever complains after the end wanted more.
            None if error.kind() == io::ErrorKind::UnexpectedEof || self.ended.get() => {
                ArchiveError::Truncated
            }
            None => ArchiveError::broken(error.to_string()),
        }
    }

    /// What was met while reading, if the reading failed.
    pub fn met(&self) -> Option<ArchiveError> {
        let failed = self.failed.get();
        failed.then(|| self.explain(io::Error::other("the archive cannot be read")))
    }

    /// What an error from a sink means, which may be its own or one that it met while reading.
    pub fn explain_sink(&self, name: &[u8], error: io::Error) -> ArchiveError {
        if self.failed.get() {
            self.explain(error)
        } else {
            ArchiveError::Keep { path: shown(name), source: error }
        }
    }

    fn stop(&self, fault: ArchiveError) -> io::Error {
        self.failed.set(true);
        *self.fault.borrow_mut() = Some(fault);
        io::Error::other("stopped")
    }
}

/// The side that comes from outside.
pub struct Taken<R> {
    pub source: R,
    pub meter: Rc<Meter>,
}

impl<R: Read> Read for Taken<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.source.read(buffer) {
            Ok(n) => {
                self.meter.taken.set(self.meter.taken.get() + n as u64);
                Ok(n)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(source) => Err(self.meter.stop(ArchiveError::Read { source })),
        }
    }
}

/// The side that is unpacked.
pub struct Given<R> {
    source: R,
    meter: Rc<Meter>,
    max: u64,
    limits: Limits,
}

impl<R: Read> Given<R> {
    /// `overhead` is what an archive may hold beside its files: headers and padding.
    pub fn new(source: R, meter: Rc<Meter>, limits: &Limits, overhead: Bytes) -> Self {
        let max = limits.total.0.saturating_add(overhead.0);
        Self { source, meter, max, limits: *limits }
    }
}

impl<R: Read> Read for Given<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer).inspect_err(|error| {
            self.meter.failed.set(error.kind() != io::ErrorKind::Interrupted);
        })?;
        if n == 0 && !buffer.is_empty() {
            self.meter.ended.set(true);
        }
        let given = self.meter.given.get() + n as u64;
        self.meter.given.set(given);
        if given > self.max {
            return Err(self.meter.stop(ArchiveError::TooLarge { max: self.limits.total }));
        }
        let most = self.meter.taken.get().saturating_mul(self.limits.ratio);
        if given > self.limits.ratio_from.0 && given > most {
            return Err(self.meter.stop(ArchiveError::Bomb { ratio: self.limits.ratio }));
        }
        Ok(n)
    }
}
