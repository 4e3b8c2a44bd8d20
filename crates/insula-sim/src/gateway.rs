//! A gateway: it serves the last table that it was given, with or without a server, says which one
//! that is, and says of what it let go until its requests are done.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::routes::RouteTable;
use insula_model::target::accept;
use insula_model::{GatewayId, Generation, InstanceId};

use crate::chance::Chance;

/// The longest that requests to an instance last after it left the table.
const REQUEST_MAX_MS: u64 = 3_000;

#[derive(Debug)]
pub struct Gateway {
    pub id: GatewayId,
    pub up: bool,
    pub session: Option<u64>,
    pub answered: u64,
    pub table: Option<RouteTable>,
    /// Requests that go on, until then.
    busy: BTreeMap<InstanceId, u64>,
}

impl Gateway {
    pub fn new(id: GatewayId) -> Self {
        Self { id, up: false, session: None, answered: 0, table: None, busy: BTreeMap::new() }
    }

    pub fn routed(&self) -> BTreeSet<InstanceId> {
        let routes = self.table.iter().flat_map(|table| &table.routes);
        routes.flat_map(|route| route.endpoints.iter().map(|e| e.instance)).collect()
    }

    /// Refuses the past.
    pub fn take(&mut self, table: RouteTable, now: u64, chance: &mut Chance) {
        let held = self.table.as_ref().map_or(Generation(0), |held| held.generation);
        if accept(held, table.generation).is_err() {
            return;
        }
        let before = self.routed();
        self.table = Some(table);
        let after = self.routed();
        for gone in before.difference(&after) {
            if chance.percent(40) {
                self.busy.insert(*gone, now + chance.between(1, REQUEST_MAX_MS));
            }
        }
    }

    /// What it says of itself; nothing before its first table.
    pub fn says(&self, now: u64) -> Option<(Generation, BTreeSet<InstanceId>)> {
        let busy = self.busy.iter().filter(|(_, until)| **until > now).map(|(id, _)| *id);
        Some((self.table.as_ref()?.generation, busy.collect()))
    }

    /// Lets go of requests that are done; when the next ones are.
    pub fn step(&mut self, now: u64) -> Option<u64> {
        self.busy.retain(|_, until| *until > now);
        self.busy.values().min().copied()
    }
}
