//! Handlers, one file per resource: each declares its routes and answers them.

pub mod actions;
pub mod apps;
pub mod builds;
pub mod deployments;
pub mod domains;
pub mod environments;
pub mod events;
pub mod follow;
pub mod gateways;
pub mod instances;
pub mod invitations;
pub mod joins;
pub mod logs;
pub mod members;
pub mod metrics;
pub mod nodes;
pub mod orgs;
pub mod projects;
pub mod public;
pub mod releases;
pub mod runs;
pub mod secrets;
pub mod session;
pub mod sources;
pub mod status;
pub mod tokens;
pub mod variables;
pub mod why;

mod config;
mod quota;
mod stream;
