//! Content-addressed blobs: sources, artifacts and backups, in a directory or in any S3.
//!
//! A blob is named by the SHA-256 of its bytes and belongs to one org: the same bytes of two orgs
//! are two blobs, so that nobody learns from a digest what another org has stored. What was
//! acknowledged is durable, what is visible is whole, what is read was compared with its name.
//! `manifest` says which blobs make a tree of files, `materialize` makes the tree.
//!
//! Not here: who may read what (the API decides), and what may be deleted (the caller knows).

mod config;
mod directory;
mod error;
mod https;
mod key;
pub mod manifest;
mod materialize;
mod read;
mod remote;
mod staging;
mod store;

pub use config::{BlobConfig, S3Config, SecretKey};
pub use error::{BlobError, RemoteError};
pub use key::{Kind, Shelf};
pub use manifest::{Chunk, Entry, Manifest, ManifestError, Node};
pub use materialize::{MaterializeError, materialize};
pub use read::BlobStream;
pub use store::{BATCH_BLOBS_MAX, BATCH_SIZE_MAX, Blobs, Listed, Stored};
