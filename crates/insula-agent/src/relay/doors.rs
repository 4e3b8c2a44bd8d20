//! Who may reach what runs here.
//!
//! A gateway reaches whatever has a route; a node what is of an environment that it runs something of
//! as well. Both as *our* Target says: a caller's word counts for nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use insula_model::InstanceId;
use insula_model::fleet::Member;
use insula_model::target::FleetTarget;
use insula_relay::{Doors, NoDoor};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::names::{NameBoard, Presence};

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
        if !may(&self.fleet.borrow(), member, &presence) {
            return Err(NoDoor::Denied);
        }
        presence.serves.map(|(_, at)| at).ok_or(NoDoor::NotListening)
    }

    /// One that is not ready, or on its way out, goes on with what it has begun.
    fn holds(&self, member: Member, instance: InstanceId, at: SocketAddr) -> bool {
        self.names.instance(instance).is_some_and(|presence| {
            presence.address == at.ip() && may(&self.fleet.borrow(), member, &presence)
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

fn may(fleet: &FleetTarget, member: Member, presence: &Presence) -> bool {
    match member {
        Member::Gateway(gateway) => presence.routed && fleet.gateways.contains(&gateway),
        Member::Node(node) => fleet
            .neighbours
            .get(&node)
            .is_some_and(|neighbour| neighbour.environments.contains(&presence.environment)),
        Member::Server(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use insula_model::target::Neighbour;
    use insula_model::{EnvironmentId, GatewayId, NodeId, ServerId};

    use super::*;
    use crate::names::{Names, ServiceName, Tenant};

    const RED: EnvironmentId = EnvironmentId::from_u128(1);
    const BLUE: EnvironmentId = EnvironmentId::from_u128(2);
    const GATEWAY: Member = Member::Gateway(GatewayId::from_u128(1));
    const RED_NODE: Member = Member::Node(NodeId::from_u128(1));
    const OLD: InstanceId = InstanceId::from_u128(1);
    const NEW: InstanceId = InstanceId::from_u128(2);

    fn fleet() -> FleetTarget {
        let red = Neighbour {
            relay: "10.0.0.2:7070".parse().unwrap(),
            environments: BTreeSet::from([RED]),
            instances: BTreeMap::new(),
        };
        FleetTarget {
            gateways: BTreeSet::from([GatewayId::from_u128(1)]),
            neighbours: BTreeMap::from([(NodeId::from_u128(1), red)]),
        }
    }

    fn serving(environment: EnvironmentId, at: SocketAddr) -> Presence {
        let service =
            ServiceName { app: "shop".parse().unwrap(), component: "web".parse().unwrap() };
        let app = Some(service.app.clone());
        Presence { environment, app, address: at.ip(), serves: Some((service, at)), routed: true }
    }

    fn doors(fleet: FleetTarget) -> (AgentDoors, NameBoard, watch::Sender<Arc<FleetTarget>>) {
        let names = NameBoard::new(watch::Sender::new(Names::default()));
        let fleet = watch::Sender::new(Arc::new(fleet));
        let doors = AgentDoors::new(names.clone(), fleet.subscribe(), &CancellationToken::new());
        (doors, names, fleet)
    }

    #[tokio::test]
    async fn gateways_reach_what_listens_and_nodes_what_they_share() {
        let (doors, names, _fleet) = doors(fleet());
        let (red, blue) = ("10.87.0.2:80".parse().unwrap(), "10.87.0.3:80".parse().unwrap());
        names.set(Tenant::Instance(OLD), Some(serving(RED, red)));
        names.set(Tenant::Instance(NEW), Some(serving(BLUE, blue)));
        assert_eq!(doors.find(GATEWAY, OLD), Ok(red));
        assert_eq!(doors.find(GATEWAY, NEW), Ok(blue));
        let inner = Presence { routed: false, ..serving(RED, red) };
        names.set(Tenant::Instance(OLD), Some(inner));
        assert_eq!(doors.find(GATEWAY, OLD), Err(NoDoor::Denied), "a database, say");
        assert_eq!(doors.find(RED_NODE, OLD), Ok(red));
        assert_eq!(doors.find(RED_NODE, NEW), Err(NoDoor::Denied));
        assert!(!doors.holds(RED_NODE, NEW, blue));
        let strangers = [
            Member::Gateway(GatewayId::from_u128(9)),
            Member::Node(NodeId::from_u128(9)),
            Member::Server(ServerId::from_u128(1)),
        ];
        for stranger in strangers {
            assert!(!doors.admits(stranger));
            assert_eq!(doors.find(stranger, OLD), Err(NoDoor::Denied));
        }
        let starting = Presence { serves: None, ..serving(RED, red) };
        names.set(Tenant::Instance(OLD), Some(starting));
        assert_eq!(doors.find(GATEWAY, OLD), Err(NoDoor::NotListening));
        assert!(doors.holds(GATEWAY, OLD, red), "what has begun goes on");
    }

    #[tokio::test]
    async fn an_address_that_has_a_new_owner_is_not_found_under_the_old_id() {
        let (doors, names, _fleet) = doors(fleet());
        let at = "10.87.0.2:80".parse().unwrap();
        let mut changes = doors.changes();
        names.set(Tenant::Instance(OLD), Some(serving(RED, at)));
        changes.changed().await.unwrap();
        names.set(Tenant::Instance(OLD), None);
        names.set(Tenant::Instance(NEW), Some(serving(BLUE, at)));
        changes.changed().await.unwrap();
        assert_eq!(doors.find(RED_NODE, OLD), Err(NoDoor::Gone));
        assert_eq!(doors.find(GATEWAY, OLD), Err(NoDoor::Gone));
        assert!(!doors.holds(RED_NODE, OLD, at) && !doors.holds(GATEWAY, OLD, at));
        assert_eq!(doors.find(RED_NODE, NEW), Err(NoDoor::Denied));
    }

    #[tokio::test]
    async fn who_is_removed_is_out_as_soon_as_the_target_says_so() {
        let (doors, names, fleet) = doors(fleet());
        let at = "10.87.0.2:80".parse().unwrap();
        names.set(Tenant::Instance(OLD), Some(serving(RED, at)));
        assert!(doors.holds(GATEWAY, OLD, at) && doors.holds(RED_NODE, OLD, at));
        let mut changes = doors.changes();
        changes.borrow_and_update();
        fleet.send_replace(Arc::default());
        changes.changed().await.unwrap();
        for member in [GATEWAY, RED_NODE] {
            assert!(!doors.admits(member) && !doors.holds(member, OLD, at));
        }
    }
}
