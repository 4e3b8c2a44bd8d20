//! The control plane: wake, load, plan, apply.
//!
//! `core` decides, without I/O; the loop here moves what sessions tell and what was committed into
//! it, and what it wants done into the store and the hub. A wake carries no data; whatever is missed
//! is found by the next pass. Of the servers that share a store one leads (`leader`) and does all
//! this; each of its writes is fenced (`fence`). All rules are in `insula-plan`, all rows in
//! `insula-store`, all sockets in `insula-link`.

mod blobs;
pub mod core;
mod fence;
mod housekeeping;
mod hub;
mod identities;
mod leader;
mod registry;
mod secrets;
mod shell;
mod status;
mod write;

use std::sync::Arc;
use std::time::Duration;

use insula_blobs::Blobs;
use insula_kit::clock::Clock;
use insula_kit::random::Random;
use insula_kit::seal::Keyring;
use insula_kit::shutdown::Shutdown;
use insula_link::{Hub, Inbox};
use insula_model::{HostName, ID_RANDOM_BYTES, ServerId, Timestamp};
use insula_plan::{Rules, View};
use insula_store::Store;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

pub use blobs::NodeBlobs;
pub use core::report::{Reconciler, Report, Status};
pub use fence::{Fence, LEASE};
pub use leader::{LEASE_TTL, Leadership, Membership};
pub use registry::Members;

use shell::{End, Shell};
use status::Board;

/// After a failure to read the world at the beginning of a term, before the next try.
const LOAD_PAUSE: Duration = Duration::from_millis(200);

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
    /// What the operator decided for the whole fleet.
    pub rules: Rules,
}

/// Where others see what the control plane sees.
#[derive(Debug, Clone)]
pub struct Boards {
    /// What was seen and decided last, while this server leads.
    pub view: watch::Sender<View>,
    pub leadership: watch::Sender<Leadership>,
    pub status: watch::Sender<Arc<Status>>,
}

impl Boards {
    /// Boards for those who ask for nothing but the view.
    pub fn of(view: watch::Sender<View>) -> Self {
        Self {
            view,
            leadership: watch::Sender::new(Leadership::Follower { leader: None }),
            status: watch::Sender::new(Arc::default()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("read the world from the store")]
    Load(#[source] insula_store::StoreError),
}

impl Membership {
    /// The only server of a store: one machine, SQLite.
    pub fn alone(random: &dyn Random, now: Timestamp) -> Self {
        let mut bytes = [0; ID_RANDOM_BYTES];
        random.fill(&mut bytes);
        Self {
            id: ServerId::from_parts(now, bytes),
            fleet: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            alone: true,
        }
    }
}

/// Runs the control plane of a server that is alone until the end is asked for. What was seen and
/// decided last goes to `view`.
pub async fn run(
    cx: Cx,
    inbound: Inbox,
    view: watch::Sender<View>,
    shutdown: Shutdown,
) -> Result<(), ControlError> {
    let now = Timestamp::from_millis(cx.clock.now_ms());
    let membership = Membership::alone(cx.random.as_ref(), now);
    serve(cx, membership, inbound, Boards::of(view), shutdown).await
}

/// Runs one of several servers until the end is asked for: leads whenever it holds the lease, and
/// follows when it does not.
pub async fn serve(
    cx: Cx,
    membership: Membership,
    mut inbound: Inbox,
    boards: Boards,
    shutdown: Shutdown,
) -> Result<(), ControlError> {
    let board = Arc::new(Board::default());
    let (elector, mut standing) = leader::Elector::new(cx.clone(), membership, Arc::clone(&board));
    let term = standing.clone();
    cx.hub.sure_while(move || shell::is_sure(&term.borrow()));
    let (lost, heard_of_loss) = mpsc::channel(1);
    let (end, ended) = oneshot::channel::<()>();
    let over = async move { _ = ended.await };
    let electing = tokio::spawn(elector.run(heard_of_loss, shutdown.clone(), over));
    let mut led = false;
    while let Some(fence) =
        shell::follow(&cx, &boards, &board, &mut inbound, &mut standing, &shutdown, &mut led).await
    {
        let shell = match Shell::load(&cx, fence, &board, &boards).await {
            Ok(shell) => shell,
            Err(error) => {
                error!(
                    error = &error as &dyn std::error::Error,
                    "this server cannot begin to lead"
                );
                tokio::select! {
                    _ = shutdown.requested() => break,
                    () = tokio::time::sleep(LOAD_PAUSE) => continue,
                }
            }
        };
        boards.leadership.send_replace(Leadership::Leader { epoch: fence.epoch });
        let term = standing.clone();
        // What runs beside the loop ends with it, half-way if need be.
        let end = tokio::select! {
            end = shell.run(&mut inbound, &mut standing, &shutdown) => end,
            () = leader::over(term, fence) => End::Lost,
            () = housekeeping::run(&cx, fence, &board) => End::Lost,
            () = identities::run(&cx, fence, &board) => End::Lost,
        };
        boards.leadership.send_replace(Leadership::Follower { leader: None });
        match end {
            End::Asked => break,
            End::Lost => {
                // The elector may know already, or hear it from us; before that the same term would
                // begin again, and load the world for nothing.
                _ = lost.try_send(fence);
                tokio::select! {
                    () = leader::over(standing.clone(), fence) => {}
                    _ = shutdown.requested() => break,
                }
            }
        }
    }
    // The lease goes back once nothing of ours can write any more.
    drop(end);
    if let Err(error) = electing.await {
        error!(%error, "the election panicked");
    }
    Ok(())
}
