//! Compresses a complete segment, in steps short enough to be taken between two reads of a FIFO.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// About a millisecond of work.
const STEP_BYTES: usize = 64 << 10;

/// A segment being sealed. Dropping it leaves the segment as it was.
pub struct Seal {
    from: PathBuf,
    half: PathBuf,
    source: File,
    target: Option<GzEncoder<File>>,
    buffer: Box<[u8]>,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Seal {
    /// How the name of an unfinished file ends.
    pub(crate) const HALF: &'static str = ".log.gz.half";

    pub fn begin(segment: &Path) -> io::Result<Self> {
        let source = File::open(segment)?;
        let half = segment.with_extension("log.gz.half");
        let target =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
        Ok(Self {
            from: segment.to_owned(),
            half,
            source,
            target: Some(GzEncoder::new(target, Compression::fast())),
            buffer: vec![0; STEP_BYTES].into(),
        })
    }

    /// Does a little; true when the sealed segment has taken the place of the plain one.
    pub fn step(&mut self) -> io::Result<bool> {
        let Some(target) = self.target.as_mut() else { return Ok(true) };
        let n = self.source.read(&mut self.buffer)?;
        if n > 0 {
            target.write_all(&self.buffer[..n])?;
            return Ok(false);
        }
        if let Some(target) = self.target.take() {
            // The plain one is removed below: what replaces it must be on the disk first.
            target.finish()?.sync_data()?;
        }
        std::fs::rename(&self.half, self.from.with_extension("log.gz"))?;
        std::fs::remove_file(&self.from)?;
        Ok(true)
    }

    pub fn complete(mut self) -> io::Result<()> {
        while !self.step()? {}
        Ok(())
    }
}

impl Drop for Seal {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.half);
    }
}
