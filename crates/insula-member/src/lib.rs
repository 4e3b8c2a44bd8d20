//! How a node or a gateway becomes a member of a fleet, stays one, and finds a server.
//!
//! ```text
//!   token ──Joining──► Membership { credentials, servers } ──Dial──► Uplink ──► sessions
//!                           ▲                                          │
//!                           └──────────────── Renewal ◄────────────────┘
//! ```
//!
//! A member dials and is never dialled here, so it may stand behind NAT. A socket on the same
//! machine is another way to a server, without any of this. What is said in a session, and what
//! others may call a member for (its relay), is not here.

mod beside;
mod dial;
mod enrol;
mod error;
mod files;
mod join;
mod refusal;
mod renew;
mod servers;
mod uplink;

pub use beside::Beside;
pub use dial::{Dial, Fleet};
pub use files::Files;
pub use join::{JoinError, Joining, Membership};
pub use refusal::{RECONNECT, REFUSED, Refusal};
pub use renew::{RenewError, Renewal};
pub use servers::{Servers, is_address};
pub use uplink::Uplink;
