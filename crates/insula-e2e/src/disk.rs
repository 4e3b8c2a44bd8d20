//! A disk that is small and soon full: memory, mounted for as long as this lives.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};
use rustix::fs::statvfs;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const FILLER: &str = "filler";

#[derive(Debug)]
pub struct SmallDisk {
    /// Where it is mounted.
    folder: TempDir,
}

impl SmallDisk {
    pub fn mount(mib: u64) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("insula-disk").tempdir()?;
        let size = format!("size={mib}m,mode=755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "insula-e2e"])
            .arg(folder.path())
            .status()?;
        if !mounted.success() {
            bail!("mount a small disk: {mounted}");
        }
        Ok(Self { folder })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join(FILLER)
    }

    /// Somebody's file takes all the room but this.
    pub fn fill_up_to(&self, free_mib: u64) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.filler())?;
        let block = vec![b'x'; usize::try_from(MIB)?];
        loop {
            let seen = statvfs(self.path())?;
            if seen.f_bavail * seen.f_frsize <= free_mib * MIB {
                return Ok(());
            }
            match file.write_all(&block) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                written => written?,
            }
        }
    }

    /// And is removed.
    pub fn make_room(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.filler())?)
    }

    /// Refuses if somebody is there still.
    fn unmount(&self) -> Result<()> {
        let unmounted = Command::new("umount").arg(self.path()).status()?;
        ensure!(unmounted.success(), "{} could not be unmounted", self.path().display());
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("{error:#}");
        }
    }
}
