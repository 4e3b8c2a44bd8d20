//! Where a member keeps what makes it one.

use std::path::{Path, PathBuf};

use insula_kit::files::{self, FileError};

/// Each is private, and replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Key, certificate, and whom we believe.
    pub credentials: PathBuf,
    /// The key that was chosen, until there is a certificate for it.
    pub joining: PathBuf,
    /// Where the servers of the fleet are.
    pub servers: PathBuf,
}

impl Files {
    /// In a folder of the member's own, which is there already.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            credentials: folder.join("credentials.json"),
            joining: folder.join("joining.json"),
            servers: folder.join("servers.json"),
        }
    }

    /// Forgets who this was. Where the servers are stays known.
    pub fn forget(&self) -> Result<(), FileError> {
        files::remove_durably(&self.joining)?;
        files::remove_durably(&self.credentials)
    }

    /// Whether this member has joined at some time.
    pub fn has_joined(&self) -> bool {
        self.credentials.exists()
    }
}
