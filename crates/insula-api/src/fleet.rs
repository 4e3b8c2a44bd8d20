//! What the API knows of the fleet beside the store: where others reach this installation, what
//! they recognise it by, and what the reconcilers said last.
//!
//! Plain values behind a handle. The control plane and the links are other crates; the binary
//! passes on what they say.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::response::Response;
use futures_util::future::BoxFuture;
use http::request::Parts;
use insula_wire::problem::Code;
use insula_wire::rest::status::Reconciler;

use crate::error::ApiError;

#[derive(Debug, Clone, Default)]
pub struct Fleet(Arc<Mutex<Said>>);

/// The way to another server that decides.
pub trait Leader: Send + Sync + std::fmt::Debug {
    /// Asks it what was asked of us. The caller was admitted here; it is asked again there.
    fn ask(&self, head: Parts) -> BoxFuture<'static, Result<Response, LeaderAway>>;
}

#[derive(Debug, thiserror::Error)]
#[error("ask the server that decides")]
pub struct LeaderAway(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Of a request that another server has passed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassedOn;

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
    deciding: Deciding,
}

impl Fleet {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.said().deciding = deciding;
    }

    /// Whether this is the server that sees the fleet as it is.
    pub(crate) fn decides(&self) -> bool {
        matches!(self.said().deciding, Deciding::Here)
    }

    /// The answer of the server that decides, or nothing if that is this one.
    pub(crate) async fn asked_elsewhere(&self, head: &Parts) -> Option<Result<Response, ApiError>> {
        let deciding = self.said().deciding.clone();
        match deciding {
            Deciding::Here => None,
            Deciding::Nobody => Some(Err(nobody())),
            // Two servers that both believe in the other would ask for ever.
            Deciding::Elsewhere(_) if head.extensions.get::<PassedOn>().is_some() => {
                Some(Err(nobody()))
            }
            Deciding::Elsewhere(leader) => {
                let answer = leader.ask(head.clone()).await;
                Some(answer.map_err(|away| nobody().log_only(away)))
            }
        }
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

fn nobody() -> ApiError {
    ApiError::new(Code::Unavailable, "no server decides at this moment; another takes over soon")
        .retry_after_s(1)
}
