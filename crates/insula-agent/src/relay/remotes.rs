//! Shows instances of other nodes at addresses of this host: which, where, and for how long.
//!
//! What a Target names is shown and named. What it names no longer (not ready, draining, gone) loses
//! its name at once and keeps its address while somebody is connected, and a while longer: caches are
//! slow, and an instance that is only out of breath comes back. After that the address rests before it
//! stands for another. A node whose pulse is not felt loses its names and nothing else.
//!
//! A Target also names what nobody here can ask for: of environments whose own instances here are yet
//! to be made, or have just gone. Such a door waits, without an address of the host's, until somebody
//! of its environment has one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use insula_model::target::FleetTarget;
use insula_model::{EnvironmentId, InstanceId, NodeId};
use insula_relay::{Caller, Health};
use insula_sandbox::net::{self, NetConfig, NetError, RemoteDoor};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::door::{self, Behind, Hall};
use super::slots::slot;
use crate::error::chain;
use crate::names::{NameBoard, RemoteName, ServiceName};
use crate::places::Places;

/// More than answers of ours are kept (a second) and than a client needs that asks again when it fails.
const LINGER: Duration = Duration::from_secs(60);
/// From the end of one meaning of an address to the next.
const REST: Duration = Duration::from_secs(60);
/// Somebody who reloads the machine's firewall closes all doors for at most this long.
const REPAIR_EVERY: Duration = Duration::from_secs(30);
/// After something failed that is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Of all other nodes together, each a listening socket.
const DOORS_MAX: usize = 4_096;

pub struct Remotes {
    net: NetConfig,
    places: Arc<Places>,
    fleet: watch::Receiver<Arc<FleetTarget>>,
    hall: Arc<Hall>,
    doors: BTreeMap<InstanceId, Door>,
    /// Addresses that stood for something until then.
    resting: BTreeMap<Ipv4Addr, Instant>,
    /// What the kernel was told last; nothing when it must be told again.
    told: Option<Vec<RemoteDoor>>,
    full: bool,
}

struct Door {
    behind: Behind,
    service: ServiceName,
    at: (Ipv4Addr, u16),
    /// Nothing until it listens.
    open: Option<DropGuard>,
    carried: Arc<AtomicUsize>,
    /// Since when no Target names it.
    unnamed: Option<Instant>,
}

impl Door {
    fn is_over(&self, now: Instant) -> bool {
        let idle = self.carried.load(Ordering::Acquire) == 0;
        idle && self.unnamed.is_some_and(|since| now >= since + LINGER)
    }
}

impl Remotes {
    pub fn new(
        net: NetConfig,
        names: NameBoard,
        places: Arc<Places>,
        fleet: watch::Receiver<Arc<FleetTarget>>,
        caller: Caller,
    ) -> Self {
        Self {
            net,
            places,
            fleet,
            hall: Hall::new(caller, names),
            doors: BTreeMap::new(),
            resting: BTreeMap::new(),
            told: None,
            full: false,
        }
    }

    /// Until the end is asked for; then nothing is shown any more.
    pub async fn keep(mut self, end: CancellationToken) {
        let mut here = self.hall.names.changes();
        let mut health = self.hall.caller.changes();
        let mut repair = Instant::now() + REPAIR_EVERY;
        loop {
            let done = self.pass(&end).await;
            let again = Instant::now() + if done { REPAIR_EVERY } else { RETRY_AFTER };
            let gone = tokio::select! {
                () = end.cancelled() => true,
                changed = self.fleet.changed() => changed.is_err(),
                changed = here.changed() => changed.is_err(),
                changed = health.changed() => changed.is_err(),
                () = tokio::time::sleep_until(again.min(repair)) => false,
            };
            if gone {
                break;
            }
            if Instant::now() >= repair {
                repair = Instant::now() + REPAIR_EVERY;
                self.told = None;
            }
        }
        self.hall.names.set_elsewhere(BTreeMap::new());
        self.doors.clear();
        if let Err(error) = self.tell_kernel(Vec::new()).await {
            tracing::warn!(error = %chain(&error), "close the doors to other nodes");
        }
    }

