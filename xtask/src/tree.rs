//! Files of the repository by their ending, found by looking: git refuses to list a clone that
//! belongs to another user, and the gate must not.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Folders that hold what others wrote.
const FOREIGN: [&str; 3] = [".git", "node_modules", "target"];

/// Every file below the folder with this ending, in order of path.
pub fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("read {}", folder.display()))?;
            let path = entry.path();
            // Asked of the entry, which does not follow a link into another tree.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if !FOREIGN.iter().any(|foreign| entry.file_name() == *foreign) {
                    folders.push(path);
                }
            } else if path.extension() == Some(OsStr::new(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_files_are_found_in_order_and_others_are_not() {
        let root = crate::process::root();
        let found = files(&root, "rs").expect("the repository");
        assert!(found.contains(&root.join("xtask/src/tree.rs")), "this file is missing");
        assert!(found.is_sorted());
        assert!(found.iter().all(|path| !path.starts_with(root.join("target"))));
    }
}
