//! The channel to whichever server answers, for every call of a member.
//!
//! It is dialled when it is used. Who found its server silent asks for another connection; what is
//! under way over the old one goes on, or fails by itself.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::dial::Dial;

/// Between pings to a server of the fleet that is silent while it is waited for: a heartbeat.
const PING_EVERY: Duration = Duration::from_secs(1);
/// A server that froze, or vanished without a word, is left after this. Gateways say nothing by
/// themselves that would have to be answered.
const PING_TIME_MAX: Duration = Duration::from_secs(2);

/// Clones share the channel.
#[derive(Debug, Clone)]
pub struct Uplink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dial: Dial,
    channel: RwLock<Channel>,
}

impl Uplink {
    /// Dials nobody yet.
    pub fn new(dial: Dial) -> Self {
        let channel = RwLock::new(channel(&dial));
        Self { shared: Arc::new(Shared { dial, channel }) }
    }

    /// For one client.
    pub fn channel(&self) -> Channel {
        self.shared.channel.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whoever calls next calls over another connection.
    pub fn redial(&self) {
        let fresh = channel(&self.shared.dial);
        *self.shared.channel.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// Likewise, and to another server if there is one.
    pub fn leave(&self) {
        if let Dial::Fleet(fleet) = &self.shared.dial {
            fleet.servers.avoid_first();
        }
        self.redial();
    }

    /// The fleet says which servers it has.
    pub fn learn(&self, servers: &[String]) {
        if let Dial::Fleet(fleet) = &self.shared.dial {
            fleet.servers.learn(servers);
        }
    }
}

/// Must be called inside a runtime, like whatever makes one.
pub(crate) fn channel(dial: &Dial) -> Channel {
    // The name is for the protocol's `:authority` alone; whom we reached is known by then.
    let mut endpoint = Endpoint::from_static("http://server.invalid");
    if let Dial::Fleet(_) = dial {
        endpoint = endpoint.http2_keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_TIME_MAX);
    }
    let dial = dial.clone();
    let connector = service_fn(move |_: Uri| {
        let dial = dial.clone();
        async move { dial.connect().await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector_lazy(connector)
}
