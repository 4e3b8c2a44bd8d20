//! What every part of a running agent shares.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use insula_kit::clock::Clock;
use insula_model::target::FleetTarget;
use insula_model::{InstanceId, Timestamp};
use insula_sandbox::Record;
use tokio::sync::watch;

use crate::artifact::Artifacts;
use crate::board::Board;
use crate::config::BuildSettings;
use crate::contact::Contact;
use crate::health::Vitals;
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
    pub measured: Measured,
    pub vitals: Vitals,
    /// What the newest Target says of the rest of the fleet.
    pub fleet: watch::Sender<Arc<FleetTarget>>,
    pub contact: Contact,
}

/// The sandboxes whose use is measured: those of instances that run.
#[derive(Debug, Default)]
pub struct Measured(Mutex<BTreeMap<InstanceId, Record>>);

impl Measured {
    pub fn begin(&self, instance: InstanceId, sandbox: Record) {
        self.lock().insert(instance, sandbox);
    }

    pub fn end(&self, instance: InstanceId) {
        self.lock().remove(&instance);
    }

    pub fn all(&self) -> Vec<(InstanceId, Record)> {
        self.lock().iter().map(|(id, sandbox)| (*id, sandbox.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
