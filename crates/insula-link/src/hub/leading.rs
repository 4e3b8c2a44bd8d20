//! Which server decides, and where the others are.

use std::sync::{Arc, OnceLock};

use insula_wire::node as wire;
use tokio::sync::watch;
use tonic::Status;

use super::Hub;
use crate::forward::Leader;

pub(crate) const OTHER_LEADS: &str = "another server of the fleet leads now";

/// Who reconciles: this server, or one that it passes its sessions on to.
#[derive(Debug, Clone)]
pub(crate) enum Leadership {
    Ours,
    /// Nobody is known while the lease passes from one to another.
    Theirs(Option<Leader>),
}

/// Whether the term in which this server decides is sure at this moment.
#[derive(Default)]
pub(crate) struct Sure(OnceLock<Box<dyn Fn() -> bool + Send + Sync>>);

impl std::fmt::Debug for Sure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.get().is_some() { "Sure(asked)" } else { "Sure(always)" })
    }
}

impl Hub {
    /// From now on heartbeats are acknowledged only while this says so: an agent takes an
    /// acknowledgement for the word of whoever leads, and a term can be over before this server was
    /// told. It is asked at each. The first one counts, since a hub has one control plane.
    pub fn sure_while(&self, sure: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.shared.sure.0.set(Box::new(sure));
    }

    pub(crate) fn is_sure(&self) -> bool {
        self.shared.sure.0.get().is_none_or(|sure| sure())
    }

    /// Where agents and gateways may go when this server is gone: now and when they connect.
    pub fn set_servers(&self, addresses: Vec<String>) {
        if **self.shared.servers.borrow() == addresses {
            return;
        }
        self.shared.servers.send_replace(Arc::new(addresses.clone()));
        self.shared.routes.send_if_modified(|table| {
            let Some(held) = table else { return false };
            *table = Some(Arc::new(wire::RouteMessage { servers: addresses, ..(**held).clone() }));
            true
        });
    }

    pub(crate) fn servers(&self) -> watch::Receiver<Arc<Vec<String>>> {
        self.shared.servers.subscribe()
    }

    /// From now on this server decides; until it is told otherwise, a hub does.
    pub fn lead(&self) {
        let leads = |now: &mut Leadership| match now {
            Leadership::Ours => false,
            Leadership::Theirs(_) => {
                *now = Leadership::Ours;
                true
            }
        };
        if self.shared.leadership.send_if_modified(leads) {
            self.begin_anew();
        }
    }

    /// From now on another server decides, and sessions are passed on to it.
    pub fn follow(&self, leader: Option<Leader>) {
        let follows = |now: &mut Leadership| match now {
            Leadership::Theirs(known) if *known == leader => false,
            Leadership::Theirs(_) | Leadership::Ours => {
                *now = Leadership::Theirs(leader);
                true
            }
        };
        if self.shared.leadership.send_if_modified(follows) {
            self.begin_anew();
        }
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// The server that decides now, if it is another one and is known.
    pub fn leader(&self) -> Option<Leader> {
        match &*self.shared.leadership.borrow() {
            Leadership::Ours => None,
            Leadership::Theirs(leader) => leader.clone(),
        }
    }

    /// Asked under the lock: whoever stops leading takes it afterwards and ends what is there.
    pub(super) fn still_leads(&self) -> Result<(), Status> {
        match &*self.shared.leadership.borrow() {
            Leadership::Ours => Ok(()),
            Leadership::Theirs(_) => Err(Status::unavailable(OTHER_LEADS)),
        }
    }

    fn begin_anew(&self) {
        self.end_sessions(OTHER_LEADS);
        self.shared.routes.send_replace(None);
        let mut state = self.state();
        state.pulses.clear();
        state.takeovers.clear();
    }

    /// Ends every session with these words, for the other side to dial again.
    pub fn end_sessions(&self, words: &str) {
        let mut state = self.state();
        let nodes = std::mem::take(&mut state.nodes).into_values().map(|session| session.end);
        let gateways = std::mem::take(&mut state.gateways).into_values().map(|s| s.end);
        for end in nodes.chain(gateways).flatten() {
            let _ = end.send(Status::unavailable(words));
        }
    }
}
