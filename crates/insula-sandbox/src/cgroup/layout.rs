//! Finds out how control groups are laid out on this machine: version 1, version 2 or both.
//!
//! Only reads. The choice is per controller: version 2 where it has the controller, else the
//! version 1 hierarchy that has it. A version 2 tree is used even without controllers, for it kills
//! and freezes a whole group and takes a child in at its birth.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use super::{Controller, Group, Version};
use crate::id::SandboxId;

/// The name of the version 1 hierarchy in which systemd keeps its units.
const SYSTEMD: &str = "name=systemd";

/// Where each sandbox gets its groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Parents of the sandboxes' groups, one per hierarchy in use.
    parents: Vec<Group>,
}

#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("read {path}")]
    Read {
        path: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "the kernel's control groups have no `{controller}` controller here; mount it, or start \
         the kernel with `cgroup_enable={controller}`"
    )]
    Missing { controller: &'static str },
    #[error(
        "control groups cannot be made below {path}; run as root, outside a read-only container"
    )]
    ReadOnly { path: PathBuf },
    #[error(
        "processes stand in the top control group {path} itself, as in a container, so nothing below \
         it can be limited; move them to a group below, or start outside of the container"
    )]
    Crowded { path: PathBuf },
    #[error(
        "`{0}` is not a name for a control group: letters, digits, `-`, `_`, `.`, and `/` between"
    )]
    Name(String),
}

/// A mounted hierarchy and the place of this process in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tree {
    version: Version,
    mount: PathBuf,
    controllers: Vec<String>,
    own: String,
}

impl Layout {
    /// `parent` is the path, from the top of each hierarchy, below which the groups are made: at
    /// the top so that they live outside the unit of the service that starts them.
    pub fn detect(parent: &str) -> Result<Self, LayoutError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let part = |p: &str| !p.is_empty() && p != "." && p != ".." && p.chars().all(plain);
        if !parent.split('/').all(part) {
            return Err(LayoutError::Name(parent.into()));
        }
        let read = |path: &'static str| {
            std::fs::read_to_string(path).map_err(|source| LayoutError::Read { path, source })
        };
        let mut trees = parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        for tree in trees.iter_mut().filter(|tree| tree.version == Version::V2) {
            let file = tree.mount.join("cgroup.controllers");
            let held = std::fs::read_to_string(file).unwrap_or_default();
            tree.controllers = held.split_ascii_whitespace().map(str::to_owned).collect();
        }
        let mut parents = choose(&trees)?;
        for (group, tree) in &mut parents {
            let top = if access(&group.path, Access::WRITE_OK).is_ok() {
                group.path.clone()
            } else {
                group.path.join(tree.own.trim_start_matches('/'))
            };
            if access(&top, Access::WRITE_OK).is_err() {
                return Err(LayoutError::ReadOnly { path: top });
            }
            if group.version == Version::V2 && crowded(group, &top) {
                return Err(LayoutError::Crowded { path: top });
            }
            group.path = top.join(parent);
        }
        Ok(Self { parents: parents.into_iter().map(|(group, _)| group).collect() })
    }

    /// The groups of one sandbox, the version 2 one first.
    pub(crate) fn groups(&self, id: &SandboxId) -> Vec<Group> {
        self.parents
            .iter()
            .map(|parent| Group { path: parent.path.join(id.as_str()), ..parent.clone() })
            .collect()
    }

    /// One line for people: which version has which controller.
    pub fn describe(&self) -> String {
        let mut lines = Vec::new();
        for parent in &self.parents {
            let version = match parent.version {
                Version::V1 => "v1",
                Version::V2 => "v2",
            };
            let names: Vec<_> = parent.controllers.iter().map(|c| c.name()).collect();
            lines.push(format!("{version} [{}] {}", names.join(" "), parent.path.display()));
        }
        lines.join("; ")
    }
}

/// Whether the kernel will refuse to hand our controllers down from here. Outside of the real top,
/// which has no type, a group limits either its own processes or groups below.
fn crowded(group: &Group, top: &Path) -> bool {
    let read = |file: &str| std::fs::read_to_string(top.join(file));
    let held = read("cgroup.subtree_control").unwrap_or_default();
    let is_held = |c: &Controller| held.split_ascii_whitespace().any(|name| name == c.name());
    !group.controllers.iter().all(is_held)
        && read("cgroup.type").is_ok()
        && read("cgroup.procs").is_ok_and(|processes| !processes.is_empty())
}

/// Which hierarchy serves which controller. Pure.
fn choose(trees: &[Tree]) -> Result<Vec<(Group, &Tree)>, LayoutError> {
    let two = trees.iter().find(|tree| tree.version == Version::V2);
    let mut chosen: Vec<(Group, &Tree)> = Vec::new();
    if let Some(tree) = two {
        let group = Group { version: Version::V2, controllers: vec![], path: tree.mount.clone() };
        chosen.push((group, tree));
    }
    let has = |tree: &Tree, name: &str| tree.controllers.iter().any(|held| held == name);
    let mut wanted = vec![Controller::Memory, Controller::Cpu, Controller::Pids];
    if two.is_none() {
        wanted.extend([Controller::Cpuacct, Controller::Freezer]);
    }
    for controller in wanted {
        let name = controller.name();
        let tree = two
            .filter(|tree| has(tree, name))
            .or_else(|| trees.iter().find(|t| t.version == Version::V1 && has(t, name)))
            .ok_or(LayoutError::Missing { controller: name })?;
        match chosen.iter_mut().find(|(group, _)| group.path == tree.mount) {
            Some((group, _)) => group.controllers.push(controller),
            None => {
                let path = tree.mount.clone();
                chosen.push((
                    Group { version: tree.version, controllers: vec![controller], path },
                    tree,
                ));
            }
        }
    }
    // Without version 2 systemd knows the processes of a unit by this tree, which controls nothing;
    // what stayed in ours would end with the service.
    if let (None, Some(tree)) = (two, trees.iter().find(|tree| has(tree, SYSTEMD))) {
        let path = tree.mount.clone();
        chosen.push((Group { version: Version::V1, controllers: vec![], path }, tree));
    }
    Ok(chosen)
}

