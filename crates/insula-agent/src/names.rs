//! Who is where on this node, and what its own resolver is told of it.
//!
//! Plain values. The resolver lives in another crate; the binary passes them on. Only instances
//! that are ready have names; every address of ours has an environment from the moment it exists.
//! Instances of other nodes are named like our own, at addresses of this host (see `relay::remotes`):
//! whoever asks for a component gets all of them, in no order of preference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use insula_model::{AppName, ComponentName, EnvironmentId, InstanceId};
use tokio::sync::watch;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// What can be resolved inside an environment.
    pub environments: BTreeMap<EnvironmentId, BTreeMap<ServiceName, BTreeSet<SocketAddr>>>,
    /// To whom a question belongs, by the address that it comes from.
    pub sources: BTreeMap<IpAddr, Source>,
}

/// Who asks from an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub environment: EnvironmentId,
    /// Nothing for a build: it asks for names of the internet alone.
    pub app: Option<AppName>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    pub app: AppName,
    pub component: ComponentName,
}

/// Where one instance (or build) stands, as far as names go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    pub environment: EnvironmentId,
    /// Nothing for a build.
    pub app: Option<AppName>,
    pub address: IpAddr,
    /// Once it is ready and has a port.
    pub serves: Option<(ServiceName, SocketAddr)>,
    /// Whether gateways may come.
    pub routed: bool,
}

/// An instance of another node, and where this host shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteName {
    pub environment: EnvironmentId,
    pub service: ServiceName,
    pub at: SocketAddr,
}

/// Holds every presence on this node and publishes what follows from them. Clones are the same board.
#[derive(Debug, Clone)]
pub struct NameBoard {
    shared: Arc<Board>,
}

#[derive(Debug)]
struct Board {
    inner: Mutex<Inner>,
    published: watch::Sender<Names>,
    /// Counts changes of what is here.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    here: BTreeMap<Tenant, Presence>,
    elsewhere: BTreeMap<InstanceId, RemoteName>,
}

/// Whose presence it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tenant {
    Instance(InstanceId),
    Build(insula_model::BuildId),
}

impl NameBoard {
    pub fn new(published: watch::Sender<Names>) -> Self {
        let (inner, changes) = (Mutex::default(), watch::Sender::new(0));
        Self { shared: Arc::new(Board { inner, published, changes }) }
    }

    pub fn set(&self, tenant: Tenant, presence: Option<Presence>) {
        let mut inner = self.lock();
        if inner.here.get(&tenant) == presence.as_ref() {
            return;
        }
        match presence {
            Some(presence) => inner.here.insert(tenant, presence),
            None => inner.here.remove(&tenant),
        };
        self.publish(&inner);
        self.shared.changes.send_modify(|count| *count += 1);
    }

    /// All that other nodes run and this one shows.
    pub fn set_elsewhere(&self, elsewhere: BTreeMap<InstanceId, RemoteName>) {
        let mut inner = self.lock();
        if inner.elsewhere != elsewhere {
            inner.elsewhere = elsewhere;
            self.publish(&inner);
        }
    }

    /// What runs here now under that id.
    pub fn instance(&self, id: InstanceId) -> Option<Presence> {
        self.lock().here.get(&Tenant::Instance(id)).cloned()
    }

    /// Who has that address now.
    pub fn source(&self, address: IpAddr) -> Option<Source> {
        self.shared.published.borrow().sources.get(&address).cloned()
    }

    /// All addresses, and whose they are.
    pub fn sources(&self) -> BTreeMap<IpAddr, Source> {
        self.shared.published.borrow().sources.clone()
    }

    /// Moves when something that is here changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn publish(&self, inner: &Inner) {
        let names = names(inner);
        self.shared.published.send_if_modified(|published| {
            let changed = *published != names;
            *published = names;
            changed
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn names(inner: &Inner) -> Names {
    let mut names = Names::default();
    for presence in inner.here.values() {
        // Loopback belongs to everybody in development: it names nobody.
        if !presence.address.is_loopback() {
            let source = Source { environment: presence.environment, app: presence.app.clone() };
            names.sources.insert(presence.address, source);
        }
        if let Some((service, address)) = &presence.serves {
            let environment = names.environments.entry(presence.environment).or_default();
            environment.entry(service.clone()).or_default().insert(*address);
        }
    }
    for remote in inner.elsewhere.values() {
        let environment = names.environments.entry(remote.environment).or_default();
        environment.entry(remote.service.clone()).or_default().insert(remote.at);
    }
    names
}

#[cfg(test)]
mod tests {
    use insula_model::Timestamp;

    use super::*;

    fn environment(n: u8) -> EnvironmentId {
        EnvironmentId::from_parts(Timestamp::from_millis(1), [n; 10])
    }

    fn web() -> ServiceName {
        ServiceName { app: "shop".parse().unwrap(), component: "web".parse().unwrap() }
    }

    #[test]
    fn only_what_is_ready_has_a_name_and_every_address_has_an_environment() {
        let instance =
            |n| Tenant::Instance(InstanceId::from_parts(Timestamp::from_millis(1), [n; 10]));
        let web = web();
        let (sender, receiver) = watch::channel(Names::default());
        let board = NameBoard::new(sender);
        let here: IpAddr = [10, 87, 0, 2].into();
        let app = Some(web.app.clone());
        let starting = Presence {
            environment: environment(1),
            app: app.clone(),
            address: here,
            serves: None,
            routed: false,
        };
        board.set(instance(1), Some(starting.clone()));
        let source = Source { environment: environment(1), app };
        assert_eq!(receiver.borrow().sources, BTreeMap::from([(here, source)]));
        assert!(receiver.borrow().environments.is_empty());

        let endpoint = SocketAddr::new(here, 8080);
        let ready = Presence { serves: Some((web.clone(), endpoint)), ..starting };
        board.set(instance(1), Some(ready));
        let expected =
            BTreeMap::from([(environment(1), BTreeMap::from([(web, BTreeSet::from([endpoint]))]))]);
        assert_eq!(receiver.borrow().environments, expected);

        board.set(instance(1), None);
        assert_eq!(*receiver.borrow(), Names::default());
    }

    #[test]
    fn instances_of_other_nodes_stand_beside_our_own_and_ask_nothing_themselves() {
        let (sender, receiver) = watch::channel(Names::default());
        let board = NameBoard::new(sender);
        let id = |n| InstanceId::from_parts(Timestamp::from_millis(1), [n; 10]);
        let (own, far): (SocketAddr, SocketAddr) =
            ("10.87.0.2:8080".parse().unwrap(), "10.87.192.9:8080".parse().unwrap());
        let here = Presence {
            environment: environment(1),
            app: Some(web().app),
            address: own.ip(),
            serves: Some((web(), own)),
            routed: false,
        };
        board.set(Tenant::Instance(id(1)), Some(here));
        let remote = RemoteName { environment: environment(1), service: web(), at: far };
        board.set_elsewhere(BTreeMap::from([(id(2), remote)]));
        let environments = receiver.borrow().environments.clone();
        let both = BTreeMap::from([(web(), BTreeSet::from([own, far]))]);
        assert_eq!(environments, BTreeMap::from([(environment(1), both)]));
        assert_eq!(board.source(far.ip()), None);
        assert_eq!(board.instance(id(2)), None, "it does not run here");
        board.set_elsewhere(BTreeMap::new());
        assert_eq!(receiver.borrow().environments[&environment(1)][&web()], BTreeSet::from([own]));
    }
}
