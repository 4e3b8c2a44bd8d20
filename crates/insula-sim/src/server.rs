//! One of the servers: the real core, and a shell around it that moves data as the product's does.

mod link;
mod term;

use std::collections::BTreeMap;
use std::sync::Arc;

use insula_control::core::mutation::{Mutation, Outcome, Ticket, What};
use insula_control::core::{Core, Now, Reading, STORE_PAUSE, TICK};
use insula_model::feed::Change;
use insula_model::fleet::Member;
use insula_model::routes::RouteTable;
use insula_model::{Generation, Millis, NodeId, Timestamp};

use crate::link::Down;
use crate::sim::{Event, Sim};

/// What every clock shows when a simulation begins: ids sort by it.
pub const WALL_BEGINS_MS: i64 = 1_800_000_000_000;
/// A steady clock begins anywhere.
const STEADY_BEGINS_MS: u64 = 3_600_000;
/// As in the product: see `insula_control::LEASE_TTL`.
const LEASE_TTL_MS: u64 = insula_control::LEASE_TTL.0;
const RENEW_EVERY_MS: u64 = 1_000;
const TRY_EVERY_MS: u64 = 500;
/// A server gives a session up that was silent for so long.
const SESSION_SILENT_MAX_MS: u64 = 30_000;

#[derive(Debug, Default)]
pub struct Server {
    pub up: bool,
    /// It stands still until then.
    pub paused_until: u64,
    /// How far its time of day is from the true one.
    pub wall_ms: i64,
    /// The furthest ahead that it ever was.
    pub wall_latest_ms: i64,
    pub term: Option<Term>,
    /// When it asked for the lease, until that was answered or it waits no longer.
    asked: Option<u64>,
    /// When it looks after the lease next.
    elects_at: u64,
}

/// One term of leading.
#[derive(Debug)]
pub struct Term {
    pub epoch: u64,
    pub core: Core,
    /// Until when it is sure to lead.
    pub sure_until: u64,
    reading: bool,
    /// Mutations without an answer.
    pub open: usize,
    seen: Option<Generation>,
    wake_at: Option<u64>,
    pub nodes: BTreeMap<NodeId, u64>,
    pub gateways: BTreeMap<usize, u64>,
    /// When each node was heard, on the steady clock.
    pub heard: BTreeMap<NodeId, Millis>,
    pub table: Option<Arc<RouteTable>>,
}

#[derive(Debug)]
pub enum Read {
    Page(Generation, Vec<Change>),
    Everything(Generation, Vec<Change>),
    Failed,
}

impl Sim {
    pub fn clocks(&self, s: usize) -> Now {
        let wall = WALL_BEGINS_MS + i64::try_from(self.now).unwrap_or(0) + self.servers[s].wall_ms;
        Now { wall: Timestamp::from_millis(wall), steady: self.steady() }
    }

    fn steady(&self) -> Millis {
        Millis(STEADY_BEGINS_MS + self.now)
    }

    pub fn start_server(&mut self, s: usize) {
        self.servers[s].up = true;
        let soon = self.chance.between(1, TRY_EVERY_MS);
        let life = self.lives[s];
        self.elects_after(s, soon);
        self.queue.push(self.now + soon, Event::Tick(s, life));
    }

    pub fn crash_server(&mut self, s: usize) {
        self.end_term(s);
        self.servers[s].up = false;
        self.servers[s].paused_until = 0;
        self.servers[s].asked = None;
        self.lives[s] += 1;
    }

    pub fn tick(&mut self, s: usize, life: u64) {
        if !self.servers[s].up || self.lives[s] != life {
            return;
        }
        self.queue.push(self.now + TICK.0, Event::Tick(s, life));
        let Some(epoch) = self.epoch_of(s).filter(|_| self.servers[s].term.is_some()) else {
            return;
        };
        if !self.leads(s, epoch) {
            return;
        }
        let now = self.clocks(s);
        let silent =
            |sim: &Self, id: &u64| sim.sessions[id].heard + SESSION_SILENT_MAX_MS < sim.now;
        let Some(term) = &self.servers[s].term else { return };
        let all = term.nodes.values().chain(term.gateways.values());
        let gone: Vec<u64> = all.filter(|id| silent(self, id)).copied().collect();
        gone.into_iter().for_each(|id| self.server_lets_go(id));
        let Some(term) = &mut self.servers[s].term else { return };
        let readings: Vec<_> = term
            .heard
            .iter()
            .filter(|(id, _)| term.nodes.contains_key(id))
            .map(|(id, at)| (*id, *at))
            .collect();
        term.core.heard(now, readings);
        self.turns(s);
    }

    pub fn wake(&mut self, s: usize, after: u64) {
        let at = self.now + after;
        let Some(term) = &mut self.servers[s].term else { return };
        if term.wake_at.is_none_or(|due| at < due) {
            term.wake_at = Some(at);
            let epoch = term.epoch;
            self.queue.push(at, Event::Wake { server: s, epoch });
        }
    }

    pub fn woken(&mut self, s: usize, epoch: u64) {
        if !self.leads(s, epoch) {
            return;
        }
        if let Some(term) = &mut self.servers[s].term {
            term.wake_at = None;
        }
        self.turns(s);
    }

