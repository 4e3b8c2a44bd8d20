//! Blobs against real disks, real processes and a real S3 protocol server.

mod crash;
mod directory;
mod full;
mod s3;
mod server;
mod shared;
mod tls;
mod trees;
