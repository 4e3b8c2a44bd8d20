//! What a data folder leaves behind in the kernel and on the disk of this machine.

use std::fs;
use std::path::Path;

/// Names of things that exist and carry this tag or path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    pub mounts: Vec<String>,
    pub links: Vec<String>,
    pub cgroups: Vec<String>,
    pub sandboxes: Vec<String>,
}

impl Traces {
    pub fn of(data: &Path, tag: &str) -> Self {
        let data_text = data.display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let run = fs::read_dir(data.join("run")).into_iter().flatten().flatten();
        Self {
            mounts: mounts.lines().filter(|l| l.contains(&data_text)).map(str::to_owned).collect(),
            links: links
                .filter_map(|e| e.file_name().into_string().ok())
                .filter(|name| name.starts_with(&format!("ins-{tag}")))
                .collect(),
            cgroups: cgroups(Path::new("/sys/fs/cgroup"), tag, 0),
            sandboxes: run
                .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
                .filter_map(|e| e.file_name().into_string().ok())
                .collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How deep our groups lie at most: hierarchy, place of our process, ours, the instance's.
const DEPTH_MAX: usize = 6;

fn cgroups(under: &Path, tag: &str, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(under).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        let path = entry.path();
        if entry.file_name().to_str().is_some_and(|n| n.contains("insula") && n.contains(tag)) {
            found.extend(groups_below(&path));
        } else if depth < DEPTH_MAX {
            found.extend(cgroups(&path, tag, depth + 1));
        }
    }
    found
}

/// The groups of sandboxes; the installation's own group may stay while it is used.
fn groups_below(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path().display().to_string())
        .collect()
}
