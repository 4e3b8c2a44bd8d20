//! The walk itself: names, kinds and sizes, and what is left out.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use ignore::{DirEntry, WalkBuilder};
use insula_model::Bytes;
use insula_model::limits::{SOURCE_DEPTH_MAX, SOURCE_FILES_MAX};
use insula_model::names::excerpt;
use rustix::fs::{Access, AtFlags, CWD};

use crate::entry::{Entry, Node, check_path};
use crate::problem::Problem;

const IGNORE_FILE: &str = ".insulaignore";
/// A walk that has seen this many problems knows enough.
const PROBLEMS_MAX: usize = 1_000;
/// Names of left out folders that are told; they are for people.
const LEFT_OUT_MAX: usize = 20;

pub(super) struct Found {
    pub entries: Vec<Entry<()>>,
    pub problems: Vec<Problem>,
    pub left_out: Vec<String>,
}

pub(super) fn walk(top: &Path) -> Found {
    let mut found = Found { entries: Vec::new(), problems: Vec::new(), left_out: Vec::new() };
    // Every folder, and whether something in it travels.
    let mut folders: BTreeMap<String, bool> = BTreeMap::new();
    let (tell, told) = std::sync::mpsc::channel();
    for result in builder(top, tell).build() {
        let entry = match result {
            Ok(entry) => entry,
            Err(error) => {
                found.problems.push(unreadable(top, &error));
                continue;
            }
        };
        if entry.depth() == 0 {
            continue;
        }
        if let Some(error) = entry.error() {
            found.problems.push(unreadable(top, error));
        }
        match look(top, &entry) {
            Ok(Looked::Folder(path)) => {
                mark_above(&mut folders, &path);
                folders.entry(path).or_insert(false);
            }
            Ok(Looked::Entry(entry)) => {
                mark_above(&mut folders, &entry.path);
                found.entries.push(entry);
            }
            Err(problem) => found.problems.push(problem),
        }
        // One more than may be, so that the count is told as too many.
        if found.entries.len() > SOURCE_FILES_MAX || found.problems.len() > PROBLEMS_MAX {
            break;
        }
    }
    let empty = folders.into_iter().filter(|(_, holds)| !holds).map(|(path, _)| path);
    found.entries.extend(empty.map(|path| Entry { path, node: Node::Dir }));
    found.left_out = told.try_iter().take(LEFT_OUT_MAX).collect();
    found.left_out.sort();
    found
}

fn mark_above(folders: &mut BTreeMap<String, bool>, path: &str) {
    if let Some((above, _)) = path.rsplit_once('/') {
        folders.insert(above.to_owned(), true);
    }
}

/// Only what lies in the folder counts, so that it means the same wherever it is copied to: no
/// rules from folders above, from the user's own configuration, or from `.git/info`.
fn builder(top: &Path, tell: std::sync::mpsc::Sender<String>) -> WalkBuilder {
    let mut builder = WalkBuilder::new(top);
    let above = top.to_owned();
    builder
        .hidden(false)
        .parents(false)
        .ignore(false)
        .git_global(false)
        .git_exclude(false)
        .git_ignore(true)
        .require_git(false)
        .follow_links(false)
        // Deeper things are told of once, by the folder that holds them.
        .max_depth(Some(SOURCE_DEPTH_MAX + 1))
        .add_custom_ignore_filename(IGNORE_FILE)
        .filter_entry(move |entry| {
            let out = entry.depth() > 0 && is_left_out(entry);
            if out {
                let path = entry.path().strip_prefix(&above).unwrap_or(entry.path());
                // Nobody listens only when the walk has ended.
                let _ = tell.send(excerpt(&path.to_string_lossy()));
            }
            !out
        });
    builder
}

/// What never travels, or can be made again from what does.
fn is_left_out(entry: &DirEntry) -> bool {
    let path = entry.path();
    let beside = |name: &str| path.with_file_name(name).is_file();
    match entry.file_name().to_str() {
        Some(".git" | ".insula") => true,
        Some(_) if !entry.file_type().is_some_and(|kind| kind.is_dir()) => false,
        Some("node_modules") => beside("package.json"),
        Some(".venv" | "venv") => path.join("pyvenv.cfg").is_file(),
        Some("__pycache__") => true,
        Some(_) | None => false,
    }
}

enum Looked {
    Folder(String),
    Entry(Entry<()>),
}

fn look(top: &Path, entry: &DirEntry) -> Result<Looked, Problem> {
    let relative = entry.path().strip_prefix(top).unwrap_or(entry.path());
    let shown = excerpt(&relative.to_string_lossy());
    let refuse = |message: String, fix: &str| Err(Problem::new(message).in_file(&shown).fix(fix));
    let Some(path) = relative.to_str().map(str::to_owned) else {
        return refuse("the name is not UTF-8".into(), "rename it");
    };
    if let Err(fault) = check_path(&path) {
        return refuse(format!("the path {fault}"), "rename it, or list it in .insulaignore");
    }
    let metadata = match entry.path().symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) => return refuse(format!("this cannot be read: {error}"), FIX_UNREADABLE),
    };
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Ok(Looked::Folder(path));
    }
    let node = if kind.is_symlink() {
        let target = std::fs::read_link(entry.path()).ok();
        match target.as_ref().and_then(|target| target.to_str()) {
            Some(target) => Node::Symlink { target: target.to_owned() },
            None => return refuse("this link cannot be read".into(), FIX_UNREADABLE),
        }
    } else if kind.is_file() {
        if !is_readable(entry.path()) {
            return refuse("this cannot be read: permission denied".into(), FIX_UNREADABLE);
        }
        let executable = metadata.mode() & 0o111 != 0;
        Node::File { size: Bytes(metadata.len()), executable, contents: () }
    } else {
        let what = if kind.is_socket() {
            "a socket"
        } else if kind.is_fifo() {
            "a pipe"
        } else {
            "a device"
        };
        return refuse(format!("this is {what}, not a file"), "list it in .insulaignore");
    };
    Ok(Looked::Entry(Entry { path, node }))
}

const FIX_UNREADABLE: &str = "make it readable, or list it in .insulaignore";

fn is_readable(path: &Path) -> bool {
    rustix::fs::accessat(CWD, path, Access::READ_OK, AtFlags::EACCESS).is_ok()
}

fn unreadable(top: &Path, error: &ignore::Error) -> Problem {
    let mut at = error;
    let mut file = None;
    // The error wraps where it happened around what happened.
    loop {
        match at {
            ignore::Error::WithPath { path, err } => {
                let relative = path.strip_prefix(top).unwrap_or(path);
                file = Some(excerpt(&relative.to_string_lossy()));
                at = err;
            }
            ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => {
                at = err;
            }
            _ => break,
        }
    }
    let why = match at.io_error() {
        // Its text would show where the folder is on this machine.
        Some(error) => error.kind().to_string(),
        None => at.to_string(),
    };
    let problem = Problem::new(format!("this cannot be read: {why}")).fix(FIX_UNREADABLE);
    match file {
        Some(file) => problem.in_file(&file),
        None => problem,
    }
}
