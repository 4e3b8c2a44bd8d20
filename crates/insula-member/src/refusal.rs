//! What a server says for good, and what a person can do about it.

use std::time::Duration;

use insula_kit::backoff::Backoff;
use insula_wire::node::{REFUSAL_METADATA, REFUSED_REMOVED};
use tonic::{Code, Status};

/// Between tries: a server that restarts is back within an instant, another one is there already,
/// and one that is gone is not asked all the time.
pub const RECONNECT: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
/// Between tries with a server that says that it will not have us: nothing of it changes by itself,
/// but the operator may change it.
pub const REFUSED: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Removed from the fleet, or the certificate does not count (any more).
    Identity,
    /// Another version, or a message that the server does not understand.
    Protocol,
}

impl Refusal {
    /// Nothing for what may pass by itself.
    pub fn of(status: &Status) -> Option<Self> {
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Some(Self::Identity),
            Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
                Some(Self::Protocol)
            }
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => None,
        }
    }

    /// Whether it was removed from the fleet, which is for ever.
    pub(crate) fn is_removal(status: &Status) -> bool {
        let why = status.metadata().get(REFUSAL_METADATA).and_then(|why| why.to_str().ok());
        status.code() == Code::PermissionDenied && why == Some(REFUSED_REMOVED)
    }

    /// The way out.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Identity => {
                "find out who speaks in its name, if somebody does, and remove it; then start again \
                 with `--token` and what `insula nodes token` prints: it joins as somebody new"
            }
            Self::Protocol => {
                "servers understand members of their own version and of the one before: upgrade \
                 the servers first, then everybody else"
            }
        }
    }
}
