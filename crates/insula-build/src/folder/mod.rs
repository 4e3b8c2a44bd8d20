//! Reads a developer's folder for an upload: what is in it, what is left out, what is refused.
//!
//! First only names and sizes are looked at, so that a folder with five gigabytes of data is refused
//! at once, with every problem on one list. Contents are read by `hash` and by `open`, which follow
//! no link.

mod hash;
mod walk;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use insula_model::Bytes;
use insula_model::limits::{SOURCE_FILE_MAX, SOURCE_FILES_MAX, SOURCE_TOTAL_MAX};
use insula_model::names::excerpt;
use rustix::fs::{Mode, OFlags};

pub use hash::HashError;

use crate::entry::{Entry, Node, check_links};
use crate::problem::{Problem, Problems};
use crate::source::{SourceFile, SourceView, WANTED_LEN_MAX};

/// Further problems are mostly the same one again.
const SHOWN_PROBLEMS_MAX: usize = 20;

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("open the folder {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a folder", path.display())]
    NotAFolder { path: PathBuf },
    #[error(transparent)]
    Problems(#[from] Problems),
}

/// What a folder holds that travels.
#[derive(Debug, Clone)]
pub struct Folder {
    top: PathBuf,
    /// Sorted by path.
    pub entries: Vec<Entry<()>>,
    /// Folders that were left out without being asked to: `node_modules` and the like.
    pub left_out: Vec<String>,
}

/// Lists a folder, honouring `.gitignore` and `.insulaignore` files in it.
pub fn read(top: &Path) -> Result<Folder, FolderError> {
    let open = |source| FolderError::Open { path: top.to_owned(), source };
    let top = top.canonicalize().map_err(open)?;
    if !top.metadata().map_err(open)?.is_dir() {
        return Err(FolderError::NotAFolder { path: top });
    }
    let mut found = walk::walk(&top);
    found.entries.sort_by(|a, b| a.path.cmp(&b.path));
    check_whole(&found.entries, &mut found.problems);
    Problems::shown(found.problems, SHOWN_PROBLEMS_MAX)?;
    Ok(Folder { top, entries: found.entries, left_out: found.left_out })
}

fn check_whole(entries: &[Entry<()>], problems: &mut Vec<Problem>) {
    let ignore = "list folders with data in .insulaignore: what is deployed is code";
    let (mut total, mut largest) = (0_u64, Vec::new());
    for entry in entries {
        let Node::File { size, .. } = entry.node else { continue };
        total = total.saturating_add(size.0);
        largest.push((size, &entry.path));
        if size > SOURCE_FILE_MAX {
            let message = format!("this is {size}; a file may be {SOURCE_FILE_MAX}");
            problems.push(Problem::new(message).in_file(&entry.path).fix(ignore));
        }
    }
    if entries.len() > SOURCE_FILES_MAX {
        let message = format!("more than {SOURCE_FILES_MAX} files");
        problems.insert(0, Problem::new(message).fix(ignore));
    }
    if total > SOURCE_TOTAL_MAX.0 {
        largest.sort_by(|a, b| b.cmp(a));
        let three = largest.iter().take(3);
        let three: Vec<_> =
            three.map(|(size, path)| format!("{} ({size})", excerpt(path))).collect();
        let message = format!(
            "the folder is {}; a source may be {SOURCE_TOTAL_MAX}. The largest files are {}",
            Bytes(total),
            three.join(", ")
        );
        problems.insert(0, Problem::new(message).fix(ignore));
    }
    for (path, target, fault) in check_links(entries) {
        let message = format!("this links to `{}`, which {fault}", excerpt(&target));
        let fix = "put the file itself there, or list the link in .insulaignore";
        problems.push(Problem::new(message).in_file(&path).fix(fix));
    }
}

impl Folder {
    pub fn total(&self) -> Bytes {
        let size = |entry: &Entry<()>| match &entry.node {
            Node::File { size, .. } => size.0,
            Node::Symlink { .. } | Node::Dir => 0,
        };
        Bytes(self.entries.iter().map(size).sum())
    }

    /// A file of the list, as it is now; links are not followed.
    pub fn open(&self, path: &str) -> io::Result<File> {
        // Without NONBLOCK a pipe that took the file's place would be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(self.top.join(path), flags, Mode::empty())?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::other("this is no file any more"))
        }
    }

    /// What `detect` wants to see, read.
    pub fn view(&self) -> io::Result<SourceView> {
        let mut view = SourceView::new(source_files(&self.entries));
        let wanted: Vec<String> = view.wanted().into_iter().map(str::to_owned).collect();
        for path in wanted {
            if view.file(&path).is_some_and(|_| self.is_file(&path)) {
                let mut contents = Vec::new();
                self.open(&path)?.take(WANTED_LEN_MAX.0 + 1).read_to_end(&mut contents)?;
                view.put(&path, contents);
            }
        }
        Ok(view)
    }

    fn is_file(&self, path: &str) -> bool {
        let found = self.entries.binary_search_by(|entry| entry.path.as_str().cmp(path));
        found.is_ok_and(|at| matches!(self.entries[at].node, Node::File { .. }))
    }
}

/// The list that `SourceView::new` takes, from any list of entries.
pub fn source_files<T>(entries: &[Entry<T>]) -> Vec<SourceFile> {
    let file = |entry: &Entry<T>| {
        let (size, executable) = match &entry.node {
            Node::File { size, executable, .. } => (size.0, *executable),
            Node::Symlink { .. } => (0, false),
            Node::Dir => return None,
        };
        Some(SourceFile { path: entry.path.clone(), size, executable })
    };
    entries.iter().filter_map(file).collect()
}
