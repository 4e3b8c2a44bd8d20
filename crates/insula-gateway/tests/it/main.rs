//! The gateway with real sockets: visitors on one side, apps and a server on the other.

mod support;

mod routing;
