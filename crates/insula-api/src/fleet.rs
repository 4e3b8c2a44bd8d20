//! What the API knows of the fleet beside the store: where others reach this installation, what
//! they recognise it by, and what the reconcilers said last.
//!
//! Plain values behind a handle. The control plane and the links are other crates; the binary
//! passes on what they say.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use insula_wire::rest::status::Reconciler;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::held::Leader;

#[derive(Debug, Clone, Default)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    said: Mutex<Said>,
    deciding: watch::Sender<Deciding>,
}

/// Which server decides at the moment.
#[derive(Debug, Clone, Default)]
pub enum Deciding {
    #[default]
    Here,
    Elsewhere(Arc<dyn Leader>),
    /// One has ended and none has taken over yet.
    Nobody,
}

#[derive(Debug, Clone, Default)]
struct Said {
    servers: Vec<String>,
    fingerprint: Option<String>,
    reconcilers: Vec<Reconciler>,
    /// When this server was told that it decides.
    decides_since: Option<Instant>,
}

impl Fleet {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `host:port` of every server that others can dial.
    pub fn set_servers(&self, servers: Vec<String>) {
        self.said().servers = servers;
    }

    /// What a join token names the authority by.
    pub fn set_fingerprint(&self, fingerprint: String) {
        self.said().fingerprint = Some(fingerprint);
    }

    pub fn set_reconcilers(&self, reconcilers: Vec<Reconciler>) {
        self.said().reconcilers = reconcilers;
    }

    pub fn set_deciding(&self, deciding: Deciding) {
        let here = matches!(deciding, Deciding::Here);
        self.said().decides_since = here.then(Instant::now);
        self.0.deciding.send_replace(deciding);
    }

    /// Which server decides, as that changes.
    pub fn deciding(&self) -> watch::Receiver<Deciding> {
        self.0.deciding.subscribe()
    }

    /// Whether this is the server that sees the fleet as it is.
    pub(crate) fn decides(&self) -> bool {
        matches!(*self.0.deciding.borrow(), Deciding::Here)
    }

    /// Whether this server has begun to decide within this time: members may still be dialling it.
    pub(crate) fn began_within(&self, time: Duration) -> bool {
        self.said().decides_since.is_some_and(|since| since.elapsed() < time)
    }

    pub fn servers(&self) -> Vec<String> {
        self.said().servers.clone()
    }

    pub fn fingerprint(&self) -> Option<String> {
        self.said().fingerprint.clone()
    }

    pub fn reconcilers(&self) -> Vec<Reconciler> {
        self.said().reconcilers.clone()
    }
}
