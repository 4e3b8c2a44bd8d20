//! What keeps a server from writing that does not lead any more, and does not know it.

use insula_model::ServerId;
use insula_store::{Tx, WriteError, leases};

/// The lease of the one who reconciles.
pub const LEASE: &str = "control";

/// A time in which this server leads. Every write of the control plane checks it in its own
/// transaction: however late a write comes, it happens only while its term is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    pub holder: ServerId,
    pub epoch: u64,
}

impl Fence {
    pub fn check(&self, tx: &mut Tx) -> Result<(), WriteError> {
        leases::check(tx, LEASE, self.holder, self.epoch)
    }
}
