//! Where an instance answers, and what it has to do at the moment.
//!
//! Each thread counts for its own balancing (`Endpoint`); all threads together count for the
//! server, which must not stop an instance that still has a visitor (`Ledger`).

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use insula_model::InstanceId;
use insula_model::routes::RouteTable;
use insula_relay::Health;
use tokio::sync::{Notify, watch};

use crate::way::Way;

/// One address, as one thread knows it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) way: Way,
    /// Of the node at the end of the way, if it is another.
    health: Option<watch::Receiver<Health>>,
    tally: Arc<Tally>,
    outstanding: Cell<u32>,
    avoided_until: Cell<Option<Instant>>,
}

/// A request, or an upgraded connection, that an endpoint has in hand. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    endpoint: Rc<Endpoint>,
}

/// What all threads have outstanding at one instance.
#[derive(Debug)]
pub(crate) struct Tally {
    instance: InstanceId,
    outstanding: AtomicU32,
    /// It is in no route any more: somebody waits for the count to come to nothing.
    retired: AtomicBool,
    shrunk: Arc<Notify>,
}

/// Every instance that a route names, or that a request still holds.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    tallies: Mutex<HashMap<InstanceId, Arc<Tally>>>,
    shrunk: Arc<Notify>,
}

impl Endpoint {
    pub(crate) fn new(
        way: Way,
        health: Option<watch::Receiver<Health>>,
        tally: Arc<Tally>,
    ) -> Self {
        let (outstanding, avoided_until) = (Cell::new(0), Cell::new(None));
        Self { way, health, tally, outstanding, avoided_until }
    }

    /// Whether there is any use in asking: its node answers, as far as we know.
    pub(crate) fn is_cut_off(&self) -> bool {
        matches!(self.way, Way::Nowhere(_))
            || self.health.as_ref().is_some_and(|health| *health.borrow() == Health::Dead)
    }

    /// Whether it is known how its node fares.
    pub(crate) fn is_felt(&self) -> bool {
        self.health.is_some()
    }

    pub(crate) fn instance(&self) -> InstanceId {
        self.tally.instance
    }

    /// Whether it is counted there, and not in one that was forgotten since.
    pub(crate) fn counts_in(&self, tally: &Arc<Tally>) -> bool {
        Arc::ptr_eq(&self.tally, tally)
    }

    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding.get()
    }

    pub(crate) fn avoid(&self, until: Instant) {
        self.avoided_until.set(Some(until));
    }

    pub(crate) fn welcome(&self) {
        self.avoided_until.set(None);
    }

    pub(crate) fn avoided(&self, now: Instant) -> bool {
        self.is_cut_off() || self.avoided_until.get().is_some_and(|until| now < until)
    }

    pub(crate) fn lease(self: &Rc<Self>) -> Lease {
        self.outstanding.set(self.outstanding.get() + 1);
        self.tally.outstanding.fetch_add(1, Ordering::SeqCst);
        Lease { endpoint: Rc::clone(self) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let endpoint = &self.endpoint;
        endpoint.outstanding.set(endpoint.outstanding.get() - 1);
        let before = endpoint.tally.outstanding.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && endpoint.tally.retired.load(Ordering::SeqCst) {
            endpoint.tally.shrunk.notify_one();
        }
    }
}

impl Ledger {
    /// From now on these instances are in a route, and no others are.
    pub(crate) fn adopt(&self, table: &RouteTable) {
        let routed: BTreeSet<InstanceId> = table
            .routes
            .iter()
            .flat_map(|route| route.endpoints.iter().map(|endpoint| endpoint.instance))
            .collect();
        let mut tallies = self.locked();
        for instance in &routed {
            tallies.entry(*instance).or_insert_with(|| self.fresh(*instance));
        }
        for (instance, tally) in &*tallies {
            tally.retired.store(!routed.contains(instance), Ordering::SeqCst);
        }
    }

    pub(crate) fn tally(&self, instance: InstanceId) -> Arc<Tally> {
        let mut tallies = self.locked();
        Arc::clone(tallies.entry(instance).or_insert_with(|| self.fresh(instance)))
    }

    /// Instances in no route that still have something in hand. Exact once every thread has left
    /// the table before; forgets those that have nothing.
    pub(crate) fn busy(&self) -> BTreeSet<InstanceId> {
        let mut tallies = self.locked();
        tallies.retain(|_, tally| {
            !tally.retired.load(Ordering::SeqCst) || tally.outstanding.load(Ordering::SeqCst) > 0
        });
        let retired = tallies.iter().filter(|(_, tally)| tally.retired.load(Ordering::SeqCst));
        retired.map(|(instance, _)| *instance).collect()
    }

    /// Ready when a retired instance has come to nothing since the last call.
    pub(crate) async fn shrunk(&self) {
        self.shrunk.notified().await;
    }

    fn fresh(&self, instance: InstanceId) -> Arc<Tally> {
        Arc::new(Tally {
            instance,
            outstanding: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            shrunk: Arc::clone(&self.shrunk),
        })
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceId, Arc<Tally>>> {
        // Nothing panics half way through a change.
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long an endpoint that has just refused a connection is asked last.
pub(crate) fn avoid_for(endpoint: &Endpoint, time: Duration) {
    endpoint.avoid(Instant::now() + time);
}
