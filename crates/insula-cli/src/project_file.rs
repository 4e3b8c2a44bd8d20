//! `.insula/project.json`: which server, org, project, environment and app a folder belongs to.
//!
//! Written by `insula init`; may be committed. It names and never authorises: no token is in it,
//! and its server is used only where one has signed in before (see `settings`).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use insula_kit::files::{self, Access};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

pub const FOLDER: &str = ".insula";
const FILE: &str = "project.json";
const FILE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
}

pub fn path_in(folder: &Path) -> PathBuf {
    folder.join(FOLDER).join(FILE)
}

pub fn store(folder: &Path, file: &ProjectFile) -> Result<PathBuf, Failure> {
    let path = path_in(folder);
    let above = folder.join(FOLDER);
    std::fs::create_dir_all(&above)
        .map_err(|error| Failure::because(format!("make {}", above.display()), &error))?;
    files::write_json(&path, file, Access::Public)?;
    Ok(path)
}

/// The file of `start`, or of the nearest folder above it, that belongs to us or to root: one that
/// somebody else left in a folder we share, such as /tmp, says nothing to us.
pub fn find(start: &Path) -> Result<Option<ProjectFile>, Failure> {
    let us = rustix::process::geteuid().as_raw();
    for folder in start.ancestors() {
        let path = path_in(folder);
        let Ok(metadata) = path.metadata() else { continue };
        if metadata.uid() != us && metadata.uid() != 0 {
            continue;
        }
        let bytes = files::read(&path, FILE_BYTES_MAX)?;
        return serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failure::because(format!("read {}", path.display()), &error)
                .hint("mend it, or write it again: insula init")
        });
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_what_it_or_a_folder_above_it_says() {
        let top = tempfile::tempdir().unwrap();
        let below = top.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        assert_eq!(find(&below).unwrap(), None);
        let outer = ProjectFile { app: Some("outer".into()), ..ProjectFile::default() };
        store(top.path(), &outer).unwrap();
        assert_eq!(find(&below).unwrap(), Some(outer));
        let inner = ProjectFile { app: Some("inner".into()), ..ProjectFile::default() };
        store(&below, &inner).unwrap();
        assert_eq!(find(&below).unwrap(), Some(inner));
    }

    #[test]
    fn a_mistake_in_it_names_the_file() {
        let top = tempfile::tempdir().unwrap();
        let path = store(top.path(), &ProjectFile::default()).unwrap();
        std::fs::write(&path, r#"{"token":"x"}"#).unwrap();
        let failure = find(top.path()).unwrap_err();
        assert!(failure.message.contains("project.json: unknown field `token`"), "{failure:?}");
    }
}
