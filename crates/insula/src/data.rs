//! The data folder: where things are in it, who may enter, and which version it has.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use insula_kit::files::{self, Access};
use insula_kit::lock::{Lock, LockError};

/// What this version writes. A newer folder is refused; an older one is migrated by its owners.
const FORMAT: u32 = 1;
/// The file with the number has nothing else in it.
const FORMAT_FILE_BYTES_MAX: u64 = 64;
/// The key that everything sealed is sealed with.
const MASTER_KEY: &str = "master.key";
/// Interface names have 15 bytes in all.
const TAG_CHARS: usize = 6;
/// Others may pass through to what is theirs, and see no list.
const PASSAGE: u32 = 0o711;
const PRIVATE: u32 = 0o700;

/// Paths inside a data folder.
#[derive(Debug, Clone)]
pub struct Data {
    root: PathBuf,
}

impl Data {
    pub fn at(root: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(root)
            .with_context(|| format!("find the data folder {}", root.display()))?;
        Ok(Self { root })
    }

    /// `--data`, else the place for the user that runs us.
    pub fn choose(given: Option<PathBuf>) -> anyhow::Result<Self> {
        match given {
            Some(path) => Self::at(&path),
            None => Self::at(&insula_cli::default_data_folder()?),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
    pub fn operator(&self) -> PathBuf {
        self.root.join("operator.json")
    }
    pub fn master_key(&self) -> PathBuf {
        self.root.join(MASTER_KEY)
    }
    /// Of a rotation that is under way: what the server opens beside the master key.
    pub fn next_master_key(&self) -> PathBuf {
        self.root.join("master.key.next")
    }
    pub fn database(&self) -> PathBuf {
        self.root.join("server/insula.db")
    }
    /// Where state is kept, if not here.
    pub fn kept(&self) -> PathBuf {
        self.root.join("server/kept.json")
    }
    /// Where the server had it when it last started.
    pub fn used(&self) -> PathBuf {
        self.root.join("server/used.json")
    }
    /// Which of several servers this is.
    pub fn server_id(&self) -> PathBuf {
        self.root.join("server/id.json")
    }
    /// The id of the node that runs here, for everybody to read.
    pub fn node_id(&self) -> PathBuf {
        self.root.join("node")
    }
    pub fn blobs(&self) -> PathBuf {
        self.root.join("server/blobs")
    }
    pub fn gateway(&self) -> PathBuf {
        self.root.join("gateway")
    }
    pub fn program(&self) -> PathBuf {
        self.root.join("agent/program")
    }
    /// In a folder that belongs to the role.
    pub fn role_lock(&self, role: &str) -> PathBuf {
        self.root.join(role).join("lock")
    }
    /// What the role's process ended of, likewise.
    pub fn last_words(&self, role: &str) -> PathBuf {
        self.root.join(role).join("last-words")
    }
    pub fn node_socket(&self) -> PathBuf {
        self.root.join("sock/server.sock")
    }
    pub fn edge_socket(&self) -> PathBuf {
        self.root.join("sock/edge.sock")
    }

    /// Keeps what two data folders make in one kernel apart: six characters of the path's digest.
    pub fn tag(&self) -> String {
        let digest = insula_kit::digest::sha256(self.root.as_os_str().as_encoded_bytes());
        insula_kit::digest::hex(&digest)[..TAG_CHARS].to_owned()
    }

    /// Makes the folder, or checks that it is one of ours that we can read.
    pub fn prepare(&self) -> anyhow::Result<()> {
        // Nobody's folder is touched before it is known to be ours, or empty.
        let made = DirBuilder::new().recursive(true).mode(PASSAGE).create(&self.root);
        made.with_context(|| format!("make the folder {}", self.root.display()))?;
        self.check_format()?;
        folder(&self.root, PASSAGE)?;
        folder(&self.root.join("sock"), PASSAGE)?;
        folder(&self.gateway(), PRIVATE)?;
        for private in ["server", "server/spool", "agent", "logs", "log"] {
            folder(&self.root.join(private), PRIVATE)?;
        }
        Ok(())
    }

    fn check_format(&self) -> anyhow::Result<()> {
        let path = self.root.join("format");
        let found = match files::read(&path, FORMAT_FILE_BYTES_MAX) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
            Err(error) if error.is_missing() => {
                // What a first start that was killed has left of the format file is no content, and
                // one more server of several begins with a copy of the others' key.
                let ours = |name: &OsStr| {
                    name.as_encoded_bytes().starts_with(b".insula-") || name == MASTER_KEY
                };
                let mut entries = fs::read_dir(&self.root)?.flatten();
                if entries.any(|entry| !ours(&entry.file_name())) {
                    bail!(
                        "{} is not empty and is not a data folder of Insula; choose another with --data",
                        self.root.display()
                    );
                }
                files::write_durably(&path, format!("{FORMAT}\n").as_bytes(), Access::Public)?;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        match found.parse::<u32>() {
            Ok(FORMAT) => Ok(()),
            Ok(newer) if newer > FORMAT => bail!(
                "{} has format {newer}; this version of insula knows {FORMAT}: run the newer insula",
                self.root.display()
            ),
            Ok(_) | Err(_) => bail!("{} does not name a format: `{found}`", path.display()),
        }
    }

    /// The gateway's user has to pass through to its folder and its socket.
    pub fn refuse_closed_parents(&self) -> anyhow::Result<()> {
        for parent in self.root.ancestors().skip(1) {
            let mode = fs::metadata(parent)?.permissions().mode();
            if mode & 0o001 == 0 {
                bail!(
                    "the gateway runs as a user of its own, who cannot pass through {} (mode {:04o}); \
                     choose another folder with --data, or run: chmod o+x {}",
                    parent.display(),
                    mode & 0o7777,
                    parent.display()
                );
            }
        }
        Ok(())
    }

    /// Whoever holds it runs the folder.
    pub fn hold(&self) -> anyhow::Result<Lock> {
        match Lock::acquire(&self.lock()) {
            Ok(lock) => Ok(lock),
            Err(LockError::Held { pid, .. }) => bail!(
                "{} is run already by process {}; end that one first, or choose another folder with --data",
                self.root.display(),
                pid.map_or_else(|| "?".to_owned(), |p| p.to_string())
            ),
            Err(error) => Err(error.into()),
        }
    }
}

fn folder(path: &Path, mode: u32) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.with_context(|| format!("make the folder {}", path.display()))?;
    match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("{} belongs to somebody else; choose another with --data", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("set the mode of {}", path.display())),
    }
}
