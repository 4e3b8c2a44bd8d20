//! Opens files beneath one folder and never anything else.
//!
//! `openat2` with `RESOLVE_BENEATH` does this in one call, but a sandbox refuses that call (its
//! filter cannot see into it). So the path is walked name by name, no call ever following a link:
//! links are read and walked by us, as far as they stay inside.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

/// As the kernel's own walk has it.
const LINKS_MAX: usize = 40;

/// A pipe is not waited for, a terminal does not become ours.
const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

#[derive(Debug)]
pub(crate) struct Root {
    folder: OwnedFd,
}

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { folder: openat(CWD, path, flags, Mode::empty())? })
    }

    /// Whatever is there, of any kind. `NotFound` for what leads outside, as for what is not.
    pub(crate) fn find(&self, names: &[OsString]) -> io::Result<File> {
        let mut todo: Vec<OsString> = names.iter().rev().cloned().collect();
        // Above the last one; empty means the root itself.
        let mut way: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name.as_bytes() == b".." {
                // Only from links: a URL has none. Never above the root.
                way.pop().ok_or(Errno::NOENT)?;
                continue;
            }
            let here = way.last().map_or(self.folder.as_fd(), AsFd::as_fd);
            match openat(here, &name, FLAGS, Mode::empty()) {
                Ok(found) => way.push(found),
                Err(Errno::LOOP | Errno::MLINK) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::NOENT.into());
                    }
                    let target = readlinkat(here, &name, Vec::new())?.into_bytes();
                    if target.starts_with(b"/") {
                        return Err(Errno::NOENT.into());
                    }
                    let names = target.split(|byte| *byte == b'/');
                    let names = names.filter(|name| !name.is_empty() && *name != b".");
                    todo.extend(names.rev().map(|name| OsString::from_vec(name.to_vec())));
                }
                Err(error) => return Err(error.into()),
            }
        }
        match way.pop() {
            Some(found) => Ok(found.into()),
            None => Ok(self.folder.try_clone()?.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn found(root: &Root, path: &str) -> Option<String> {
        let names: Vec<OsString> = path.split('/').map(Into::into).collect();
        let mut text = String::new();
        root.find(&names).ok()?.read_to_string(&mut text).ok()?;
        Some(text)
    }

    #[test]
    fn links_are_followed_inside_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("secret");
        fs::write(&outside, "secret").unwrap();
        let site = folder.path().join("site");
        fs::create_dir_all(site.join("a/b")).unwrap();
        fs::write(site.join("a/b/page"), "page").unwrap();
        for (link, target) in [
            ("inside", "a/b/page"),
            ("a/up", "../a/./b/page"),
            ("folder", "a/b"),
            ("chain", "inside"),
            ("back", "a/b/../../secret/../../secret"),
            ("out", "../secret"),
            ("a/out", "../../secret"),
            ("round", "round"),
            ("sly", "a/b/../../../secret"),
        ] {
            symlink(target, site.join(link)).unwrap();
        }
        symlink(&outside, site.join("absolute")).unwrap();
        symlink("/", site.join("slash")).unwrap();
        symlink(site.join("a"), site.join("home")).unwrap();
        let root = Root::open(&site).unwrap();
        for inside in ["a/b/page", "inside", "a/up", "folder/page", "chain"] {
            assert_eq!(found(&root, inside).as_deref(), Some("page"), "{inside}");
        }
        for beyond in [
            "out",
            "a/out",
            "round",
            "sly",
            "back",
            "absolute",
            "slash/etc/passwd",
            "home/b/page",
            "..",
            "../secret",
            "a/../../secret",
            "a/b/page/x",
            "none",
        ] {
            assert_eq!(found(&root, beyond), None, "{beyond}");
        }
    }
}
