//! What every part of a running agent shares.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use insula_kit::clock::Clock;
use insula_kit::metrics::Metrics;
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
    /// What the relay counts, once there is one.
    pub relay: OnceLock<Metrics>,
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

#[cfg(test)]
impl Shared {
    /// Of a node in development that has no server and nothing in its data folder.
    pub fn in_folder(data: &std::path::Path, contact: Contact) -> Self {
        use insula_member::{Dial, Uplink};
        use insula_model::node::NodeMode;
        use insula_sandbox::Mode;
        let layout = Layout::new(data);
        for path in [layout.states(), layout.builds(), layout.run()] {
            std::fs::create_dir_all(path).expect("a folder");
        }
        let server = Server { uplink: Uplink::new(Dial::Unix(data.join("none.sock"))) };
        let sandboxes = Sandboxes::open(Mode::User, layout.run(), "").expect("a driver");
        let artifacts = Artifacts::open(&layout, server.clone(), NodeMode::Development);
        Self {
            logs: LogRoot::of(data),
            board: Board::default(),
            names: NameBoard::new(watch::Sender::default()),
            places: Places::new(None, layout.last_address()),
            sandboxes,
            artifacts: artifacts.expect("a store"),
            server,
            clock: Arc::new(insula_kit::clock::SystemClock),
            secrets: RwLock::default(),
            program: PathBuf::new(),
            open_usr_local: false,
            build: BuildSettings::default(),
            measured: Measured::default(),
            vitals: Vitals::default(),
            fleet: watch::Sender::default(),
            contact,
            relay: OnceLock::new(),
            layout,
        }
    }
}
