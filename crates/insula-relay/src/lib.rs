//! Streams between the machines of a fleet, to instances by their identity and never by an address.
//!
//! ```text
//!   gateway, or names of a node            the node that runs it
//!   Caller ── mutual TLS 1.3, pooled ──► answer ── Doors: who may? where is it now? ──► instance
//! ```
//!
//! A connection carries one stream after the other, so the steady state has no handshakes. The
//! answerer looks an instance up among what runs at that moment: an order that is out of date meets
//! `Gone`, never somebody else. Who may reach what is decided by `Doors`, which the agent implements;
//! who a certificate speaks for is `insula_kit::tls`'s to say. Not here: which instance to choose,
//! and what the bytes mean.

mod ahead;
mod answer;
mod call;
mod carry;
mod doors;
mod framed;
mod member;
mod message;
mod usage;

pub use ahead::ReadAhead;
pub use answer::{AnswerCounts, Answerer, Limits, answer};
pub use call::{CallCounts, Caller, CallerSettings, Health, OpenError, RelayStream, Unreachable};
pub use carry::Carried;
pub use doors::{Doors, NoDoor};
pub use message::Refused;
pub use usage::usage;

/// Says on the wire what is spoken, so that a later version can speak otherwise.
pub const ALPN: &[u8] = b"insula-relay/1";
