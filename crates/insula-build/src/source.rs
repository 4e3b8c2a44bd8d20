//! What detection sees of a source: the list of its files, and the text of a few small ones.
//!
//! No I/O: the CLI fills it from a folder, the API from a manifest and its chunks or from an
//! archive. First list the files, then read what `wanted` names, then `detect`.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::Bytes;
use insula_model::limits::{SOURCE_FILES_MAX, SOURCE_PATH_LEN_MAX};

/// Base names that detection reads, wherever a component may have its root.
pub const WANTED: &[&str] = &[
    "insula.toml",
    "Procfile",
    "stratus_init.sh",
    "requirements.txt",
    "pyproject.toml",
    "package.json",
    "Staticfile",
    ".python-version",
    "runtime.txt",
    ".nvmrc",
    ".node-version",
    ".tool-versions",
    "manage.py",
    "main.py",
    "app.py",
    "start.py",
    "bot.py",
    "hello.py",
    "server.py",
];
/// A component's root is seldom deeper than `services/web`.
pub const WANTED_DEPTH_MAX: usize = 3;
/// Every component may have all of them, and then it is still a small number of small files.
pub const WANTED_FILES_MAX: usize = 256;
/// Files that people write by hand; a larger one is not what its name says.
pub const WANTED_LEN_MAX: Bytes = Bytes::kib(512);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Relative to the top, with `/` between the parts.
    pub path: String,
    pub size: u64,
    pub executable: bool,
}

#[derive(Debug, Clone, Default)]
pub struct SourceView {
    files: BTreeMap<String, SourceFile>,
    folders: BTreeSet<String>,
    texts: BTreeMap<String, String>,
    /// Wanted, but not text.
    unreadable: BTreeSet<String>,
}

impl SourceView {
    /// Files and symbolic links alike; folders follow from their paths. Paths were checked by
    /// whoever read the source; what is beyond the limits of a source is not looked at.
    pub fn new(files: impl IntoIterator<Item = SourceFile>) -> Self {
        let mut view = Self::default();
        for file in files.into_iter().take(SOURCE_FILES_MAX) {
            if file.path.is_empty() || file.path.len() > SOURCE_PATH_LEN_MAX {
                continue;
            }
            let mut at = file.path.as_str();
            while let Some((folder, _)) = at.rsplit_once('/') {
                if !view.folders.insert(folder.to_owned()) {
                    break;
                }
                at = folder;
            }
            view.files.insert(file.path.clone(), file);
        }
        view
    }

    /// The files whose contents `detect` would like to have, the ones nearest to the top first.
    pub fn wanted(&self) -> Vec<&str> {
        let mut wanted: Vec<(usize, &str)> = self
            .files
            .values()
            .filter(|file| file.size <= WANTED_LEN_MAX.0)
            .map(|file| (file.path.matches('/').count(), file.path.as_str()))
            .filter(|(depth, path)| *depth <= WANTED_DEPTH_MAX && is_wanted(path))
            .collect();
        wanted.sort_unstable();
        wanted.truncate(WANTED_FILES_MAX);
        wanted.into_iter().map(|(_, path)| path).collect()
    }

    /// What a wanted file holds. Anything else is not kept.
    pub fn put(&mut self, path: &str, contents: Vec<u8>) {
        if !self.files.contains_key(path) || contents.len() as u64 > WANTED_LEN_MAX.0 {
            return;
        }
        match String::from_utf8(contents) {
            Ok(text) => {
                // Editors on Windows begin files with a mark that no reader expects.
                let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
                self.texts.insert(path.to_owned(), text);
            }
            Err(_) => {
                self.unreadable.insert(path.to_owned());
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.get(path)
    }

    pub fn has_folder(&self, path: &str) -> bool {
        path.is_empty() || self.folders.contains(path)
    }

    /// Every file, by path.
    pub fn files(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.values()
    }

    pub(crate) fn text(&self, path: &str) -> Text<'_> {
        if let Some(text) = self.texts.get(path) {
            Text::Read(text)
        } else if self.unreadable.contains(path) {
            Text::Binary
        } else {
            match self.files.get(path) {
                None => Text::Absent,
                Some(file) if file.size > WANTED_LEN_MAX.0 => Text::TooLarge(file.size),
                Some(_) => Text::NotRead,
            }
        }
    }

    pub(crate) fn at<'a>(&'a self, root: &'a str) -> Folder<'a> {
        Folder { view: self, root }
    }
}

/// The contents of a file, as far as they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text<'a> {
    Read(&'a str),
    Absent,
    /// Not UTF-8.
    Binary,
    TooLarge(u64),
    /// It is listed, but whoever made the view did not hand it in (a link, or too deep).
    NotRead,
}

/// One folder of a source, where a component has its root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Folder<'a> {
    view: &'a SourceView,
    root: &'a str,
}

impl<'a> Folder<'a> {
    pub fn root(self) -> &'a str {
        self.root
    }

    pub fn path(self, name: &str) -> String {
        if self.root.is_empty() { name.to_owned() } else { format!("{}/{name}", self.root) }
    }

    pub fn has(self, name: &str) -> bool {
        self.view.files.contains_key(&self.path(name))
    }

    pub fn file(self, name: &str) -> Option<&'a SourceFile> {
        self.view.files.get(&self.path(name))
    }

    pub fn text(self, name: &str) -> Text<'a> {
        self.view.text(&self.path(name))
    }

    /// The contents, where they are known; for files whose absence is no mistake.
    pub fn read(self, name: &str) -> Option<&'a str> {
        match self.text(name) {
            Text::Read(text) => Some(text),
            Text::Absent | Text::Binary | Text::TooLarge(_) | Text::NotRead => None,
        }
    }

    /// The first of the names that is there.
    pub fn first<'n>(self, names: &[&'n str]) -> Option<&'n str> {
        names.iter().copied().find(|name| self.has(name))
    }

    /// Folders directly below that hold `name`.
    pub fn folders_with(self, name: &str) -> Vec<&'a str> {
        let prefix = if self.root.is_empty() { String::new() } else { format!("{}/", self.root) };
        self.view
            .files
            .keys()
            .filter_map(|path| path.strip_prefix(&prefix))
            .filter_map(|path| path.split_once('/'))
            .filter(|(_, rest)| *rest == name)
            .map(|(folder, _)| folder)
            .collect()
    }
}

fn is_wanted(path: &str) -> bool {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    WANTED.contains(&name)
}
