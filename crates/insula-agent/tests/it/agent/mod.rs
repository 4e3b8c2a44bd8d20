//! Real agents with real sandboxes, against a server that speaks the real protocol.
//!
//! Agents and keepers are processes, so that they can be killed like processes. Each test has a
//! network namespace of its own: it starts itself again in one, and the machine's network is never
//! touched.

mod adopt;
mod build;
mod develop;
mod end;
mod fake;
mod fleet;
mod instance;
mod lease;
mod member;
mod storm;
mod world;
