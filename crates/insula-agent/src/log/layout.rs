//! Where logs lie. Paths are built from typed ids only, so no name can lead out of the root.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use insula_model::{AppId, BuildId, ComponentName, InstanceId};

/// `<data>/logs`.
#[derive(Debug, Clone)]
pub struct LogRoot(PathBuf);

/// The directory of one instance.
#[derive(Debug, Clone)]
pub(crate) struct InstanceDir {
    pub(crate) instance: InstanceId,
    pub(crate) path: PathBuf,
}

impl LogRoot {
    pub fn of(data: &Path) -> Self {
        Self(data.join("logs"))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn app(&self, app: AppId) -> PathBuf {
        self.0.join(app.to_string())
    }

    pub fn instance(&self, app: AppId, component: &ComponentName, instance: InstanceId) -> PathBuf {
        self.app(app).join(component.as_str()).join(instance.to_string())
    }

    pub fn build(&self, build: BuildId) -> PathBuf {
        self.0.join("builds").join(build.to_string())
    }

    /// The instances of an app that have logs, in order of their ids, which is that of their birth.
    pub(crate) fn instances(
        &self,
        app: AppId,
        component: Option<&ComponentName>,
        instance: Option<InstanceId>,
    ) -> io::Result<Vec<InstanceDir>> {
        let app = self.app(app);
        let components = match component {
            Some(name) => vec![app.join(name.as_str())],
            None => folders(&app)?,
        };
        let mut found = Vec::new();
        for path in components.iter().map(|c| folders(c)).collect::<io::Result<Vec<_>>>()?.concat()
        {
            let id = path.file_name().and_then(OsStr::to_str).and_then(|n| n.parse().ok());
            match id {
                Some(id) if instance.is_none_or(|wanted| wanted == id) => {
                    found.push(InstanceDir { instance: id, path });
                }
                _ => {}
            }
        }
        found.sort_by_key(|dir| dir.instance);
        Ok(found)
    }
}

/// The folders in a folder; none if it is not there.
pub(crate) fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in list(path)? {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// What a folder holds; nothing if it is not there, as retention may take it away at any time.
pub(crate) fn list(path: &Path) -> io::Result<Vec<std::fs::DirEntry>> {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The name of a segment: the number and the time of its first entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    pub seq: u64,
    pub ms: i64,
    /// Complete and compressed.
    pub sealed: bool,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.sealed { "log.gz" } else { "log" };
        write!(f, "{:012}-{:013}.{end}", self.seq, self.ms)
    }
}

impl SegmentName {
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, sealed) = match name.strip_suffix(".log.gz") {
            Some(stem) => (stem, true),
            None => (name.strip_suffix(".log")?, false),
        };
        let (seq, ms) = stem.split_once('-')?;
        Some(Self { seq: seq.parse().ok()?, ms: ms.parse().ok()?, sealed })
    }

    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(self.to_string())
    }

    pub(crate) fn as_sealed(self) -> Self {
        Self { sealed: true, ..self }
    }

    /// The segments of one instance, oldest first. While a segment is being sealed it is there
    /// twice; then only the sealed one counts.
    pub(crate) fn list(dir: &Path) -> io::Result<Vec<Self>> {
        let mut found: Vec<Self> = list(dir)?
            .iter()
            .filter_map(|entry| Self::parse(entry.file_name().to_str()?))
            .collect();
        found.sort_by_key(|name| (name.seq, name.ms, !name.sealed));
        found.dedup_by_key(|name| (name.seq, name.ms));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments_are_read_as_written_and_sort_by_age() {
        let name = SegmentName { seq: 12, ms: 1_763_673_183_000, sealed: true };
        assert_eq!(name.to_string(), "000000000012-1763673183000.log.gz");
        assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
        for other in ["out.0.spool", "000000000012-1763673183000.log.gz.tmp", "x-1.log", "1.log"] {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
    }
}
