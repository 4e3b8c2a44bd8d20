//! A core with everything around it scripted: a store that is a World, agents that obey, a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use insula_control::core::mutation::{self, Mutation, Outcome};
use insula_control::core::{Core, Now, Settings, Turn};
use insula_kit::random::SeededRandom;
use insula_link::Inbound;
use insula_model::feed::Change;
use insula_model::fleet::Member;
use insula_model::node::Ailment;
use insula_model::routes::RouteTable;
use insula_model::target::NodeTarget;
use insula_model::*;
use insula_plan::World;
use insula_plan::effect::Cut;

use crate::fixture::{at, hello, node_id, obedient};

/// Turns after which a story that has not come to rest never will.
const TURNS_MAX: usize = 200;
const TICK_MS: u64 = 250;

#[derive(Default)]
pub struct Agent {
    pub target: Option<NodeTarget>,
    pub ailments: Vec<Ailment>,
    /// Hears and is heard.
    pub connected: bool,
    pub targets_seen: usize,
    /// Says what it holds when it is told something.
    pub answers: bool,
}

pub struct Plant {
    pub core: Core,
    pub store: World,
    feed: Vec<(Generation, Change)>,
    pub ms: u64,
    /// How far the time of day was set, beside the time that passed.
    pub set_ms: i64,
    pub agents: BTreeMap<NodeId, Agent>,
    pub table: Option<RouteTable>,
    pub tables_seen: usize,
    pub expelled: Vec<Member>,
    /// Everything that was written, in words.
    pub said: Vec<String>,
    /// The store fails for so many more mutations.
    pub failing: usize,
    pub mutations: usize,
}

impl Plant {
    pub fn new(rows: Vec<Change>) -> Self {
        let mut store = World::new("localhost".parse().unwrap());
        rows.iter().cloned().for_each(|row| store.apply(row));
        store.generation = Generation(1);
        let settings = Settings { grace: Millis(0), ..Settings::new("localhost".parse().unwrap()) };
        let random = Arc::new(SeededRandom::new(7));
        Self {
            core: Core::new(settings, random, (Generation(1), rows), at(0)),
            store,
            feed: Vec::new(),
            ms: 0,
            set_ms: 0,
            agents: BTreeMap::new(),
            table: None,
            tables_seen: 0,
            expelled: Vec::new(),
            said: Vec::new(),
            failing: 0,
            mutations: 0,
        }
    }

    pub fn now(&self) -> Now {
        let now = at(self.ms);
        Now { wall: Timestamp::from_millis(now.wall.as_millis() + self.set_ms), ..now }
    }

    pub fn tell(&mut self, message: Inbound) {
        let now = self.now();
        self.core.tell(message, now);
    }

    /// A node comes, says what it holds, and goes on to do what it is told.
    pub fn joins(&mut self, n: u64) {
        self.joins_with_clock(n, 0);
    }

    /// One whose clock is ahead of ours, or behind.
    pub fn joins_with_clock(&mut self, n: u64, ahead_ms: i64) {
        let clock = Timestamp::from_millis(self.now().wall.as_millis() + ahead_ms);
        let agent = self.agents.entry(node_id(n)).or_default();
        (agent.connected, agent.answers) = (true, true);
        self.tell(hello(n, clock));
        self.reports(n);
    }

    /// One that others reach through its relay.
    pub fn joins_with_relay(&mut self, n: u64) {
        self.joins(n);
        let clock = self.now().wall;
        let Inbound::NodeHello { node, name, version, mut facts } = hello(n, clock) else {
            unreachable!("a greeting greets")
        };
        facts.relay = Some(([10, 1, 0, n as u8], 7_000).into());
        self.tell(Inbound::NodeHello { node, name, version, facts });
        self.reports(n);
    }

    /// What is wrong with it, as it says itself.
    pub fn says(&mut self, n: u64, ailments: Vec<Ailment>) {
        self.agents.entry(node_id(n)).or_default().ailments = ailments;
        self.reports(n);
        self.rests();
    }