    /// Whether all is as it should be.
    async fn pass(&mut self, end: &CancellationToken) -> bool {
        let fleet = Arc::clone(&self.fleet.borrow_and_update());
        let relays = fleet.neighbours.iter().map(|(node, it)| (*node, it.relay)).collect();
        self.hall.caller.set_relays(&relays);
        let now = Instant::now();
        self.note_wanted(&fleet, now);
        self.let_go(now);
        let marks = self.marks();
        let mut shown: Vec<RemoteDoor> = self
            .doors
            .values()
            .filter_map(|door| {
                let environment_mark = *marks.get(&door.behind.environment)?;
                Some(RemoteDoor { address: door.at.0, port: door.at.1, environment_mark })
            })
            .collect();
        shown.sort_unstable();
        if self.told.as_ref() != Some(&shown) {
            self.told = None;
            match self.tell_kernel(shown.clone()).await {
                Ok(()) => self.told = Some(shown),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "show instances of other nodes");
                    return false;
                }
            }
        }
        let all_open = self.open(&marks, end).await;
        self.hall.names.set_elsewhere(self.named(&marks));
        all_open
    }

    /// Doors for what the Target names, as far as there are addresses.
    fn note_wanted(&mut self, fleet: &FleetTarget, now: Instant) {
        let mut wanted = BTreeMap::new();
        for (node, neighbour) in &fleet.neighbours {
            for (id, remote) in &neighbour.instances {
                wanted.insert(*id, (*node, neighbour.relay, remote));
            }
        }
        for (id, door) in &mut self.doors {
            let is_wanted = wanted.contains_key(id);
            door.unnamed = if is_wanted { None } else { door.unnamed.or(Some(now)) };
        }
        let mut taken: BTreeSet<Ipv4Addr> = self.doors.values().map(|door| door.at.0).collect();
        taken.extend(self.resting.keys());
        // Of a version that used the whole pool for instances.
        taken.extend(self.places.attachments().iter().map(|it| it.address));
        let mut left_out = 0;
        for (id, (node, relay, remote)) in wanted {
            let behind = Behind { instance: id, environment: remote.environment, node, relay };
            let service =
                ServiceName { app: remote.app.clone(), component: remote.component.clone() };
            if let Some(door) = self.doors.get_mut(&id) {
                if door.behind == behind && door.service == service && door.at.1 == remote.port {
                    continue;
                }
                // An id means one thing for ever; only where its relay answers may change.
                door.open = None;
                door.at.1 = remote.port;
                (door.behind, door.service) = (behind, service);
                continue;
            }
            let free = (self.doors.len() < DOORS_MAX)
                .then(|| slot(self.net.remote_range(), id, &taken))
                .flatten();
            let Some(address) = free else {
                left_out += 1;
                continue;
            };
            taken.insert(address);
            let (at, carried) = ((address, remote.port), Arc::default());
            let door = Door { behind, service, at, open: None, carried, unnamed: None };
            self.doors.insert(id, door);
        }
        if left_out > 0 && !self.full {
            tracing::warn!(left_out, "no addresses left for instances of other nodes");
        }
        self.full = left_out > 0;
    }

    fn let_go(&mut self, now: Instant) {
        let resting = &mut self.resting;
        self.doors.retain(|_, door| {
            let over = door.is_over(now);
            if over {
                resting.insert(door.at.0, now);
            }
            !over
        });
        resting.retain(|_, since| now < *since + REST);
    }

    /// The kernel's number for each environment that has an address here.
    fn marks(&self) -> BTreeMap<EnvironmentId, u32> {
        let sources = self.hall.names.sources();
        let attachments = self.places.attachments();
        let mark_of = |it: &net::Attachment| {
            let source = sources.get(&IpAddr::V4(it.address))?;
            Some((source.environment, it.environment_mark))
        };
        attachments.iter().filter_map(mark_of).collect()
    }

    /// Those that the host has an address for. Says whether all of them listen.
    async fn open(
        &mut self,
        marks: &BTreeMap<EnvironmentId, u32>,
        end: &CancellationToken,
    ) -> bool {
        let mut all = true;
        for door in self.doors.values_mut() {
            if !marks.contains_key(&door.behind.environment) {
                door.open = None;
                continue;
            }
            if door.open.is_some() {
                continue;
            }
            let at = SocketAddr::from(door.at);
            match TcpListener::bind(at).await {
                Ok(listener) => {
                    let token = end.child_token();
                    let (hall, carried) = (Arc::clone(&self.hall), Arc::clone(&door.carried));
                    tokio::spawn(door::keep(hall, door.behind, listener, carried, token.clone()));
                    door.open = Some(token.drop_guard());
                }
                Err(error) => {
                    tracing::warn!(%at, %error, "listen for an instance of another node");
                    all = false;
                }
            }
        }
        all
    }

    fn named(&self, marks: &BTreeMap<EnvironmentId, u32>) -> BTreeMap<InstanceId, RemoteName> {
        let mut alive: BTreeMap<NodeId, bool> = BTreeMap::new();
        let mut named = BTreeMap::new();
        for (id, door) in &self.doors {
            let Behind { node, relay, environment, .. } = door.behind;
            let shown = door.unnamed.is_none() && door.open.is_some();
            if !shown || !marks.contains_key(&environment) {
                continue;
            }
            let caller = &self.hall.caller;
            let is_alive = || *caller.health(node, relay).borrow() != Health::Dead;
            if *alive.entry(node).or_insert_with(is_alive) {
                let (service, at) = (door.service.clone(), door.at.into());
                named.insert(*id, RemoteName { environment, service, at });
            }
        }
        named
    }

    async fn tell_kernel(&self, doors: Vec<RemoteDoor>) -> Result<(), NetError> {
        let net = self.net.clone();
        let told = tokio::task::spawn_blocking(move || net::set_remotes(&net, &doors)).await;
        told.unwrap_or_else(|_| {
            Err(NetError::Silent { doing: "show instances of other nodes".to_owned() })
        })
    }
}

