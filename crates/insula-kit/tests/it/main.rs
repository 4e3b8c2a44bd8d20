//! What needs more than one module of this crate: here, two ends of a connection.

mod tls;
