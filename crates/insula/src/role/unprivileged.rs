//! Root becomes the gateway's user, once the ports are taken that root was needed for.
//!
//! In this very process: it is one thread by then, so nothing of it stays behind as root. What a
//! stranger's bytes could take over afterwards owns one folder and nothing else.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use rustix::fs::{Dir, Gid, Mode, OFlags, Uid, fchown, openat};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// A user and a group.
pub type Ids = (u32, u32);

/// Gives the folder and the files in it to the user, if they are root's or its own already. Files of
/// a root that was the gateway itself, say; who had the folder before may have put anything there,
/// so nothing is followed, and nothing is given that has another name elsewhere.
pub fn give(folder: &Path, to: Ids) -> anyhow::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty());
    let opened = File::from(opened.with_context(|| format!("open {}", folder.display()))?);
    refuse_others(&opened, folder, to)?;
    for entry in Dir::read_from(&opened).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        let path = folder.join(name.to_string_lossy().as_ref());
        // A pipe with nobody at its other end is not waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&opened, name, flags, Mode::empty());
        let file = File::from(file.with_context(|| format!("open {}", path.display()))?);
        let found = file.metadata()?;
        ensure!(
            found.is_file() && found.nlink() == 1,
            "{} is no file of a gateway",
            path.display()
        );
        refuse_others(&file, &path, to)?;
        hand_over(&file, &path, to)?;
    }
    hand_over(&opened, folder, to)
}

fn refuse_others(file: &File, path: &Path, (user, _): Ids) -> anyhow::Result<()> {
    let owner = file.metadata()?.uid();
    if ![0, user].contains(&owner) {
        bail!(
            "{} belongs to user {owner}: start the gateway as that user, not as root",
            path.display()
        );
    }
    Ok(())
}

fn hand_over(file: impl AsFd, path: &Path, (user, group): Ids) -> anyhow::Result<()> {
    fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
        .with_context(|| format!("give {} to user {user}", path.display()))
}

/// For good: nothing that is started from here on gets anything back.
pub fn become_user((user, group): Ids) -> anyhow::Result<()> {
    // A thread has a user of its own; another one would stay root.
    let threads = std::fs::read_dir("/proc/self/task").context("count our threads")?.count();
    ensure!(threads == 1, "cannot give up root: {threads} threads run already");
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(group));
    let gave_up = set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| set_thread_res_uid(uid, uid, uid))
        .and_then(|()| set_no_new_privs(true));
    gave_up.with_context(|| {
        format!("become user {user} (start the gateway as an ordinary user where that cannot be)")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    const USER: Ids = (61_870, 61_870);

    fn is_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "this needs root");
            eprintln!("SKIPPED: giving a folder away needs root");
        }
        root
    }

    fn owners(folder: &Path) -> Vec<u32> {
        let mut owners = vec![folder.metadata().unwrap().uid()];
        for entry in std::fs::read_dir(folder).unwrap() {
            owners.push(entry.unwrap().metadata().unwrap().uid());
        }
        owners
    }

    #[test]
    fn a_folder_that_root_or_the_user_had_is_the_users_then() {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        for name in ["gateway.json", "credentials.json", "lock"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        give(folder.path(), USER).unwrap();
        assert_eq!(owners(folder.path()), [USER.0; 4]);
        std::fs::write(folder.path().join("routes.json"), "of root").unwrap();
        give(folder.path(), USER).unwrap();
        assert_eq!(owners(folder.path()), [USER.0; 5]);
    }

    #[test]
    fn nothing_of_others_is_given_away_through_the_folder() {
        if !is_root() {
            return;
        }
        let all = tempfile::tempdir().unwrap();
        let (folder, secret) = (all.path().join("gateway"), all.path().join("secret"));
        let entry = folder.join("entry");
        let attack = |plant: &dyn Fn()| {
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(&secret, "of root").unwrap();
            plant();
            give(&folder, USER).unwrap_err();
            assert_eq!(secret.metadata().unwrap().uid(), 0);
            std::fs::remove_dir_all(&folder).unwrap();
        };
        attack(&|| symlink(&secret, &entry).unwrap());
        attack(&|| std::fs::hard_link(&secret, &entry).unwrap());
        attack(&|| std::fs::create_dir(&entry).unwrap());
        attack(&|| {
            std::fs::write(&entry, "another's").unwrap();
            chown(&entry, Some(1), Some(1)).unwrap();
        });
        attack(&|| chown(&folder, Some(1), Some(1)).unwrap());
        std::fs::create_dir(&folder).unwrap();
        let link = all.path().join("link");
        symlink(&folder, &link).unwrap();
        give(&link, USER).unwrap_err();
        assert_eq!(folder.metadata().unwrap().uid(), 0);
    }
}
