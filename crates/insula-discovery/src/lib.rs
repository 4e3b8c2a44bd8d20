//! Names: the resolver of each node.
//!
//! Instances find the components of their own environment by name, and the internet through the host's own
//! resolvers; see [`zone`] for what a name means and to whom. The zone is data that the node's process puts
//! together from its Target and sends through a `watch` channel; an instance must be in it before it starts,
//! because whoever is not is refused. Development as an ordinary user has no networks of its own and
//! does not use this.

mod bounds;
mod cache;
mod forward;
mod message;
mod name;
mod resolver;
mod upstreams;
pub mod zone;

pub use resolver::{Config, Resolver, ResolverError};
pub use upstreams::upstreams;
pub use zone::{AppNames, Asker, Zone};
