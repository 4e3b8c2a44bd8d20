//! The loop: one queue of events in virtual time, and what each of them does.

use std::collections::{BTreeMap, BTreeSet};

use insula_control::core::Reading;
use insula_control::core::mutation::{Mutation, Outcome, Ticket};
use insula_model::{AppId, ComponentName, HostName, InstanceId};

use crate::chance::Chance;
use crate::fault::{Fault, Weather};
use crate::gateway::Gateway;
use crate::link::{Down, Network, Place, Session, Up};
use crate::machine::Machine;
use crate::operator::Known;
use crate::property::{Property, Violation};
use crate::round::Round;
use crate::server::{Read, Server};
use crate::setup::Setup;
use crate::store::Store;
use crate::trace::Trace;

/// By so much the copy of a message comes after it, half of the time.
const LATE_MS_MAX: u64 = 4_000;

#[derive(Debug)]
pub enum Event {
    Tick(usize, u64),
    Elect(usize, u64),
    /// A server asks for the lease, or to renew the one that it holds.
    Lease {
        server: usize,
        life: u64,
        sent: u64,
        held: Option<u64>,
    },
    Leased {
        server: usize,
        life: u64,
        sent: u64,
        held: Option<u64>,
        epoch: Option<u64>,
    },
    Wake {
        server: usize,
        epoch: u64,
    },
    Read {
        server: usize,
        epoch: u64,
        reading: Reading,
    },
    ReadDone {
        server: usize,
        epoch: u64,
        reading: Reading,
        read: Box<Read>,
    },
    Commit {
        server: usize,
        epoch: u64,
        mutation: Box<Mutation>,
    },
    Answer {
        server: usize,
        epoch: u64,
        ticket: Ticket,
        outcome: Outcome,
    },
    Superseded {
        server: usize,
        epoch: u64,
    },
    /// The next message of a session, in one direction.
    Deliver {
        session: u64,
        upward: bool,
    },
    /// The client finds its session ended.
    Ended {
        session: u64,
    },
    Beat(usize),
    Machine(usize),
    GatewayBeat(usize),
    GatewayStep(usize),
    Operator,
    Fault,
    Heal(Box<Fault>),
    /// The end of a part of a round, or a look at whether all is well.
    Look,
}

#[derive(Debug, Default)]
pub struct Queue {
    events: BTreeMap<(u64, u64), Event>,
    pushed: u64,
}

impl Queue {
    pub fn push(&mut self, at: u64, event: Event) {
        self.pushed += 1;
        self.events.insert((at, self.pushed), event);
    }

    fn pop(&mut self) -> Option<(u64, Event)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }
}

/// What a run has gone through.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub steps: u64,
    pub turns: u64,
    pub commits: u64,
    pub terms: u64,
    pub refused: u64,
    pub answers_lost: u64,
    pub deployments: u64,
    pub operations: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub checks: BTreeMap<Property, u64>,
}

#[derive(Debug)]
pub struct Sim {
    pub setup: Setup,
    pub chance: Chance,
    pub now: u64,
    pub queue: Queue,
    pub store: Store,
    pub weather: Weather,
    pub network: Network,
    pub servers: Vec<Server>,
    /// Counts the starts of each server: what one life began is nothing to the next.
    pub lives: Vec<u64>,
    pub machines: Vec<Machine>,
    pub gateways: Vec<Gateway>,
    pub sessions: BTreeMap<u64, Session>,
    sessions_begun: u64,
    pub known: Known,
    /// Components of which there may never be two.
    pub singles: BTreeSet<(AppId, ComponentName)>,
    /// Whatever was ready at any time.
    pub ever_ready: BTreeSet<InstanceId>,
    pub round: Round,
    pub faults: Vec<Fault>,
    pub acted_at: u64,
    pub trace: Trace,
    pub counts: Counts,
    pub violation: Option<Violation>,
    pub done: bool,
    pub suffix: HostName,
}

impl Sim {
    pub fn new(seed: u64, setup: Setup, trace: Trace) -> Self {
        let suffix: HostName = "sim.example".parse().unwrap_or_else(|_| unreachable!());
        let mut sim = Self {
            chance: Chance::new(seed ^ 0xf1ee_7000),
            now: 0,
            queue: Queue::default(),
            store: Store::new(suffix.clone()),
            weather: Weather::default(),
            network: Network::default(),
            servers: Vec::new(),
            lives: Vec::new(),
            machines: Vec::new(),
            gateways: Vec::new(),
            sessions: BTreeMap::new(),
            sessions_begun: 0,
            known: Known::default(),
            singles: BTreeSet::new(),
            ever_ready: BTreeSet::new(),
            round: Round::default(),
            faults: Vec::new(),
            acted_at: 0,
            trace,
            counts: Counts::default(),
            violation: None,
            done: false,
            suffix,
            setup,
        };
        sim.build();
        sim
    }

