//! Where the agent keeps what. Paths are built from ids and digests only.

use std::path::{Path, PathBuf};

use insula_model::{AppId, BuildId, Digest, InstanceId};

/// The data folder, as the agent sees it.
#[derive(Debug, Clone)]
pub struct Layout {
    data: PathBuf,
}

impl Layout {
    pub fn new(data: &Path) -> Self {
        Self { data: data.to_owned() }
    }

    pub fn agent(&self) -> PathBuf {
        self.data.join("agent")
    }

    pub fn node(&self) -> PathBuf {
        self.agent().join("node.json")
    }

    pub fn node_key(&self) -> PathBuf {
        self.agent().join("node.key")
    }

    pub fn target(&self) -> PathBuf {
        self.agent().join("target.json")
    }

    pub fn secrets(&self) -> PathBuf {
        self.agent().join("secrets.sealed")
    }

    /// What makes this node a member of a fleet.
    pub fn member(&self) -> insula_member::Files {
        insula_member::Files::in_folder(&self.agent())
    }

    /// Who this node is, for the gateway beside it. Anybody may read it.
    pub fn public_node(&self) -> PathBuf {
        self.data.join("node")
    }

    /// When a server heard this node last.
    pub fn contact(&self) -> PathBuf {
        self.agent().join("contact.json")
    }

    /// The address up to which, along the round of the pool, any may have been given.
    pub fn last_address(&self) -> PathBuf {
        self.agent().join("last-address")
    }

    pub fn states(&self) -> PathBuf {
        self.agent().join("state")
    }

    pub fn state(&self, id: InstanceId) -> PathBuf {
        self.states().join(format!("{id}.json"))
    }

    pub fn artifacts(&self) -> PathBuf {
        self.agent().join("artifacts")
    }

    /// The tree of a source, by the digest of its manifest.
    pub fn source(&self, manifest: &Digest) -> PathBuf {
        self.artifacts().join(format!("source-{}", manifest.hex()))
    }

    /// The unpacked layer that a build added, by the digest of its archive.
    pub fn built(&self, archive: &Digest) -> PathBuf {
        self.artifacts().join(format!("built-{}", archive.hex()))
    }

    /// Contents of files, shared by the trees of sources.
    pub fn chunks(&self) -> PathBuf {
        self.artifacts().join("chunks")
    }

    /// What is being fetched, unpacked or packed; emptied at every start.
    pub fn scratch(&self) -> PathBuf {
        self.agent().join("scratch")
    }

    pub fn builds(&self) -> PathBuf {
        self.agent().join("builds")
    }

    /// The writable layer of a build and its companions.
    pub fn build(&self, id: BuildId) -> PathBuf {
        self.builds().join(id.to_string())
    }

    /// What an app's builds keep for the next one (pip's and npm's caches).
    pub fn build_cache(&self, app: AppId) -> PathBuf {
        self.build_caches().join(app.to_string())
    }

    pub fn build_caches(&self) -> PathBuf {
        self.agent().join("cache")
    }

    /// The sandboxes of instances and builds, one folder each, beside our sockets.
    pub fn run(&self) -> PathBuf {
        self.data.join("run")
    }
}
