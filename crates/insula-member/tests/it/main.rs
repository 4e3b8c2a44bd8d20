//! Members against a fleet of our own: real certificates, real TLS, real gRPC, on loopback.

mod fleet;
mod join;
mod renew;
