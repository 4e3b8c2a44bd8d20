//! Whether the host still lets us make control groups.

use std::path::{Path, PathBuf};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Why no group could be made for another instance. `parent` is the name of our own group, which
/// is there once something has run.
pub fn cgroups(parent: &str) -> Option<String> {
    let places = places(Path::new(CGROUPS), parent);
    let refused = places.iter().find_map(|path| refusal(path));
    refused.map(|(path, error)| format!("control groups cannot be made in {path}: {error}"))
}

/// Our group in each hierarchy that has one, or in the only one.
fn places(root: &Path, parent: &str) -> Vec<PathBuf> {
    let below = std::fs::read_dir(root).into_iter().flatten().flatten();
    let hierarchies = below.map(|entry| entry.path()).filter(|path| path.is_dir());
    let ours = hierarchies.map(|it| it.join(parent)).chain([root.join(parent)]);
    ours.filter(|path| path.is_dir()).collect()
}

fn refusal(path: &Path) -> Option<(String, std::io::Error)> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let error = accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).err()?;
    Some((path.display().to_string(), error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_group_is_found_in_either_layout() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(places(folder.path(), "insula-x"), Vec::<PathBuf>::new());
        for path in ["memory/insula-x", "pids/other", "insula-x"] {
            std::fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        let found = places(folder.path(), "insula-x");
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|path| refusal(path).is_none()));
        assert!(refusal(&folder.path().join("gone")).is_some());
    }
}
