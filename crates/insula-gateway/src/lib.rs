//! The edge: takes strangers' requests and hands them to ready instances.
//!
//! A thread per core, each with its own listeners, routes and upstream connections; one more keeps
//! the session with the server. The table of routes is obeyed for as long as the server is away
//! and is kept on disk, so that a gateway serves from its first moment. It runs as an ordinary
//! user, holds no keys of the platform, and needs nothing but its folder and one socket.
//!
//! Not here: who may have which host (the server decides), certificates, and anything that looks
//! into a body. `files` is a small server of its own that runs inside sandboxes.

mod balance;
mod body;
mod codec;
mod doors;
mod endpoint;
mod error;
pub mod files;
mod forward;
mod front;
mod hold;
mod host;
mod keep;
mod limits;
mod page;
mod pool;
mod proxy;
mod run;
mod session;
mod strict;
mod table;
mod traffic;
mod tunnel;
mod way;
mod worker;

pub use doors::Doors;
pub use limits::Limits;
pub use run::{Gateway, GatewayConfig, GatewayError, Options, Server, run, run_with};
pub use way::Ground;
