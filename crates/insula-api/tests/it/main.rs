//! The API over a socket, with a real store and real blobs in a folder of its own.

mod access;
mod address;
mod archive;
mod body;
mod deploy;
mod first;
mod fleet;
mod follower;
mod hostile;
mod idempotency;
mod log;
mod openapi;
mod page;
mod quota;
mod scene;
mod secret;
mod sign_in;
mod stage;
mod stream;
mod view;
