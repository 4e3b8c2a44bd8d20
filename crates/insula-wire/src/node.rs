//! The node and gateway protocol, generated from `proto/node.proto`.

#![allow(missing_debug_implementations, clippy::all)]

tonic::include_proto!("insula.v1");

/// Of this protocol; the one before is understood as well.
pub const PROTOCOL: u32 = 1;
/// A Target of the largest node with its secrets; more is a mistake of ours.
pub const MESSAGE_LEN_MAX: usize = 32 * 1024 * 1024;
/// Of a blob in one message: large enough to be quick, small enough to share a connection.
pub const BLOB_CHUNK_LEN: usize = 256 * 1024;
/// Between heartbeats, unless the operator says otherwise.
pub const HEARTBEAT_MS: u32 = 1_000;
