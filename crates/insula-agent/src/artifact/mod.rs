//! What `/app` is made of, at hand on this node: trees of sources, and the layers that builds added.
//!
//! `cache` keeps them by digest, `pack` and `layer` turn the writable layer of a build into an
//! archive and back.

mod cache;
mod chunk;
mod layer;
mod pack;

pub use cache::{Artifacts, Lease};
pub use pack::{FILES_MAX, Opaque, PackError, Packed, pack};