    pub fn reports(&mut self, n: u64) {
        let agent = &self.agents[&node_id(n)];
        let report = obedient(agent.target.as_ref(), agent.ailments.clone());
        self.tell(Inbound::NodeReport { node: node_id(n), report });
    }

    /// It is not heard any more; its session hangs.
    pub fn cut_off(&mut self, n: u64) {
        self.agents.get_mut(&node_id(n)).unwrap().connected = false;
    }

    pub fn commit(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.store.apply(change.clone());
            self.store.generation.0 += 1;
            self.feed.push((self.store.generation, change));
        }
    }

    /// One read of the feed, all of it.
    pub fn read(&mut self) {
        let reading = self.core.begin_read();
        let new = self.feed.iter().filter(|(at, _)| *at > reading.from);
        let changes = new.map(|(_, change)| change.clone()).collect();
        self.core.read(reading, self.store.generation, changes, true);
    }

    pub fn write(&mut self, mutation: &Mutation) -> Outcome {
        self.mutations += 1;
        if self.failing > 0 {
            self.failing -= 1;
            return Outcome::Failed;
        }
        let (outcome, changes) = mutation::apply(&mut self.store, mutation, |_, _| Cut::default());
        if let mutation::What::Act { steps } = &mutation.what {
            self.said.extend(steps.iter().map(|step| step.action.to_string()));
        }
        let mut generation = self.store.generation.0 - changes.len() as u64;
        for change in changes {
            generation += 1;
            self.feed.push((Generation(generation), change));
        }
        outcome
    }

    /// Delivers what a turn says; whether anything has to be looked at again.
    pub fn deliver(&mut self, turn: Turn) -> bool {
        let mut again = !turn.writes.is_empty();
        self.expelled.extend(turn.expel);
        if let Some(publication) = turn.routes {
            self.table = Some(publication.table);
            self.tables_seen += 1;
        }
        let mut answering = BTreeSet::new();
        for send in turn.targets {
            let agent = self.agents.entry(send.target.node).or_default();
            if agent.connected {
                agent.targets_seen += 1;
                if agent.answers {
                    answering.insert(send.target.node);
                }
                agent.target = Some(send.target);
            }
        }
        for mutation in turn.writes {
            let outcome = self.write(&mutation);
            let now = self.now();
            self.core.wrote(mutation.ticket, outcome, now);
        }
        for node in answering {
            again = true;
            let agent = &self.agents[&node];
            let report = obedient(agent.target.as_ref(), agent.ailments.clone());
            self.tell(Inbound::NodeReport { node, report });
        }
        again
    }

    /// Turns until nothing is left to do at this moment.
    pub fn rests(&mut self) {
        for _ in 0..TURNS_MAX {
            self.read();
            let now = self.now();
            let turn = self.core.turn(now);
            if !self.deliver(turn) {
                return;
            }
        }
        panic!("no rest after {TURNS_MAX} turns: {:?}", &self.said);
    }

    /// Lets time pass in ticks; who is connected is heard at each.
    pub fn passes(&mut self, span: Millis) {
        for _ in 0..span.0 / TICK_MS {
            self.ms += TICK_MS;
            let now = self.now();
            let connected = self.agents.iter().filter(|(_, agent)| agent.connected);
            let heard: Vec<_> = connected.map(|(node, _)| (*node, now.steady)).collect();
            self.core.heard(now, heard);
            self.rests();
        }
    }

    /// Names of the nodes that hold an instance that should run, in order.
    pub fn runs_on(&self) -> Vec<String> {
        let rows = self.store.instances.values();
        let running = rows.filter(|row| row.intent == insula_model::instance::Intent::Run);
        let mut on: Vec<String> =
            running.map(|row| self.store.nodes[&row.node].name.to_string()).collect();
        on.sort();
        on
    }
}
