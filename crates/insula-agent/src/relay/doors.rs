//! Who may reach what runs here.
//!
//! A gateway reaches whatever listens; a node what is of an environment that it runs something of as
//! well. Both as *our* Target says: a caller's word counts for nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use insula_model::fleet::Member;
use insula_model::target::FleetTarget;
use insula_model::{EnvironmentId, InstanceId};
use insula_relay::{Doors, NoDoor};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::names::NameBoard;

#[derive(Debug)]
pub struct AgentDoors {
    names: NameBoard,
    fleet: watch::Receiver<Arc<FleetTarget>>,
    changes: watch::Receiver<u64>,
}

impl AgentDoors {
    pub fn new(
        names: NameBoard,
        fleet: watch::Receiver<Arc<FleetTarget>>,
        end: &CancellationToken,
    ) -> Self {
        let (changed, changes) = watch::channel(0);
        tokio::spawn(tell(names.changes(), fleet.clone(), changed, end.clone()));
        Self { names, fleet, changes }
    }
}

/// Makes one count of two.
async fn tell(
    mut names: watch::Receiver<u64>,
    mut fleet: watch::Receiver<Arc<FleetTarget>>,
    changed: watch::Sender<u64>,
    end: CancellationToken,
) {
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            heard = names.changed() => if heard.is_err() { return },
            heard = fleet.changed() => if heard.is_err() { return },
        }
        changed.send_modify(|count| *count += 1);
    }
}

impl Doors for AgentDoors {
    fn admits(&self, member: Member) -> bool {
        let fleet = self.fleet.borrow();
        match member {
            Member::Gateway(gateway) => fleet.gateways.contains(&gateway),
            Member::Node(node) => fleet.neighbours.contains_key(&node),
            // A server tells us what to run; it has no business with what runs.
            Member::Server(_) => false,
        }
    }

    fn find(&self, member: Member, instance: InstanceId) -> Result<SocketAddr, NoDoor> {
        let presence = self.names.instance(instance).ok_or(NoDoor::Gone)?;
        if !may(&self.fleet.borrow(), member, presence.environment) {
            return Err(NoDoor::Denied);
        }
        presence.serves.map(|(_, at)| at).ok_or(NoDoor::NotListening)
    }

    /// One that is not ready, or on its way out, goes on with what it has begun.
    fn holds(&self, member: Member, instance: InstanceId, at: SocketAddr) -> bool {
        self.names.instance(instance).is_some_and(|presence| {
            presence.address == at.ip() && may(&self.fleet.borrow(), member, presence.environment)
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

fn may(fleet: &FleetTarget, member: Member, environment: EnvironmentId) -> bool {
    match member {
        Member::Gateway(gateway) => fleet.gateways.contains(&gateway),
        Member::Node(node) => fleet
            .neighbours
            .get(&node)
            .is_some_and(|neighbour| neighbour.environments.contains(&environment)),
        Member::Server(_) => false,
    }
}
