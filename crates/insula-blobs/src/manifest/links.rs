//! Whether a symlink stays inside the tree.
//!
//! Looking at its text is not enough: `up/../..` is harmless where `up` is a folder, and leaves
//! where `up` is itself a link to the top. So each link is followed the way the kernel would,
//! through the links of the same tree.

use std::collections::BTreeMap;

use insula_model::limits::SOURCE_PATH_LEN_MAX;

use super::check::{ManifestError, shown};
use super::{Entry, Node};

/// What Linux follows before it answers ELOOP.
const HOPS_MAX: usize = 40;
/// Names looked at for all links of a tree together: a hundred for each of the most links there
/// may be. Links into links can ask for far more, and only those that mean harm do.
const STEPS_MAX: usize = 10_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    #[error("is not a path")]
    NotAPath,
    #[error("is absolute: it would lead out of the folder")]
    Absolute,
    #[error("leads out of the folder")]
    Leaves,
    #[error("leads through more than {HOPS_MAX} links, or back to itself")]
    Loop,
    #[error("takes too long to follow, with all the other links")]
    Tangled,
}

pub(super) fn check(entries: &[Entry], nodes: &BTreeMap<&str, &Node>) -> Result<(), ManifestError> {
    let mut steps = 0;
    for entry in entries {
        let Node::Symlink { target } = &entry.node else { continue };
        follow(&entry.path, target, nodes, &mut steps).map_err(|why| ManifestError::Link {
            path: shown(&entry.path),
            target: shown(target),
            why,
        })?;
    }
    Ok(())
}

fn follow(
    path: &str,
    target: &str,
    nodes: &BTreeMap<&str, &Node>,
    steps: &mut usize,
) -> Result<(), LinkFault> {
    check_text(target)?;
    let mut here = parent(path).to_owned();
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
            ".." if here.is_empty() => return Err(LinkFault::Leaves),
            ".." => {
                here.truncate(parent(&here).len());
                continue;
            }
            _ => {}
        }
        let before = here.len();
        if !here.is_empty() {
            here.push('/');
        }
        here.push_str(name);
        match nodes.get(here.as_str()) {
            Some(Node::Symlink { target }) => {
                hops += 1;
                if hops > HOPS_MAX {
                    return Err(LinkFault::Loop);
                }
                check_text(target)?;
                here.truncate(before);
                ahead.extend(target.rsplit('/'));
            }
            // What is not there yet may be made by a build, as a folder.
            Some(Node::File { .. } | Node::Dir) | None => {}
        }
    }
    Ok(())
}

fn check_text(target: &str) -> Result<(), LinkFault> {
    if target.starts_with('/') {
        return Err(LinkFault::Absolute);
    }
    if target.is_empty()
        || target.len() > SOURCE_PATH_LEN_MAX
        || target.chars().any(char::is_control)
    {
        return Err(LinkFault::NotAPath);
    }
    Ok(())
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::super::Manifest;
    use super::*;

    fn fault(links: &[(&str, &str)]) -> Option<LinkFault> {
        let entries = links.iter().map(|(path, target)| Entry::symlink(*path, *target)).collect();
        match Manifest::new(entries) {
            Ok(_) => None,
            Err(ManifestError::Link { why, .. }) => Some(why),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn links_inside_the_tree_are_fine_even_to_nothing_or_to_the_top() {
        assert_eq!(fault(&[("a/b/link", "../../c/d"), ("here", "."), ("x/top", "..")]), None);
        assert_eq!(fault(&[("l", "missing/.."), ("m", "a//b/./c/")]), None);
    }

    #[test]
    fn an_absolute_link_is_refused() {
        assert_eq!(fault(&[("l", "/etc/passwd")]), Some(LinkFault::Absolute));
    }

    #[test]
    fn a_link_that_climbs_out_is_refused() {
        for target in ["..", "../x", "a/../../x", "./../x"] {
            assert_eq!(fault(&[("l", target)]), Some(LinkFault::Leaves), "{target}");
        }
        assert_eq!(fault(&[("a/l", "../..")]), Some(LinkFault::Leaves));
    }

    #[test]
    fn a_link_that_climbs_out_through_another_link_is_refused() {
        let links = [("a/b/c/up", "../../.."), ("z", "a/b/c/up/../etc")];
        assert_eq!(fault(&links), Some(LinkFault::Leaves));
        let links = [("a/top", ".."), ("m", "a/top/a/top/.."), ("z", "m")];
        assert_eq!(fault(&links), Some(LinkFault::Leaves));
    }

    #[test]
    fn a_link_to_itself_or_in_a_circle_is_refused() {
        assert_eq!(fault(&[("l", "l")]), Some(LinkFault::Loop));
        assert_eq!(fault(&[("a", "b"), ("b", "c/x"), ("c", "a")]), Some(LinkFault::Loop));
    }

    #[test]
    fn a_link_with_control_characters_or_without_a_target_is_refused() {
        for target in ["", "a\0b", "a\nb"] {
            assert_eq!(fault(&[("l", target)]), Some(LinkFault::NotAPath), "{target:?}");
        }
    }

    #[test]
    fn a_tangle_made_to_waste_our_time_is_given_up() {
        let long = "./".repeat(500) + "x";
        let links: Vec<_> = (0..38)
            .map(|n| (format!("n{n:02}"), format!("{}n{:02}", "./".repeat(500), n + 1)))
            .chain((0..2_000).map(|n| (format!("z{n}"), format!("n00/{}", &long[..900]))))
            .collect();
        let links: Vec<_> = links.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        assert_eq!(fault(&links), Some(LinkFault::Tangled));
    }
}
