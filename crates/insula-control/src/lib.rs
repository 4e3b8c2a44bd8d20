//! The control plane: wake, load, plan, apply.
//!
//! One loop takes what sessions tell, reads what was committed, asks `insula-plan` what to do, and
//! does it. A wake carries no data; whatever is missed is found by the next pass. All decisions
//! are in `insula-plan`, all rows in `insula-store`, all sockets in `insula-link`.

mod apply;
mod blobs;
mod edge;
mod housekeeping;
mod ingest;
mod pass;
mod secrets;
mod tell;

use std::sync::Arc;

use insula_blobs::Blobs;
use insula_kit::clock::Clock;
use insula_kit::random::Random;
use insula_kit::seal::Keyring;
use insula_kit::shutdown::Shutdown;
use insula_link::{Hub, Inbound};
use insula_model::HostName;
use insula_plan::View;
use insula_store::Store;
use tokio::sync::{mpsc, watch};

pub use blobs::NodeBlobs;

/// What the control plane works with. Everything comes in through here.
#[derive(Debug, Clone)]
pub struct Cx {
    pub store: Store,
    pub hub: Hub,
    pub blobs: Blobs,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    /// The master key, which opens the orgs' data keys.
    pub keys: Arc<Keyring>,
    pub suffix: HostName,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("read the world from the store")]
    Load(#[source] insula_store::StoreError),
}

/// Runs until the end is asked for. What was seen and decided last goes to `view`.
pub async fn run(
    cx: Cx,
    inbound: mpsc::Receiver<Inbound>,
    view: watch::Sender<View>,
    shutdown: Shutdown,
) -> Result<(), ControlError> {
    let keeping = tokio::spawn(housekeeping::run(cx.clone(), shutdown.clone()));
    let outcome = pass::Loop::load(cx).await?.run(inbound, view, shutdown).await;
    // It hears the same shutdown; an error is a panic that was logged already.
    let _ = keeping.await;
    outcome
}
