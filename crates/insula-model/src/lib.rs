//! The words of Insula: ids, names, units, and the three kinds of state.
//!
//! What people ask for is a *Spec*, what the control plane decided is a *Target*, what nodes
//! report is *Observed*. They are different types here so that nobody can mix them. This crate is
//! pure: no I/O, no clock, no randomness, and maps that iterate in a determined order.

pub mod app;
pub mod build;
pub mod deployment;
pub mod digest;
pub mod event;
pub mod feed;
pub mod fleet;
pub mod ids;
pub mod instance;
pub mod limits;
pub mod names;
pub mod node;
pub mod observed;
pub mod release;
pub mod routes;
pub mod schema;
pub mod spec;
pub mod target;
pub mod tenancy;
pub mod time;
pub mod units;

pub use digest::Digest;
pub use ids::*;
pub use names::*;
pub use time::Timestamp;
pub use units::{Bytes, MilliCpu, Millis};

use serde::{Deserialize, Serialize};

/// A number that fences a Target: receivers refuse what is older than what they hold.
///
/// It is the position in the store's commit-ordered feed at which the Target was derived, so one
/// counter orders every decision of the control plane.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
