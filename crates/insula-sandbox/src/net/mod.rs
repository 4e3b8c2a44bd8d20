//! The network of a node: one namespace and one link per instance, rules between them, no other program.
//!
//! ```text
//!   instance                      host                                   world
//!   eth0 10.87.0.2/32 ──veth── ins-<tag>-0002   ins-<tag>0 10.87.0.1 ──NAT── …
//!        default via 10.87.0.1                  (gateway, resolver)
//! ```
//!
//! Everything is said to the kernel by netlink (`wire`, `netlink`, `route`, `nft`), so that nothing has to be
//! installed and an attachment costs milliseconds. `config` decides names, `rules` who may talk to whom,
//! `host` puts up the machine's share, `attach` an instance's; `drift` compares. Which instance gets which address, and which
//! number stands for an environment, is the agent's to decide and to remember.
//!
//! What cannot be helped from here: a packet must be accepted by *every* firewall on the machine, and an
//! accept in our table overrides nobody's drop. Docker's chain for such cases is used where nf_tables holds
//! it; any other policy that drops forwarded packets is reported by [`check_host`] as
//! [`Drift::ForeignPolicy`], and the operator lets the pool through there. A host firewall that drops input
//! must accept port 53 from `ins-<tag>-*`. Whoever flushes all rules of the machine takes ours along until
//! the next [`ensure_host`] and [`sweep`].

mod attach;
mod config;
mod drift;
mod error;
mod flows;
mod host;
mod netlink;
mod nft;
mod pool;
mod remotes;
mod route;
mod rules;
mod wire;

#[cfg(test)]
mod world;

pub use attach::{Swept, attach, detach, sweep};
pub use config::{Attachment, BadConfig, Ipv4Cidr, NetConfig, NetTag};
pub use drift::{Drift, check_host};
pub use error::NetError;
pub use host::{ensure_host, teardown_host};
pub use pool::AddressPool;
pub use remotes::{RemoteDoor, set_remotes};
