//! What an archive has held so far, and whether the next entry may join it.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::Bytes;

use super::fault::shown;
use super::{ArchiveError, Limits};
use crate::entry::{Entry, Node, PathFault, check_links, check_path};

/// What macOS adds to archives for itself.
const APPLE_FOLDER: &str = "__MACOSX";

pub struct Tree<'l, T> {
    limits: &'l Limits,
    nodes: BTreeMap<String, Node<T>>,
    /// Folders that were named, or follow from the path of something.
    folders: BTreeSet<String>,
    entries: usize,
    total: u64,
}

impl<'l, T> Tree<'l, T> {
    pub fn new(limits: &'l Limits) -> Self {
        let (nodes, folders) = (BTreeMap::new(), BTreeSet::new());
        Self { limits, nodes, folders, entries: 0, total: 0 }
    }

    /// Counts an entry of any kind, also those that are only about others.
    pub fn count(&mut self) -> Result<(), ArchiveError> {
        self.entries += 1;
        // Folders and extended headers come on top of files.
        let max = self.limits.files.saturating_mul(3);
        if self.entries > max { Err(ArchiveError::TooMany { max }) } else { Ok(()) }
    }

    /// The path under which something will stand; nothing for what is passed over.
    pub fn place(&mut self, name: &[u8]) -> Result<Option<String>, ArchiveError> {
        let Some(path) = plain(name)? else { return Ok(None) };
        if path.split('/').next() == Some(APPLE_FOLDER) {
            return Ok(None);
        }
        Ok(Some(path))
    }

    pub fn folder(&mut self, path: String) -> Result<(), ArchiveError> {
        self.claim_above(&path)?;
        if self.nodes.contains_key(&path) {
            return Err(ArchiveError::Twice { path: shown(path.as_bytes()) });
        }
        self.folders.insert(path);
        Ok(())
    }

    /// Before the contents of a file are read: whether they may be.
    pub fn admit(&mut self, path: &str, size: Bytes) -> Result<(), ArchiveError> {
        self.claim(path)?;
        if size > self.limits.file {
            let (path, max) = (shown(path.as_bytes()), self.limits.file);
            return Err(ArchiveError::FileTooLarge { path, size, max });
        }
        self.total = self.total.saturating_add(size.0);
        if self.total > self.limits.total.0 {
            return Err(ArchiveError::TooLarge { max: self.limits.total });
        }
        Ok(())
    }

    pub fn file(&mut self, path: String, size: Bytes, executable: bool, contents: T) {
        self.nodes.insert(path, Node::File { size, executable, contents });
    }

    pub fn link(&mut self, path: String, target: &[u8]) -> Result<(), ArchiveError> {
        self.claim(&path)?;
        let Ok(target) = std::str::from_utf8(target) else {
            return Err(ArchiveError::NotUtf8 { path: shown(target) });
        };
        self.nodes.insert(path, Node::Symlink { target: target.to_owned() });
        Ok(())
    }

    fn claim(&mut self, path: &str) -> Result<(), ArchiveError> {
        self.claim_above(path)?;
        if self.nodes.contains_key(path) || self.folders.contains(path) {
            return Err(ArchiveError::Twice { path: shown(path.as_bytes()) });
        }
        if self.nodes.len() == self.limits.files {
            return Err(ArchiveError::TooMany { max: self.limits.files });
        }
        Ok(())
    }

    fn claim_above(&mut self, path: &str) -> Result<(), ArchiveError> {
        for (at, _) in path.match_indices('/') {
            let above = &path[..at];
            if self.nodes.contains_key(above) {
                let (path, above) = (shown(path.as_bytes()), shown(above.as_bytes()));
                return Err(ArchiveError::BelowNoFolder { path, above });
            }
            if !self.folders.contains(above) {
                self.folders.insert(above.to_owned());
            }
        }
        Ok(())
    }

    /// The source that the archive holds.
    pub fn finish(mut self) -> Result<Vec<Entry<T>>, ArchiveError> {
        let full: BTreeSet<String> = self
            .nodes
            .keys()
            .chain(&self.folders)
            .filter_map(|path| path.rsplit_once('/'))
            .map(|(above, _)| above.to_owned())
            .collect();
        for empty in self.folders.into_iter().filter(|folder| !full.contains(folder)) {
            self.nodes.insert(empty, Node::Dir);
        }
        let mut entries: Vec<Entry<T>> =
            self.nodes.into_iter().map(|(path, node)| Entry { path, node }).collect();
        take_off_top(&mut entries);
        if entries.is_empty() {
            return Err(ArchiveError::Empty);
        }
        if entries.len() > self.limits.files {
            return Err(ArchiveError::TooMany { max: self.limits.files });
        }
        match check_links(&entries).into_iter().next() {
            None => Ok(entries),
            Some((path, target, why)) => Err(ArchiveError::Link {
                path: shown(path.as_bytes()),
                target: shown(target.as_bytes()),
                why,
            }),
        }
    }
}

/// Takes off the one folder around everything, if there is one.
fn take_off_top<T>(entries: &mut Vec<Entry<T>>) {
    let top_of = |entry: &Entry<T>| entry.path.split_once('/').map(|(top, _)| top.to_owned());
    let Some(top) = entries.first().and_then(top_of) else {
        // Nothing, or something that lies beside no folder: but an empty folder holds no source.
        if matches!(entries.as_slice(), [Entry { node: Node::Dir, .. }]) {
            entries.clear();
        }
        return;
    };
    if entries.iter().all(|entry| top_of(entry).as_deref() == Some(top.as_str())) {
        for entry in entries {
            entry.path.drain(..=top.len());
        }
    }
}

/// A name as it stands in an archive, in its plain form: without `./` before and `/` behind it.
/// Nothing for the folder itself.
fn plain(name: &[u8]) -> Result<Option<String>, ArchiveError> {
    let Ok(mut text) = std::str::from_utf8(name) else {
        return Err(ArchiveError::NotUtf8 { path: shown(name) });
    };
    if text.contains('\\') {
        return Err(ArchiveError::Backslash { path: shown(name) });
    }
    if let [letter, b':', ..] = text.as_bytes()
        && letter.is_ascii_alphabetic()
    {
        return Err(ArchiveError::Drive { path: shown(name) });
    }
    while let Some(rest) = text.strip_prefix("./") {
        text = rest;
    }
    let text = text.strip_suffix('/').unwrap_or(text);
    if text == "." || text.is_empty() && name.starts_with(b".") {
        return Ok(None);
    }
    check_path(text).map_err(|why: PathFault| ArchiveError::Path { path: shown(name), why })?;
    Ok(Some(text.to_owned()))
}
