//! The node and gateway protocol, generated from `proto/node.proto`.

#![allow(missing_debug_implementations, clippy::all)]

use insula_model::limits::REPORT_INSTANCES_MAX;

tonic::include_proto!("insula.v1");

/// Of this protocol; the one before is understood as well.
pub const PROTOCOL: u32 = 1;
/// The oldest that is understood. There was none before the first.
pub const PROTOCOL_OLDEST: u32 = if PROTOCOL > 1 { PROTOCOL - 1 } else { 1 };
/// A Target of the largest node with its secrets; more is a mistake of ours.
pub const MESSAGE_LEN_MAX: usize = 32 * 1024 * 1024;
/// What one instance or build may say of itself when everybody on its node has much to say: its last
/// words, twenty lines of an ordinary log two times over.
pub const REPORT_SHARE_LEN: usize = 16 * 1024;
/// A report of all that a node may hold. An agent that has more to say cuts it short.
pub const REPORT_LEN_MAX: usize = REPORT_INSTANCES_MAX * REPORT_SHARE_LEN;
/// Any message of a node: a report, what is wrong with the node itself, and the frame around them.
pub const FROM_NODE_LEN_MAX: usize = REPORT_LEN_MAX + 64 * 1024;
/// Of a blob in one message: large enough to be quick, small enough to share a connection.
pub const BLOB_CHUNK_LEN: usize = 256 * 1024;
/// Between heartbeats, unless the operator says otherwise.
pub const HEARTBEAT_MS: u32 = 1_000;
/// An acknowledgement of every heartbeat tells an agent nothing that every third one would not.
pub const ACK_EVERY: u32 = 3;

/// A request to join or to renew: a token, a key and a few names. More is somebody's attempt.
pub const JOIN_LEN_MAX: usize = 16 * 1024;
/// A question of one server to another: the body of a request of the API without a source.
pub const ASK_LEN_MAX: usize = 2 * 1024 * 1024;

/// Whom a server speaks for when it passes a session on, and the number of the certificate that it
/// saw. Believed of a server alone.
pub const MEMBER_METADATA: &str = "insula-member";
pub const SERIAL_METADATA: &str = "insula-serial";
/// Tells a refusal that is for ever from one that another certificate mends: `REFUSED_REMOVED`.
pub const REFUSAL_METADATA: &str = "insula-refusal";
/// The member was removed from the fleet; its id never joins again.
pub const REFUSED_REMOVED: &str = "removed";

/// What the key of a newcomer signs.
pub fn join_proof(token: &str, id: &str) -> Vec<u8> {
    format!("insula join\n{token}\n{id}").into_bytes()
}

/// What the next key of a member signs.
pub fn renew_proof(id: &str) -> Vec<u8> {
    format!("insula renew\n{id}").into_bytes()
}