    /// Goes on until it is done, or a property does not hold.
    pub fn run(&mut self) {
        while !self.done && self.violation.is_none() {
            let Some((at, event)) = self.queue.pop() else { return };
            self.now = at;
            self.counts.steps += 1;
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        // A server that stands still hears of it when it goes on.
        if let Some(until) = self.stands_still(&event) {
            return self.queue.push(until, event);
        }
        self.trace.fold(self.now ^ (self.queue.pushed << 20));
        match event {
            Event::Tick(s, life) => self.tick(s, life),
            Event::Elect(s, life) => self.elect(s, life),
            Event::Lease { server, life, sent, held } => self.lease(server, life, sent, held),
            Event::Leased { server, life, sent, held, epoch } => {
                self.leased(server, life, sent, held, epoch);
            }
            Event::Wake { server, epoch } => self.woken(server, epoch),
            Event::Read { server, epoch, reading } => self.read(server, epoch, reading),
            Event::ReadDone { server, epoch, reading, read } => {
                self.read_done(server, epoch, reading, *read);
            }
            Event::Commit { server, epoch, mutation } => self.commit(server, epoch, *mutation),
            Event::Answer { server, epoch, ticket, outcome } => {
                self.answer(server, epoch, ticket, outcome);
            }
            Event::Superseded { server, epoch } => self.superseded(server, epoch),
            Event::Deliver { session, upward } => self.deliver(session, upward),
            Event::Ended { session } => self.client_finds_end(session),
            Event::Beat(n) => self.beat(n),
            Event::Machine(n) => self.machine_step(n),
            Event::GatewayBeat(g) => self.gateway_beat(g),
            Event::GatewayStep(g) => self.gateway_step(g),
            Event::Operator => self.operate(),
            Event::Fault => self.inject(),
            Event::Heal(fault) => self.heal(*fault),
            Event::Look => self.look(),
        }
    }

    fn stands_still(&self, event: &Event) -> Option<u64> {
        let server = match event {
            Event::Tick(s, _) | Event::Elect(s, _) => *s,
            Event::Leased { server, .. }
            | Event::Wake { server, .. }
            | Event::ReadDone { server, .. }
            | Event::Answer { server, .. }
            | Event::Superseded { server, .. } => *server,
            // The store, the network and the others go on.
            Event::Lease { .. }
            | Event::Read { .. }
            | Event::Commit { .. }
            | Event::Deliver { .. }
            | Event::Ended { .. }
            | Event::Beat(_)
            | Event::Machine(_)
            | Event::GatewayBeat(_)
            | Event::GatewayStep(_)
            | Event::Operator
            | Event::Fault
            | Event::Heal(_)
            | Event::Look => return None,
        };
        let until = self.servers[server].paused_until;
        (until > self.now).then_some(until)
    }

    pub fn violate(&mut self, property: Property, detail: String) {
        if self.violation.is_none() {
            let (step, at) = (self.counts.steps, self.now);
            self.trace.tell(self.now, || format!("VIOLATION: {}: {detail}", property.sentence()));
            self.violation = Some(Violation { property, detail, step, at });
        }
    }

    pub fn checked(&mut self, property: Property) {
        *self.counts.checks.entry(property).or_default() += 1;
    }

    /// What a message takes.
    fn delay(&mut self) -> u64 {
        let slow = self.network.slow;
        self.chance.between(1, 4) + if slow > 0 { self.chance.between(0, slow) } else { 0 }
    }

    pub fn store_delay(&mut self) -> u64 {
        let slow = self.weather.slow;
        self.chance.between(1, 6) + if slow > 0 { self.chance.between(0, slow) } else { 0 }
    }

    pub fn store_answers(&self, s: usize) -> bool {
        !self.weather.down && self.network.both_ways(Place::Server(s), Place::Store)
    }

    pub fn send_up(&mut self, id: u64, message: Up) {
        let after = self.delay();
        let Some(session) = self.sessions.get_mut(&id).filter(|it| it.client_holds) else { return };
        session.up.push_back(message);
        self.queue.push(self.now + after, Event::Deliver { session: id, upward: true });
    }

    pub fn send_down(&mut self, id: u64, message: Down) {
        let after = self.delay();
        let Some(session) = self.sessions.get_mut(&id).filter(|it| it.server_holds) else { return };
        session.down.push_back(message);
        self.queue.push(self.now + after, Event::Deliver { session: id, upward: false });
    }

    /// Whether whoever is at a place takes messages now; nothing: it is not there at all.
    fn takes(&self, place: Place) -> Option<bool> {
        match place {
            Place::Server(s) => {
                let server = &self.servers[s];
                server.up.then_some(server.paused_until <= self.now)
            }
            Place::Node(n) => {
                let machine = &self.machines[n];
                (machine.up && machine.agent).then_some(!machine.frozen)
            }
            Place::Gateway(g) => self.gateways[g].up.then_some(true),
            Place::Store => Some(true),
        }
    }

    fn deliver(&mut self, id: u64, upward: bool) {
        let Some(session) = self.sessions.get(&id) else { return };
        let path = session.path();
        let receiver = if upward { Place::Server(session.server) } else { session.who };
        let relayed = session.via.map(|via| self.takes(Place::Server(via)));
        let holds = if upward { session.server_holds } else { session.client_holds };
        let waiting = if upward { !session.up.is_empty() } else { !session.down.is_empty() };
        if !holds || !waiting {
            return;
        }
        let (Some(takes), Some(relays)) = (self.takes(receiver), relayed.unwrap_or(Some(true)))
        else {
            // A process that is gone resets its connections.
            return self.break_session(id);
        };
        if !takes || !relays || !self.network.passes(&path, upward) {
            // It is sent again until it gets through, in order.
            let again = self.now + self.chance.between(100, 600);
            return self.queue.push(again, Event::Deliver { session: id, upward });
        }
        if self.chance.permille(self.network.breaks) {
            return self.break_session(id);
        }
        let twice = self.chance.permille(self.network.doubles);
        let late = self.chance.between(0, LATE_MS_MAX).saturating_sub(LATE_MS_MAX / 2);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if upward {
            let Some(message) = session.up.pop_front() else { return };
            if twice {
                self.server_hears(id, message.clone());
            }
            self.server_hears(id, message);
        } else {
            let Some(message) = session.down.pop_front() else { return };
            let numbered = matches!(message, Down::Target(_));
            if twice && late > 0 && numbered {
                // A Target has a number, so that it may come out of its order.
                session.down.push_back(message.clone());
                self.queue.push(self.now + late, Event::Deliver { session: id, upward });
            } else if twice {
                self.client_hears(id, message.clone());
            }
            self.client_hears(id, message);
        }
    }

    /// Both ends find out, each in its time.
    pub fn break_session(&mut self, id: u64) {
        self.counts_fault("session broken");
        self.tell_client(id);
        self.server_lets_go(id);
    }

    /// The client learns that its session is over, if the news can reach it.
    pub fn tell_client(&mut self, id: u64) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.client_holds && self.network.passes(&session.path(), false) {
            let after = self.delay();
            self.queue.push(self.now + after, Event::Ended { session: id });
        }
    }

    /// Dials any of the servers; the session, if one answers that knows the leader.
    pub fn dial(&mut self, who: Place) -> Option<u64> {
        let first = self.chance.below(self.servers.len());
        let dialled =
            (0..self.servers.len()).map(|n| (first + n) % self.servers.len()).find(|s| {
                self.takes(Place::Server(*s)) == Some(true)
                    && self.network.both_ways(who, Place::Server(*s))
            })?;
        let leader = self.leader()?;
        let reached = dialled == leader
            || (self.takes(Place::Server(leader)) == Some(true)
                && self.network.both_ways(Place::Server(dialled), Place::Server(leader)));
        if !reached {
            return None;
        }
        let epoch = self.epoch_of(leader)?;
        self.sessions_begun += 1;
        let id = self.sessions_begun;
        let session = Session {
            who,
            server: leader,
            epoch,
            via: (dialled != leader).then_some(dialled),
            up: std::collections::VecDeque::new(),
            down: std::collections::VecDeque::new(),
            server_holds: true,
            client_holds: true,
            heard: self.now,
            began: self.now,
        };
        self.sessions.insert(id, session);
        Some(id)
    }
}