    /// Reads until nothing is left out, then takes a turn.
    fn turns(&mut self, s: usize) {
        let head = self.store.head();
        // It may be asked at any moment: what it must not decide then, it does not.
        let early = self.chance.permille(30);
        let Some(term) = &mut self.servers[s].term else { return };
        if early {
            return self.turn(s);
        }
        if term.reading || term.open > 0 {
            return;
        }
        if term.seen == Some(head) && term.core.is_current() {
            return self.turn(s);
        }
        term.reading = true;
        let (epoch, reading) = (term.epoch, term.core.begin_read());
        let there = self.store_delay();
        self.queue.push(self.now + there, Event::Read { server: s, epoch, reading });
    }

    pub fn read(&mut self, s: usize, epoch: u64, reading: Reading) {
        let page = self.chance.between(1, 40);
        let read = if !self.store_answers(s) {
            Read::Failed
        } else {
            match self.store.since(reading.from, usize::try_from(page).unwrap_or(1)) {
                Ok((to, changes)) => Read::Page(to, changes),
                Err(_) => {
                    let (to, rows) = self.store.snapshot();
                    Read::Everything(to, rows)
                }
            }
        };
        let back = self.store_delay();
        let done = Event::ReadDone { server: s, epoch, reading, read: Box::new(read) };
        self.queue.push(self.now + back, done);
    }

    pub fn read_done(&mut self, s: usize, epoch: u64, reading: Reading, read: Read) {
        if !self.leads(s, epoch) {
            return;
        }
        let Some(term) = &mut self.servers[s].term else { return };
        term.reading = false;
        match read {
            Read::Page(to, changes) => {
                let whole = changes.is_empty();
                term.core.read(reading, to, changes, whole);
                if whole {
                    term.seen = Some(to);
                }
            }
            Read::Everything(to, rows) => term.core.read_everything(reading, to, rows),
            Read::Failed => return self.wake(s, STORE_PAUSE.0),
        }
        self.turns(s);
    }

    fn turn(&mut self, s: usize) {
        let now = self.clocks(s);
        let Some(term) = &mut self.servers[s].term else { return };
        let epoch = term.epoch;
        let turn = term.core.turn(now);
        self.counts.turns += 1;
        for member in turn.expel {
            if let Member::Node(node) = member
                && let Some(session) =
                    self.servers[s].term.as_ref().and_then(|t| t.nodes.get(&node))
            {
                let session = *session;
                self.server_lets_go(session);
            }
        }
        if let Some(publication) = turn.routes {
            let table = Arc::new(publication.table);
            let Some(term) = &mut self.servers[s].term else { return };
            term.table = Some(Arc::clone(&table));
            let sessions: Vec<u64> = term.gateways.values().copied().collect();
            for session in sessions {
                self.send_down(session, Down::Table(Box::new((*table).clone())));
            }
        }
        for send in turn.targets {
            let session =
                self.servers[s].term.as_ref().and_then(|t| t.nodes.get(&send.target.node));
            if let Some(session) = session.copied() {
                self.send_down(session, Down::Target(Box::new(send.target)));
            }
        }
        let wrote = !turn.writes.is_empty();
        for mutation in turn.writes {
            if let Some(term) = &mut self.servers[s].term {
                term.open += 1;
            }
            let there = self.store_delay();
            let commit = Event::Commit { server: s, epoch, mutation: Box::new(mutation) };
            self.queue.push(self.now + there, commit);
        }
        if !wrote && let Some(again) = turn.again {
            self.wake(s, again.0.max(1));
        }
    }

    pub fn commit(&mut self, s: usize, epoch: u64, mutation: Mutation) {
        let ticket = mutation.ticket;
        let back = self.store_delay();
        let fenced = self.store.lease.epoch != epoch || self.store.lease.holder != Some(s);
        if fenced && self.store_answers(s) {
            return self.queue.push(self.now + back, Event::Superseded { server: s, epoch });
        }
        let refused = !self.store_answers(s) || self.weather.full;
        let outcome = if refused {
            self.counts.refused += 1;
            Outcome::Failed
        } else {
            let outcome = self.commit_now(&mutation);
            // Done, and nobody hears of it.
            if self.chance.permille(self.weather.answers_lost) {
                self.counts.answers_lost += 1;
                Outcome::Failed
            } else {
                outcome
            }
        };
        self.queue.push(self.now + back, Event::Answer { server: s, epoch, ticket, outcome });
    }

    fn commit_now(&mut self, mutation: &Mutation) -> Outcome {
        let before = self.store.rows.clone();
        let (outcome, changes) = self.store.mutate(mutation);
        self.trace.fold(self.store.head().0);
        self.trace.tell(self.now, || crate::words::mutation(mutation, outcome));
        if !changes.is_empty() {
            self.counts.commits += 1;
            if matches!(mutation.what, What::Act { .. }) {
                self.acted_at = self.now;
            }
            self.after_commit(mutation, &changes, &before);
            self.everybody_looks();
        }
        outcome
    }

    /// What was committed is told to whoever follows the feed.
    pub fn everybody_looks(&mut self) {
        for s in 0..self.servers.len() {
            let after = self.chance.between(1, 20);
            self.wake(s, after);
        }
    }

    pub fn answer(&mut self, s: usize, epoch: u64, ticket: Ticket, outcome: Outcome) {
        if !self.leads(s, epoch) {
            return;
        }
        let now = self.clocks(s);
        let Some(term) = &mut self.servers[s].term else { return };
        term.open -= 1;
        term.core.wrote(ticket, outcome, now);
        self.turns(s);
    }

    /// The store says that another server leads.
    pub fn superseded(&mut self, s: usize, epoch: u64) {
        if self.is_term(s, epoch) {
            self.end_term(s);
        }
    }
}