#[cfg(test)]
mod tests {
    use insula_kit::clock::{Clock, SystemClock};
    use insula_kit::metrics::Metrics;
    use insula_kit::pki::Authority;
    use insula_model::target::{Neighbour, RemoteInstance};
    use insula_relay::{CallCounts, CallerSettings};

    use super::super::world::{self, Namespace};
    use super::*;
    use crate::names::{Names, Presence, Tenant};

    const RED: EnvironmentId = EnvironmentId::from_u128(1);
    const FAR: NodeId = NodeId::from_u128(2);
    const DB: InstanceId = InstanceId::from_u128(0xdb);

    fn fleet() -> FleetTarget {
        let db = RemoteInstance {
            environment: RED,
            app: "shop".parse().unwrap(),
            component: "db".parse().unwrap(),
            port: 5432,
        };
        let neighbour = Neighbour {
            relay: "127.0.0.1:1".parse().unwrap(),
            environments: BTreeSet::from([RED]),
            instances: BTreeMap::from([(DB, db)]),
        };
        FleetTarget { neighbours: BTreeMap::from([(FAR, neighbour)]), ..FleetTarget::default() }
    }

    #[test]
    fn an_instance_elsewhere_waits_for_somebody_here_who_may_ask() {
        let Some(node) = Namespace::or_skip() else { return };
        node.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let net = world::config("waits", "10.98.0.0/16");
            net::ensure_host(&net).unwrap();
            let names = NameBoard::new(watch::Sender::new(Names::default()));
            let places = Places::new(Some(net.clone()), folder.path().join("last-address"));
            let authority = Authority::generate(SystemClock.now_ms()).unwrap();
            let credentials = world::credentials(&authority, NodeId::from_u128(1));
            let counts = CallCounts::new(&Metrics::new());
            let caller = Caller::new(&credentials, CallerSettings::default(), counts);
            let fleet = watch::Sender::new(Arc::new(fleet()));
            let (held, seen) = (Arc::clone(&places), fleet.subscribe());
            let mut remotes = Remotes::new(net, names.clone(), held, seen, caller);
            let end = CancellationToken::new();
            let is_open = |remotes: &Remotes| remotes.doors[&DB].open.is_some();

            // The Target has named it before our own instance of the environment has an address.
            assert!(remotes.pass(&end).await, "there is nothing to try again");
            assert!(!is_open(&remotes));

            let place = places.take(RED).await.unwrap();
            let (app, address) = (Some("shop".parse().unwrap()), place.place.address());
            let presence = Presence { environment: RED, app, address, serves: None, routed: false };
            names.set(Tenant::Instance(InstanceId::from_u128(1)), Some(presence));
            assert!(remotes.pass(&end).await);
            assert!(is_open(&remotes));
            assert_eq!(remotes.told.as_ref().map(Vec::len), Some(1));

            // The last of the environment has gone from here, and with it the address of the door.
            names.set(Tenant::Instance(InstanceId::from_u128(1)), None);
            drop(place);
            assert!(remotes.pass(&end).await);
            assert!(!is_open(&remotes));
            assert_eq!(remotes.told.as_ref().map(Vec::len), Some(0));
        });
    }
}
