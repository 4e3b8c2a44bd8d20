//! The server's side of the node and gateway protocols: sessions, live logs through them.
//!
//! A [`Hub`] knows who is connected and carries messages; it decides nothing. What comes in goes
//! to the control plane as [`Inbound`] values; what the control plane decided goes out through
//! `send_target` and `publish_routes`.

pub mod blobs;
mod edge;
mod hub;
mod logs;
mod node;
pub mod serve;

pub use hub::{Hub, Inbound, InstanceUsage, Secrets, Traffic};
pub use logs::{LogEntry, LogQuery, LogSubject};
