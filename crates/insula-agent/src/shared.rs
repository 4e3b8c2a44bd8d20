//! What every part of a running agent shares.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use insula_kit::clock::Clock;
use insula_model::Timestamp;

use crate::artifact::Artifacts;
use crate::board::Board;
use crate::config::BuildSettings;
use crate::kept::Secrets;
use crate::layout::Layout;
use crate::log::LogRoot;
use crate::names::NameBoard;
use crate::places::Places;
use crate::sandbox::Sandboxes;
use crate::server::Server;

#[derive(Debug)]
pub struct Shared {
    pub layout: Layout,
    pub logs: LogRoot,
    pub board: Board,
    pub names: NameBoard,
    pub places: Arc<Places>,
    pub sandboxes: Sandboxes,
    pub artifacts: Arc<Artifacts>,
    pub server: Server,
    pub clock: Arc<dyn Clock>,
    /// The newest values.
    pub secrets: RwLock<Secrets>,
    pub program: PathBuf,
    pub open_usr_local: bool,
    pub build: BuildSettings,
}

impl Shared {
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.now_ms())
    }

    pub fn secrets(&self) -> Secrets {
        self.secrets.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_secrets(&self, secrets: Secrets) {
        *self.secrets.write().unwrap_or_else(PoisonError::into_inner) = secrets;
    }
}
