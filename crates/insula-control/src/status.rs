//! What the operator sees of the loops that run beside the core.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use insula_model::Timestamp;
use insula_model::fleet::Server;

use crate::Boards;
use crate::core::report::{Pass, Reconciler, Report, Status};

/// Reports of the loops beside the core, and the servers that were seen.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Beside>);

#[derive(Debug, Default)]
struct Beside {
    reports: BTreeMap<Reconciler, Report>,
    servers: Vec<Server>,
}

impl Board {
    pub(crate) fn note(&self, reconciler: Reconciler, pass: Pass, at: Timestamp) {
        self.beside().reports.entry(reconciler).or_default().note(pass, at);
    }

    pub(crate) fn see_servers(&self, servers: Vec<Server>) {
        self.beside().servers = servers;
    }

    pub(crate) fn complete(&self, status: &mut Status) {
        let beside = self.beside();
        status.reports.extend(beside.reports.iter().map(|(of, report)| (*of, report.clone())));
        status.servers.clone_from(&beside.servers);
    }

    /// What a server shows that does not lead: who else there is.
    pub(crate) fn follows(&self, boards: &Boards, at: Timestamp) {
        let servers = self.beside().servers.clone();
        let status = Status { at: Some(at), servers, ..Status::default() };
        boards.status.send_replace(Arc::new(status));
    }

    fn beside(&self) -> MutexGuard<'_, Beside> {
        // Nothing panics while it holds the lock; if it did, reports are still reports.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
