//! The server's side of the node and gateway protocols: sessions, live logs through them.
//!
//! A [`Hub`] knows who is connected and carries messages; it decides nothing. What comes in goes
//! to the control plane as [`Inbound`] values; what the control plane decided goes out through
//! `send_target` and `publish_routes`. Of several servers one leads: the others pass their sessions
//! on to it, message by message (`Hub::follow`).

pub mod apart;
mod ask;
pub mod blobs;
mod caller;
mod connection;
mod contest;
mod edge;
mod forward;
mod gather;
mod hub;
mod inbox;
mod join;
mod logs;
mod node;
mod reach;
pub mod registry;
mod relays;
mod requests;
pub mod serve;
mod session;
mod shares;
mod tally;
mod usage;
mod version;

pub use ask::{Answer, Answering, Answers, AskError, Question};
pub use contest::Contest;
pub use forward::Leader;
pub use hub::{Heard, Hub, Secrets};
pub use inbox::{Inbound, Inbox, NobodyHears, Telling};
pub use logs::{LogEntry, LogQuery, LogStream, LogSubject};
pub use usage::{InstanceUsage, NodeUsage, Traffic};
