//! What crosses a socket: REST types, the node and gateway protocol, error codes.
//!
//! Wire types are not domain types; they meet here and nowhere else.

pub mod facts;
pub mod node;
pub mod problem;
pub mod rest;
