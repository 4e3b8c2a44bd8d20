//! The node agent: holds what the control plane decided for its node, and reports what it observes.
//!
//! ```text
//!   server ◄──session──► node ──► instance tasks ──► sandboxes ──► apps
//!             ▲            │          │    └──► probes
//!             └── board ◄──┴──────────┴──► build tasks
//! ```
//!
//! Decisions are pure functions (`node::decide`, `instance::life`, `probe::judge`); the shells around
//! them do one step at a time and write down what they are about to do, so that the next agent can
//! go on after a `kill -9` at any point. Losing the server changes nothing here. Not here: what
//! should run (the server decides), and answering names (see `Names`).

mod addresses;
mod agent;
mod artifact;
mod board;
mod boot;
mod build;
mod config;
mod contact;
mod down;
mod error;
mod facts;
mod health;
mod host;
mod identity;
mod instance;
pub mod keeper;
mod kept;
mod layout;
pub mod log;
mod names;
mod node;
mod places;
mod probe;
mod relay;
mod sandbox;
mod server;
mod session;
mod shared;
mod tree;

pub use agent::{AgentError, run, run_by};
pub use config::{AgentConfig, BuildSettings, Endpoint, HostAccess, Offered, RelayAccess};
pub use down::{DownError, DownReport, down};
pub use identity::{IdentityError, has_joined};
pub use insula_member::JoinError;
pub use names::{Names, ServiceName, Source};
pub use sandbox::SandboxError;