/// Reads `mountinfo` and `/proc/self/cgroup`. Pure.
fn parse(mountinfo: &str, own: &str) -> Vec<Tree> {
    let mut trees: Vec<Tree> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
        let version = match kind {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => continue,
        };
        let controllers: Vec<String> = match version {
            Version::V1 => options.split(',').map(str::to_owned).collect(),
            Version::V2 => vec![],
        };
        let own = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
            let here = match version {
                Version::V2 => names.is_empty(),
                Version::V1 => {
                    !names.is_empty()
                        && names.split(',').all(|n| controllers.iter().any(|c| c == n))
                }
            };
            here.then(|| path.to_owned())
        });
        let mount = Path::new(&unescape(mount)).to_path_buf();
        if !trees.iter().any(|tree| tree.mount == mount) {
            trees.push(Tree {
                version,
                mount,
                controllers,
                own: own.unwrap_or_else(|| "/".into()),
            });
        }
    }
    trees
}

/// `mountinfo` writes blanks and the like as three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(code.into());
                rest = &rest[at + 4..];
            }
            None => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(mountinfo: &str, own: &str, v2_controllers: &str) -> String {
        let mut trees = parse(mountinfo, own);
        for tree in trees.iter_mut().filter(|tree| tree.version == Version::V2) {
            tree.controllers = v2_controllers.split(' ').map(str::to_owned).collect();
        }
        match choose(&trees) {
            Ok(chosen) => {
                let parents = chosen.into_iter().map(|(group, _)| group).collect();
                Layout { parents }.describe()
            }
            Err(error) => error.to_string(),
        }
    }

    const V1: &str = "\
30 23 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 23 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
33 23 0:29 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
34 23 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
";
    const V2: &str = "25 24 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const UNIFIED: &str = "26 24 0:22 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn pure_v2_uses_one_tree() {
        assert_eq!(
            chosen(V2, "0::/system.slice/insula.service", "cpuset cpu io memory pids"),
            "v2 [memory cpu pids] /sys/fs/cgroup"
        );
    }

    #[test]
    fn pure_v1_uses_every_hierarchy_it_needs() {
        assert_eq!(
            chosen(V1, "", ""),
            "v1 [memory] /sys/fs/cgroup/memory; v1 [cpu cpuacct] /sys/fs/cgroup/cpu,cpuacct; \
             v1 [pids] /sys/fs/cgroup/pids; v1 [freezer] /sys/fs/cgroup/freezer; \
             v1 [] /sys/fs/cgroup/systemd"
        );
    }

    #[test]
    fn hybrid_kills_and_freezes_by_v2_and_limits_by_v1() {
        assert_eq!(
            chosen(&format!("{V1}{UNIFIED}"), "", "hugetlb"),
            "v2 [] /sys/fs/cgroup/unified; v1 [memory] /sys/fs/cgroup/memory; \
             v1 [cpu] /sys/fs/cgroup/cpu,cpuacct; v1 [pids] /sys/fs/cgroup/pids"
        );
    }

    #[test]
    fn a_missing_controller_is_named_with_the_fix() {
        assert_eq!(
            chosen(V2, "", "cpu pids"),
            "the kernel's control groups have no `memory` controller here; mount it, or start \
             the kernel with `cgroup_enable=memory`"
        );
    }

    #[test]
    fn the_own_place_is_found_per_hierarchy() {
        let own = "4:memory:/a\n1:cpu,cpuacct:/b\n0::/c\n";
        let trees = parse(&format!("{V1}{UNIFIED}"), own);
        let own: Vec<_> = trees.iter().map(|tree| tree.own.as_str()).collect();
        assert_eq!(own, ["/b", "/a", "/", "/", "/", "/c"]);
    }

    #[test]
    fn a_group_with_processes_cannot_be_the_top_unless_it_is_the_real_one() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().to_path_buf();
        let write = |file: &str, text: &str| std::fs::write(path.join(file), text).unwrap();
        let controllers = vec![Controller::Memory, Controller::Cpu];
        let group = Group { version: Version::V2, controllers, path: path.clone() };
        write("cgroup.procs", "1\n");
        write("cgroup.subtree_control", "memory pids");
        assert!(!crowded(&group, &path), "the real top has no type");
        write("cgroup.type", "domain");
        assert!(crowded(&group, &path));
        write("cgroup.procs", "");
        assert!(!crowded(&group, &path), "nobody is in the way");
        write("cgroup.procs", "1\n");
        write("cgroup.subtree_control", "cpu memory pids");
        assert!(!crowded(&group, &path), "nothing has to be handed down");
    }

    #[test]
    fn names_that_climb_are_refused() {
        for bad in ["", "/x", "..", "a/../b", "a b"] {
            assert!(matches!(Layout::detect(bad), Err(LayoutError::Name(_))), "{bad}");
        }
    }
}
