//! Folders on disk: what travels, what is left out, what is refused.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use expect_test::{Expect, expect};
use insula_build::folder::{self, FolderError, HashError};
use insula_build::{Entry, Node, detect};
use insula_model::limits::{SOURCE_FILE_MAX, SOURCE_FILES_MAX};
use tempfile::TempDir;

fn make(files: &[(&str, &str)]) -> TempDir {
    let top = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = top.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    top
}

fn line<T>(entry: &Entry<T>) -> String {
    match &entry.node {
        Node::File { size, executable, .. } => {
            format!("{} {size}{}\n", entry.path, if *executable { " x" } else { "" })
        }
        Node::Symlink { target } => format!("{} -> {target}\n", entry.path),
        Node::Dir => format!("{}/\n", entry.path),
    }
}

fn check(top: &Path, expected: Expect) {
    let text = match folder::read(top) {
        Ok(folder) => folder.entries.iter().map(line).collect(),
        Err(error) => format!("{error}\n"),
    };
    expected.assert_eq(&text);
}

#[test]
fn dotfiles_links_and_empty_folders_travel() {
    let top = make(&[(".env.example", "A=1"), ("bin/run", "#!/bin/sh\n"), ("a/b/c", "")]);
    fs::set_permissions(top.path().join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(top.path().join("logs/old")).unwrap();
    symlink("../bin/run", top.path().join("a/link")).unwrap();
    symlink("not-there", top.path().join("dangling")).unwrap();
    check(
        top.path(),
        expect![[r#"
        .env.example 3B
        a/b/c 0B
        a/link -> ../bin/run
        bin/run 10B x
        dangling -> not-there
        logs/old/
    "#]],
    );
}

#[test]
fn ignore_files_are_honoured_without_git() {
    let top = make(&[
        (".gitignore", "*.log\n/dist/\nsecret\n"),
        (".insulaignore", "!dist/\ndocs/\n"),
        (".ignore", "main.py\n"),
        ("main.py", ""),
        ("x.log", ""),
        ("sub/y.log", ""),
        ("sub/.gitignore", "!y.log\n"),
        ("dist/app.js", ""),
        ("docs/a.md", ""),
        ("secret", ""),
    ]);
    check(
        top.path(),
        expect![[r#"
        .gitignore 20B
        .ignore 8B
        .insulaignore 13B
        dist/app.js 0B
        main.py 0B
        sub/.gitignore 7B
        sub/y.log 0B
    "#]],
    );
}

#[test]
fn rules_from_above_do_not_count() {
    let top = make(&[(".gitignore", "*\n"), (".git/HEAD", ""), ("app/index.html", "")]);
    check(
        &top.path().join("app"),
        expect![[r#"
        index.html 0B
    "#]],
    );
}

#[test]
fn what_can_be_made_again_is_left_out() {
    let top = make(&[
        (".git/HEAD", ""),
        (".insula/app.json", ""),
        ("package.json", "{}"),
        ("node_modules/a/index.js", ""),
        (".venv/pyvenv.cfg", ""),
        ("venv/mine.py", ""),
        ("pkg/__pycache__/a.pyc", ""),
        ("pkg/a.py", ""),
        ("theme/node_modules/kept.js", ""),
    ]);
    check(
        top.path(),
        expect![[r#"
        package.json 2B
        pkg/a.py 0B
        theme/node_modules/kept.js 0B
        venv/mine.py 0B
    "#]],
    );
    let folder = folder::read(top.path()).unwrap();
    assert_eq!(folder.left_out, [".git", ".insula", ".venv", "node_modules", "pkg/__pycache__"]);
}

#[test]
fn links_that_leave_the_folder_are_refused() {
    let top = make(&[("sub/a", "")]);
    symlink("/etc/passwd", top.path().join("absolute")).unwrap();
    symlink("../../outside", top.path().join("sub/climbs")).unwrap();
    symlink("sub/..", top.path().join("stays")).unwrap();
    symlink("stays/..", top.path().join("through")).unwrap();
    symlink("turns", top.path().join("turns")).unwrap();
    check(
        top.path(),
        expect![[r#"
        absolute: this links to `/etc/passwd`, which is absolute, so that it would lead out of the folder
          fix: put the file itself there, or list the link in .insulaignore
        sub/climbs: this links to `../../outside`, which leads out of the folder
          fix: put the file itself there, or list the link in .insulaignore
        through: this links to `stays/..`, which leads out of the folder
          fix: put the file itself there, or list the link in .insulaignore
        turns: this links to `turns`, which leads through more than 40 links, or back to itself
          fix: put the file itself there, or list the link in .insulaignore
    "#]],
    );
}

#[test]
fn what_is_no_file_is_refused() {
    let top = make(&[("a", "")]);
    let socket = std::os::unix::net::UnixListener::bind(top.path().join("socket")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, top.path().join("pipe"), fifo, mode, 0).unwrap();
    check(
        top.path(),
        expect![[r#"
        pipe: this is a pipe, not a file
          fix: list it in .insulaignore
        socket: this is a socket, not a file
          fix: list it in .insulaignore
    "#]],
    );
    drop(socket);
}

#[test]
fn names_that_cannot_travel_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let top = make(&[("bell\u{7}", "")]);
    File::create(top.path().join(std::ffi::OsStr::from_bytes(b"\xff.txt"))).unwrap();
    check(
        top.path(),
        expect![[r#"
        bell�: the path has a control character in its name
          fix: rename it, or list it in .insulaignore
        �.txt: the name is not UTF-8
          fix: rename it
    "#]],
    );
}

#[test]
fn too_much_data_is_refused_before_it_is_read() {
    let top = make(&[("index.html", "")]);
    for n in 0..10 {
        // Holes: nothing is on the disk, and reading them would take seconds.
        let file = File::create(top.path().join(format!("data{n}"))).unwrap();
        file.set_len(SOURCE_FILE_MAX.0).unwrap();
    }
    File::create(top.path().join("huge")).unwrap().set_len(5 << 30).unwrap();
    let started = std::time::Instant::now();
    check(
        top.path(),
        expect![[r#"
        the folder is 10GiB; a source may be 1GiB. The largest files are huge (5GiB), data9 (512MiB), data8 (512MiB)
          fix: list folders with data in .insulaignore: what is deployed is code
        huge: this is 5GiB; a file may be 512MiB
          fix: list folders with data in .insulaignore: what is deployed is code
    "#]],
    );
    assert!(started.elapsed().as_secs() < 10);
}

#[test]
fn a_folder_that_is_too_deep_is_refused() {
    let top = make(&[]);
    fs::create_dir_all(top.path().join("d/".repeat(70))).unwrap();
    check(
        top.path(),
        expect![[r#"
        d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/…: the path is more than 64 folders deep
          fix: rename it, or list it in .insulaignore
    "#]],
    );
}

#[test]
fn too_many_files_are_refused() {
    let top = make(&[]);
    // One inode under many names is enough to be counted.
    for block in 0..2 {
        let folder = top.path().join(block.to_string());
        fs::create_dir(&folder).unwrap();
        let first = folder.join("first");
        fs::write(&first, "").unwrap();
        for n in 0..SOURCE_FILES_MAX / 2 {
            // Filesystems bound the names of one inode.
            if n % 30_000 == 29_999 {
                fs::remove_file(&first).unwrap();
                fs::write(&first, "").unwrap();
            }
            fs::hard_link(&first, folder.join(n.to_string())).unwrap();
        }
    }
    check(
        top.path(),
        expect![[r#"
        more than 100000 files
          fix: list folders with data in .insulaignore: what is deployed is code
    "#]],
    );
}

#[test]
fn only_some_of_many_problems_are_shown() {
    let top = make(&[]);
    for n in 0..50 {
        symlink("/", top.path().join(format!("l{n:02}"))).unwrap();
    }
    let Err(FolderError::Problems(problems)) = folder::read(top.path()) else { panic!() };
    assert_eq!(problems.iter().count(), 20);
    assert!(problems.to_string().ends_with("\nand 30 more"));
}

#[test]
fn what_cannot_be_read_is_named() {
    let top = make(&[("open", ""), ("closed", ""), ("folder/in", "")]);
    let no_one = fs::Permissions::from_mode(0o000);
    fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(top.path().join("closed"), no_one.clone()).unwrap();
    fs::set_permissions(top.path().join("folder"), no_one).unwrap();
    let path = top.path().to_owned();
    // Root may read everything, so a thread of its own becomes somebody else.
    let read = move || {
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::process::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        folder::read(&path).unwrap_err().to_string()
    };
    let text = std::thread::spawn(read).join().unwrap();
    expect![[r#"
        closed: this cannot be read: permission denied
          fix: make it readable, or list it in .insulaignore
        folder: this cannot be read: permission denied
          fix: make it readable, or list it in .insulaignore"#]]
    .assert_eq(&text);
    fs::set_permissions(top.path().join("folder"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_place_that_is_no_folder_is_refused() {
    let top = make(&[("file", "")]);
    assert!(matches!(folder::read(&top.path().join("file")), Err(FolderError::NotAFolder { .. })));
    assert!(matches!(folder::read(&top.path().join("none")), Err(FolderError::Open { .. })));
}

#[test]
fn files_are_hashed_and_looked_at() {
    let top = make(&[("Procfile", "web: ./serve"), ("empty", ""), ("sub/abc", "abc")]);
    symlink("Procfile", top.path().join("alias")).unwrap();
    let folder = folder::read(top.path()).unwrap();
    let hashed = folder.hash().unwrap();
    let digests: Vec<(String, String)> = hashed
        .iter()
        .filter_map(|entry| match &entry.node {
            Node::File { contents, .. } => Some((entry.path.clone(), contents.hex())),
            Node::Symlink { .. } | Node::Dir => None,
        })
        .collect();
    let digest = |path: &str| digests.iter().find(|(p, _)| p == path).unwrap().1.clone();
    assert_eq!(digests.len(), 3);
    assert!(digest("empty").starts_with("e3b0c44298fc1c14"));
    assert!(digest("sub/abc").starts_with("ba7816bf8f01cfea"));
    assert_eq!(hashed.len(), folder.entries.len());
    assert_eq!(folder.total().0, 15);
    let detected = detect(&folder.view().unwrap()).unwrap();
    assert_eq!(detected.spec.components.len(), 1);
}

#[test]
fn a_file_that_changed_is_not_taken() {
    let top = make(&[("a", "one"), ("b", "two")]);
    let folder = folder::read(top.path()).unwrap();
    fs::write(top.path().join("b"), "more").unwrap();
    assert!(matches!(folder.hash(), Err(HashError::Changed { path }) if path == "b"));
    fs::remove_file(top.path().join("b")).unwrap();
    symlink("/etc/passwd", top.path().join("b")).unwrap();
    assert!(matches!(folder.hash(), Err(HashError::Read { path, .. }) if path == "b"));
}
