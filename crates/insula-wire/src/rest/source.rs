//! How a source travels: what is lacking, and chunks in one body.
//!
//! The body of an upload is a row of frames: 32 bytes of SHA-256, the length as eight bytes with
//! the highest first, then that many bytes. There is nothing before, between or after them.

use insula_model::Digest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of a row of chunks.
pub const CHUNKS_MEDIA_TYPE: &str = "application/vnd.insula.chunks";
/// A digest and a length.
pub const FRAME_HEADER_LEN: usize = 32 + 8;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FindMissing {
    #[schema(value_type = Vec<String>)]
    pub chunks: Vec<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Missing {
    /// In the order in which they were asked for.
    #[schema(value_type = Vec<String>)]
    pub missing: Vec<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChunksStored {
    pub chunks: u64,
    pub bytes: u64,
}

/// What goes before the bytes of a chunk.
pub fn frame_header(digest: &Digest, len: u64) -> [u8; FRAME_HEADER_LEN] {
    let mut header = [0; FRAME_HEADER_LEN];
    header[..32].copy_from_slice(digest.as_bytes());
    header[32..].copy_from_slice(&len.to_be_bytes());
    header
}

/// The other direction.
pub fn read_frame_header(header: &[u8; FRAME_HEADER_LEN]) -> (Digest, u64) {
    let (mut digest, mut len) = ([0; 32], [0; 8]);
    digest.copy_from_slice(&header[..32]);
    len.copy_from_slice(&header[32..]);
    (Digest::from_sha256(digest), u64::from_be_bytes(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_what_follows() {
        let digest = Digest::from_sha256([7; 32]);
        let header = frame_header(&digest, 1 << 40);
        assert_eq!(read_frame_header(&header), (digest, 1 << 40));
        assert_eq!(header[32..], [0, 0, 1, 0, 0, 0, 0, 0]);
    }
}
