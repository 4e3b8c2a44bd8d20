//! What processes keep on the disk without a name: files that were removed and are still open, or
//! mapped. Walking folders does not find them.
//!
//! What nobody has open, such as a descriptor on its way through a socket, is not found here either;
//! see the bound on what the disk loses in `watch`.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use insula_model::Bytes;
use rustix::fs::statfs;

/// Descriptors and mappings that one look goes through: two seconds of it. A build may run a
/// thousand threads, each of which can have a table of its own; honest ones have some ten thousand.
const OPEN_MAX: usize = 250_000;

/// File systems that are memory, which is counted where memory is.
const IN_MEMORY: [i64; 3] = [
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x9584_58f6, // hugetlbfs
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nameless {
    pub bytes: Bytes,
    /// False if there was more than can be looked at.
    pub whole: bool,
}

/// Of files on the disks of `homes`, or on any that is not memory: in a sandbox `/app` has a device
/// of its own, whatever disk is below it.
pub fn measure(pids: &[u32], homes: &[&Path]) -> Nameless {
    let homes = homes.iter().filter_map(|home| fs::metadata(home).ok());
    let mut look = Look {
        homes: homes.map(|about| about.st_dev()).collect(),
        seen: BTreeSet::new(),
        bytes: 0,
        left: OPEN_MAX,
    };
    let whole = pids.iter().try_for_each(|pid| look.process(*pid)).is_some();
    Nameless { bytes: Bytes(look.bytes), whole }
}

struct Look {
    homes: BTreeSet<u64>,
    /// Devices and inodes that are counted already.
    seen: BTreeSet<(u64, u64)>,
    bytes: u64,
    left: usize,
}

impl Look {
    /// Nothing once there was too much; what is gone meanwhile has nothing open.
    fn process(&mut self, pid: u32) -> Option<()> {
        let mut mapped = false;
        for thread in names(&PathBuf::from(format!("/proc/{pid}/task"))) {
            // Threads need not share their descriptors, and the first one may be gone.
            self.folder(&thread.join("fd"))?;
            // They do share their memory. The way by `task` does not lead to it.
            if !mapped && let Some(id) = thread.file_name() {
                mapped = self.folder(&Path::new("/proc").join(id).join("map_files"))?;
            }
        }
        Some(())
    }

    /// Whether there was anything in it.
    fn folder(&mut self, folder: &Path) -> Option<bool> {
        let mut any = false;
        for link in names(folder) {
            any = true;
            self.left = self.left.checked_sub(1)?;
            // Follows the link to the file itself, with or without a name, and opens nothing.
            let Ok(about) = fs::metadata(&link) else { continue };
            if about.file_type().is_file() && about.st_nlink() == 0 {
                self.count(&link, &about);
            }
        }
        Some(any)
    }

    fn count(&mut self, link: &Path, about: &Metadata) {
        if !self.seen.insert((about.st_dev(), about.st_ino())) {
            return;
        }
        let at_home = self.homes.contains(&about.st_dev());
        // Masked: the kernel's numbers have 32 bits, and come with a sign on some machines.
        #[expect(clippy::unnecessary_cast, reason = "the type differs between machines")]
        let kind = || statfs(link).map(|about| about.f_type as i64 & 0xffff_ffff);
        if at_home || kind().is_ok_and(|kind| !IN_MEMORY.contains(&kind)) {
            // The kernel counts in units of 512 bytes, whatever a block of the disk is.
            self.bytes = self.bytes.saturating_add(about.st_blocks().saturating_mul(512));
        }
    }
}

fn names(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A process that keeps files open in `folder` as a line of Python says, and says so.
    fn process(folder: &Path, line: &str) -> std::process::Child {
        let script = format!("import os, sys, mmap, threading\n{line}\nprint()\nsys.stdin.read()");
        let mut child = Command::new("python3")
            .args(["-u", "-c", &script])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        child
    }

    fn of(line: &str) -> Nameless {
        let folder = tempfile::tempdir().unwrap();
        let mut child = process(folder.path(), line);
        let found = measure(&[child.id()], &[folder.path()]);
        child.stdin.take().unwrap().write_all(b"end").unwrap();
        assert!(child.wait().unwrap().success());
        found
    }

    const WRITE: &str = "f = os.open('f', os.O_RDWR | os.O_CREAT)\nos.write(f, b'x' * (1 << 20))\n\
                         os.fsync(f)\n";

    #[test]
    fn a_removed_file_counts_once_however_often_it_is_open() {
        assert_eq!(of(WRITE).bytes, Bytes(0), "it has a name");
        let line = format!("{WRITE}os.unlink('f')\nos.dup(f); os.dup(f); m = mmap.mmap(f, 4096)");
        let found = of(&line);
        assert!(found.whole && found.bytes.0 >= MIB && found.bytes.0 < 2 * MIB, "{found:?}");
    }

    #[test]
    fn a_removed_file_that_is_only_mapped_counts() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "needs root");
            eprintln!("SKIPPED: what others map is shown to root alone");
            return;
        }
        let mapped = "m = mmap.mmap(f, 1 << 20, mmap.MAP_SHARED)\nos.close(f)\nos.unlink('f')";
        // Python keeps a descriptor for each mapping: it is closed behind its back.
        let line = format!("{WRITE}{mapped}\nos.closerange(3, 64)");
        assert!(of(&line).bytes.0 >= MIB);
    }

    #[test]
    fn a_thread_with_descriptors_of_its_own_hides_nothing() {
        let line = format!(
            "import ctypes\nbegun = threading.Event()\ndef own():\n \
             assert ctypes.CDLL(None).unshare(0x400) == 0\n {}\n os.unlink('f')\n begun.set()\n \
             threading.Event().wait()\nthreading.Thread(target=own, daemon=True).start()\n\
             begun.wait()",
            WRITE.trim_end().replace('\n', "\n ")
        );
        assert!(of(&line).bytes.0 >= MIB);
    }

    #[test]
    fn memory_is_counted_elsewhere() {
        let line = "f = os.memfd_create('f')\nos.write(f, b'x' * (1 << 20))";
        assert_eq!(of(line), Nameless { bytes: Bytes(0), whole: true });
    }

    #[test]
    fn more_than_can_be_looked_at_is_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut look = Look { homes: BTreeSet::new(), seen: BTreeSet::new(), bytes: 0, left: 3 };
        let _open: Vec<_> =
            (0..4).map(|n| fs::File::create(folder.path().join(n.to_string())).unwrap()).collect();
        assert_eq!(look.process(std::process::id()), None);
    }
}
