//! What a relay asks of whoever knows what runs here.

use std::net::SocketAddr;

use insula_model::InstanceId;
use insula_model::fleet::Member;
use tokio::sync::watch;

/// Why a member does not get to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoDoor {
    /// It does not run here: not any more, not yet, or never did.
    Gone,
    /// It runs, and that member has no business with it.
    Denied,
    /// It runs and listens nowhere.
    NotListening,
}

/// Answers from what is known at that moment, without waiting.
pub trait Doors: Send + Sync + 'static {
    /// Whether this member may speak to us at all. Who is not named by our own Target may not.
    fn admits(&self, member: Member) -> bool;

    /// Where the instance is now. Asked at each opening.
    fn find(&self, member: Member, instance: InstanceId) -> Result<SocketAddr, NoDoor>;

    /// Whether a stream that was opened may go on: the instance is still there, at that address,
    /// and the member still may. It need not take new ones.
    fn holds(&self, member: Member, instance: InstanceId, at: SocketAddr) -> bool;

    /// Moves whenever one of the answers above may have changed.
    fn changes(&self) -> watch::Receiver<u64>;
}
