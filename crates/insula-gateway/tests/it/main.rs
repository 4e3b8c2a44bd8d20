//! The gateway with real sockets: visitors on one side, apps and a server on the other.

mod support;

mod connections;
mod files;
mod forwarding;
mod held;
mod hostile;
mod http2;
mod routing;
mod session;
mod streaming;
