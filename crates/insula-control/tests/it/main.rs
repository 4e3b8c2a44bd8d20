//! The control plane from outside: its core against a store that is a World, its loop against the
//! real store.

mod fixture;
mod leaders;
mod loops;
mod plant;
mod stories;
