//! The log of a build, written by the agent in the format of the store, with secrets hidden.

use std::path::PathBuf;

use insula_model::{BuildId, Timestamp};

use super::LogError;
use super::cut::LineCutter;
use super::entry::Stream;
use super::layout::LogRoot;
use super::redact::Redactor;
use super::seal::Seal;
use super::writer::{Batch, SegmentWriter};

/// A build that prints more has lost its reader; the rest is counted and left out.
const BUILD_BYTES_MAX: u64 = 16 << 20;

/// Takes the output of a build as it comes, in chunks of any size.
///
/// Blocks on the disk for as long as an append takes.
#[derive(Debug)]
pub struct LogWriter {
    writer: SegmentWriter,
    batch: Batch,
    out: Redacted,
    err: Redacted,
    platform: Redacted,
    written: u64,
    left_out: u64,
}

/// One stream: redacted first, cut second, so that a secret of several lines is found too.
#[derive(Debug)]
struct Redacted {
    redactor: Redactor,
    cutter: LineCutter,
}

impl LogWriter {
    /// `secrets` are the exact values that must never be seen in the log.
    pub fn open<S: AsRef<[u8]>>(
        root: &LogRoot,
        build: BuildId,
        secrets: &[S],
        now: Timestamp,
    ) -> Result<Self, LogError> {
        let dir = root.build(build);
        let writer = SegmentWriter::open(&dir, now)
            .map_err(|source| LogError::Write { path: dir, source })?;
        let stream =
            || Redacted { redactor: Redactor::new(secrets), cutter: LineCutter::default() };
        Ok(Self {
            writer,
            batch: Batch::default(),
            out: stream(),
            err: stream(),
            platform: stream(),
            written: 0,
            left_out: 0,
        })
    }

    /// Appends what the build wrote.
    pub fn append(&mut self, stream: Stream, chunk: &[u8], now: Timestamp) -> Result<(), LogError> {
        if self.written > BUILD_BYTES_MAX && stream != Stream::Platform {
            self.left_out += chunk.len() as u64;
            return Ok(());
        }
        self.written += chunk.len() as u64;
        let mut shown = Vec::with_capacity(chunk.len());
        self.of(stream).redactor.push(chunk, &mut shown);
        self.cut(stream, &shown, now);
        self.commit()
    }

    /// Appends what the platform has to say; newlines make lines.
    pub fn append_platform(&mut self, text: &str, now: Timestamp) -> Result<(), LogError> {
        self.append(Stream::Platform, text.as_bytes(), now)?;
        self.end(Stream::Platform, now);
        self.commit()
    }

    /// Writes what is unfinished, and seals. The log is on the disk when this returns.
    pub fn finish(mut self, now: Timestamp) -> Result<(), LogError> {
        for stream in [Stream::Out, Stream::Err] {
            self.end(stream, now);
        }
        if self.left_out > 0 {
            let text = format!(
                "… {} bytes dropped (over {} bytes in one build)",
                self.left_out, BUILD_BYTES_MAX
            );
            self.append_platform(&text, now)?;
        }
        self.commit()?;
        let path = self.writer.dir().to_owned();
        let last = self.writer.finish();
        Seal::begin(&last)
            .and_then(Seal::complete)
            .map_err(|source| LogError::Write { path, source })
    }

    fn end(&mut self, stream: Stream, now: Timestamp) {
        let mut shown = Vec::new();
        self.of(stream).redactor.finish(&mut shown);
        self.cut(stream, &shown, now);
        if let Some(rest) = self.of(stream).cutter.finish() {
            self.writer.stage(&mut self.batch, now, (stream, false), 0, &rest);
        }
    }

    fn cut(&mut self, stream: Stream, shown: &[u8], now: Timestamp) {
        let Self { writer, batch, out, err, platform, .. } = self;
        let cutter = match stream {
            Stream::Out => &mut out.cutter,
            Stream::Err => &mut err.cutter,
            Stream::Platform => &mut platform.cutter,
        };
        cutter.feed(shown, |cut| writer.stage(batch, now, (stream, cut.more), 0, cut.bytes));
    }

    fn of(&mut self, stream: Stream) -> &mut Redacted {
        match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
            Stream::Platform => &mut self.platform,
        }
    }

    fn commit(&mut self) -> Result<(), LogError> {
        let path: PathBuf = self.writer.dir().to_owned();
        let rolled = match self.writer.commit(&mut self.batch) {
            Ok(rolled) => rolled,
            Err(lost) => {
                return Err(LogError::Write { path, source: lost.source });
            }
        };
        match rolled {
            Some(segment) => Seal::begin(&segment)
                .and_then(Seal::complete)
                .map_err(|source| LogError::Write { path, source }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::query::query_build;
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_763_673_183_000);

    fn id() -> BuildId {
        BuildId::from_parts(NOW, [7; 10])
    }

    #[test]
    fn a_secret_is_hidden_across_chunks_lines_and_streams() {
        let data = tempfile::tempdir().unwrap();
        let root = LogRoot::of(data.path());
        let secrets = ["s3cr3t-token", "-----KEY\nabcdef\n-----"];
        let mut log = LogWriter::open(&root, id(), &secrets, NOW).unwrap();
        log.append(Stream::Out, b"token is s3cr3t", NOW).unwrap();
        log.append(Stream::Err, b"warn: s3cr3t-token\n", NOW).unwrap();
        log.append(Stream::Out, b"-token!\nkey: -----KEY\nabc", NOW).unwrap();
        log.append(Stream::Out, b"def\n----- end\nno newline", NOW).unwrap();
        log.append_platform("failed: s3cr3t-token\nexit code 1", NOW).unwrap();
        log.finish(NOW).unwrap();
        let page = query_build(&root, id(), None, None).unwrap();
        let shown: Vec<String> =
            page.entries.iter().map(|e| format!("{} {}", e.stream.as_str(), e.text)).collect();
        assert_eq!(
            shown,
            [
                "err warn: [redacted]",
                "out token is [redacted]!",
                "out key: [redacted] end",
                "platform failed: [redacted]",
                "platform exit code 1",
                "out no newline",
            ]
        );
    }

    #[test]
    fn a_build_that_spams_is_bounded_and_told_so() {
        let data = tempfile::tempdir().unwrap();
        let root = LogRoot::of(data.path());
        let mut log = LogWriter::open::<&str>(&root, id(), &[], NOW).unwrap();
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            log.append(Stream::Out, &chunk, NOW).unwrap();
        }
        log.finish(NOW).unwrap();
        let page = query_build(&root, id(), Some(1), None).unwrap();
        assert!(page.entries[0].text.starts_with("… 3145728 bytes dropped"), "{page:?}");
    }
}
