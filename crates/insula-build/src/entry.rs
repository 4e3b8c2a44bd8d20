//! One entry of a source, wherever it was read: a folder on disk or an archive. And the rules that
//! its path and its links keep, the same as those of a manifest.

use std::collections::BTreeMap;

use insula_model::Bytes;
use insula_model::limits::{SOURCE_DEPTH_MAX, SOURCE_PATH_LEN_MAX};

/// What Linux allows for one name.
const NAME_LEN_MAX: usize = 255;
/// What Linux follows before it answers ELOOP.
const HOPS_MAX: usize = 40;
/// Names looked at for all links of a source together; honest ones need a tenth of it.
const STEPS_MAX: usize = 2_000_000;

/// `T` is what is known of a file's contents: nothing, their digest, where they were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Relative, in its plain form (`a/b`), UTF-8 without control characters.
    pub path: String,
    pub node: Node<T>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node<T> {
    File {
        size: Bytes,
        executable: bool,
        contents: T,
    },
    /// Stays inside of the source, whether or not something is there.
    Symlink {
        target: String,
    },
    /// A folder without anything in it; others follow from the paths of what is in them.
    Dir,
}

/// Why a path is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("is not a relative path in its plain form, as in `a/b`")]
    NotPlain,
    #[error("leads out of the folder")]
    Leaves,
    #[error("has a control character in its name")]
    Control,
    #[error("is longer than {SOURCE_PATH_LEN_MAX} bytes, or a name in it than {NAME_LEN_MAX}")]
    TooLong,
    #[error("is more than {SOURCE_DEPTH_MAX} folders deep")]
    TooDeep,
}

pub fn check_path(path: &str) -> Result<(), PathFault> {
    if path.len() > SOURCE_PATH_LEN_MAX {
        return Err(PathFault::TooLong);
    }
    let mut depth = 0;
    for name in path.split('/') {
        match name {
            "" | "." => return Err(PathFault::NotPlain),
            ".." => return Err(PathFault::Leaves),
            _ if name.len() > NAME_LEN_MAX => return Err(PathFault::TooLong),
            _ if name.chars().any(char::is_control) => return Err(PathFault::Control),
            _ => depth += 1,
        }
    }
    if depth > SOURCE_DEPTH_MAX { Err(PathFault::TooDeep) } else { Ok(()) }
}

/// Why a symbolic link is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    #[error("is not a path")]
    NotAPath,
    #[error("is absolute, so that it would lead out of the folder")]
    Absolute,
    #[error("leads out of the folder")]
    Leaves,
    #[error("leads through more than {HOPS_MAX} links, or back to itself")]
    Loop,
    #[error("takes too long to follow, with all the other links")]
    Tangled,
}

/// The links that do not stay inside, each followed as the kernel would: through the other links.
/// `up/../..` is harmless where `up` is a folder, and leaves where `up` is a link to the top.
pub fn check_links<T>(entries: &[Entry<T>]) -> Vec<(String, String, LinkFault)> {
    let links: BTreeMap<&str, &str> = entries
        .iter()
        .filter_map(|entry| match &entry.node {
            Node::Symlink { target } => Some((entry.path.as_str(), target.as_str())),
            Node::File { .. } | Node::Dir => None,
        })
        .collect();
    let mut steps = 0;
    let mut faults = Vec::new();
    for (path, target) in &links {
        if let Err(fault) = follow(path, target, &links, &mut steps) {
            faults.push(((*path).to_owned(), (*target).to_owned(), fault));
        }
    }
    faults
}

fn follow(
    path: &str,
    target: &str,
    links: &BTreeMap<&str, &str>,
    steps: &mut usize,
) -> Result<(), LinkFault> {
    check_target(target)?;
    let mut here: Vec<&str> = path.split('/').collect();
    here.pop();
    // Names still to walk, the next one last.
    let mut ahead: Vec<&str> = target.rsplit('/').collect();
    let mut hops = 1;
    while let Some(name) = ahead.pop() {
        *steps += 1;
        if *steps > STEPS_MAX {
            return Err(LinkFault::Tangled);
        }
        match name {
            "" | "." => continue,
            ".." => {
                here.pop().ok_or(LinkFault::Leaves)?;
                continue;
            }
            _ => here.push(name),
        }
        if let Some(next) = links.get(here.join("/").as_str()) {
            hops += 1;
            if hops > HOPS_MAX {
                return Err(LinkFault::Loop);
            }
            check_target(next)?;
            here.pop();
            ahead.extend(next.rsplit('/'));
        }
    }
    Ok(())
}

fn check_target(target: &str) -> Result<(), LinkFault> {
    if target.is_empty()
        || target.len() > SOURCE_PATH_LEN_MAX
        || target.chars().any(char::is_control)
    {
        Err(LinkFault::NotAPath)
    } else if target.starts_with('/') {
        Err(LinkFault::Absolute)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(links: &[(&str, &str)]) -> Vec<LinkFault> {
        let entries: Vec<Entry<()>> = links
            .iter()
            .map(|(path, target)| Entry {
                path: (*path).into(),
                node: Node::Symlink { target: (*target).into() },
            })
            .collect();
        check_links(&entries).into_iter().map(|(_, _, fault)| fault).collect()
    }

    #[test]
    fn links_that_stay_inside_are_taken() {
        assert_eq!(faults(&[("a/b/c", "../../d"), ("e", "nowhere"), ("f", "a/b/c/g")]), []);
    }

    #[test]
    fn links_that_leave_are_not() {
        assert_eq!(faults(&[("a", "/etc/passwd")]), [LinkFault::Absolute]);
        assert_eq!(faults(&[("a", "..")]), [LinkFault::Leaves]);
        assert_eq!(faults(&[("a/b", "../../c")]), [LinkFault::Leaves]);
        assert_eq!(faults(&[("a", "b/../../c")]), [LinkFault::Leaves]);
        assert_eq!(faults(&[("a", "")]), [LinkFault::NotAPath]);
    }

    #[test]
    fn a_link_through_a_link_is_followed() {
        // The text of `out` looks harmless: `x/up` is two folders deep.
        assert_eq!(faults(&[("x/up", ".."), ("out", "x/up/..")]), [LinkFault::Leaves]);
        assert_eq!(faults(&[("a", "b"), ("b", "a")]), [LinkFault::Loop, LinkFault::Loop]);
    }

    #[test]
    fn links_that_multiply_end() {
        // Each asks for the one below it twice.
        let links: Vec<(String, String)> =
            (1..40).map(|n| (format!("l{n}"), format!("l{}/x/../../l{}", n - 1, n - 1))).collect();
        let links: Vec<(&str, &str)> =
            links.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert!(faults(&links).len() < 40);
    }
}
