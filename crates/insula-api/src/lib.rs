//! The HTTP API: authentication, authorisation, endpoints.
//!
//! Every route is a value with its rule (`route`, `table`); the router, the check of rights, the
//! OpenAPI document and the tests are made of those values. Handlers read and change the store
//! and decide nothing about rights; what happens because of a change is the control plane's.

mod access;
mod archive;
mod bootstrap;
mod context;
mod dispatch;
mod endpoint;
mod error;
mod fleet;
mod held;
mod limiter;
pub mod limits;
mod openapi;
mod outcomes;
mod password;
mod place;
mod reply;
mod route;
mod serve;
mod source;
mod state;
mod table;
mod write;

pub use bootstrap::{Bootstrap, BootstrapError, Company, bootstrap};
pub use fleet::{Deciding, Fleet};
pub use held::{Leader, LeaderAway};
pub use route::{BodyKind, Param, Route, Rule};
pub use serve::Server;
pub use state::{ApiConfig, ApiState, View};
pub use table::routes;

/// The OpenAPI document of all routes.
pub fn openapi() -> serde_json::Value {
    openapi::document(&table::routes())
}
