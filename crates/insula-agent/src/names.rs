//! What the node's own resolver is told: who is where, and who may ask.
//!
//! Plain values. The resolver lives in another crate; the binary passes them on. Only instances
//! that are ready have names; every address of ours has an environment from the moment it exists.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

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
}

/// Holds every presence on this node and publishes what follows from them.
#[derive(Debug)]
pub struct NameBoard {
    inner: std::sync::Mutex<BTreeMap<Tenant, Presence>>,
    published: watch::Sender<Names>,
}

/// Whose presence it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tenant {
    Instance(InstanceId),
    Build(insula_model::BuildId),
}

impl NameBoard {
    pub fn new(published: watch::Sender<Names>) -> Self {
        Self { inner: std::sync::Mutex::default(), published }
    }

    pub fn set(&self, tenant: Tenant, presence: Option<Presence>) {
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if inner.get(&tenant) == presence.as_ref() {
            return;
        }
        match presence {
            Some(presence) => inner.insert(tenant, presence),
            None => inner.remove(&tenant),
        };
        let names = names(inner.values());
        self.published.send_if_modified(|published| {
            let changed = *published != names;
            *published = names;
            changed
        });
    }
}

fn names<'a>(presences: impl Iterator<Item = &'a Presence>) -> Names {
    let mut names = Names::default();
    for presence in presences {
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
    names
}

#[cfg(test)]
mod tests {
    use insula_model::Timestamp;

    use super::*;

    #[test]
    fn only_what_is_ready_has_a_name_and_every_address_has_an_environment() {
        let environment = |n| EnvironmentId::from_parts(Timestamp::from_millis(1), [n; 10]);
        let instance =
            |n| Tenant::Instance(InstanceId::from_parts(Timestamp::from_millis(1), [n; 10]));
        let web = ServiceName { app: "shop".parse().unwrap(), component: "web".parse().unwrap() };
        let (sender, receiver) = watch::channel(Names::default());
        let board = NameBoard::new(sender);
        let here: IpAddr = [10, 87, 0, 2].into();
        let app = Some(web.app.clone());
        let starting =
            Presence { environment: environment(1), app: app.clone(), address: here, serves: None };
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
}
