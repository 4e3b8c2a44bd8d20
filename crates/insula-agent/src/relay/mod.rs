//! What of this node reaches others, and what of others reaches this one.
//!
//! ```text
//!   far instance's name ──► address of this host ──► remotes ──► Caller ══TLS══► answer ──► doors ──► instance
//!   (in a sandbox here)      kernel: which            whose            (at the other node)  who may, and
//!                            environment may          source?                               where is it now?
//! ```
//!
//! Begins when the node has a certificate and ends with the handle. Without a network of our own
//! (development) instances are reached by others and reach nobody: there is no address to show them at.

mod door;
mod doors;
mod remotes;
mod slots;
#[cfg(test)]
mod world;

use std::sync::Arc;

use insula_kit::clock::Clock;
use insula_kit::metrics::Metrics;
use insula_kit::tls::Credentials;
use insula_model::target::FleetTarget;
use insula_relay::{AnswerCounts, Answerer, CallCounts, Caller, CallerSettings, Limits};
use insula_sandbox::net::NetConfig;
use insula_wire::node as wire;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::names::NameBoard;
use crate::places::Places;
use doors::AgentDoors;
use remotes::Remotes;

#[derive(Debug)]
pub struct Settings {
    /// Where others call us; without one, nobody does.
    pub listener: Option<TcpListener>,
    pub credentials: Arc<Credentials>,
    pub clock: Arc<dyn Clock>,
    pub names: NameBoard,
    pub places: Arc<Places>,
    pub net: Option<NetConfig>,
    /// What the newest Target says of the fleet.
    pub fleet: watch::Receiver<Arc<FleetTarget>>,
    pub metrics: Metrics,
}

/// Dropping it ends every stream.
#[derive(Debug)]
pub struct Relay {
    _end: DropGuard,
}

/// To be called inside of a runtime.
pub fn start(settings: Settings) -> Relay {
    let Settings { listener, credentials, clock, names, places, net, fleet, metrics } = settings;
    raise_open_files();
    let end = CancellationToken::new();
    if let Some(listener) = listener {
        let doors = AgentDoors::new(names.clone(), fleet.clone(), &end);
        let answerer = Answerer {
            credentials: Arc::clone(&credentials),
            clock,
            doors: Arc::new(doors),
            limits: Limits::default(),
            counts: AnswerCounts::new(&metrics),
        };
        tokio::spawn(insula_relay::answer(listener, answerer, end.clone()));
    }
    if let Some(net) = net {
        let counts = CallCounts::new(&metrics);
        let caller = Caller::new(&credentials, CallerSettings::default(), counts);
        let remotes = Remotes::new(net, names, places, fleet, caller);
        tokio::spawn(remotes.keep(end.clone()));
    }
    Relay { _end: end.drop_guard() }
}

/// What a relay that counts there has counted.
pub fn usage(metrics: &Metrics) -> wire::RelayUsage {
    insula_relay::usage(&CallCounts::new(metrics), Some(&AnswerCounts::new(metrics)))
}

/// A stream is two descriptors; the usual 1,024 are soon used up.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "raise the number of open files");
    }
}
