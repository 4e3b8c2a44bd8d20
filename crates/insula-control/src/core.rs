//! The control plane's decisions, without I/O: no store, no sockets, no clock, no tasks.
//!
//! What happened goes in (`tell`, `heard`, `read`, `wrote`), what is to be done comes out (`turn`).
//! Whoever drives it moves data and nothing else: the server's loop between the hub and the store,
//! a simulation between its own. The same calls in the same order with the same random bytes give
//! the same answers.
//!
//! Its laws:
//! - What was told stays until it is stored.
//! - That something is not there is believed only of a report that answers the Target that was sent,
//!   and only of what had been placed by then.
//! - Nothing is decided on a World that is older than the last answer to a write: `turn` yields no
//!   write until every mutation was answered and the feed was read after that.
//! - Every write names the state that it starts from.

mod ailments;
mod allowance;
mod clocks;
mod concern;
mod deployments;
mod edge;
mod flight;
pub mod ingest;
pub mod mutation;
mod nodes;
pub mod presence;
pub mod report;
mod routes;
mod safety;
mod targets;
mod told;
mod vigil;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use insula_kit::random::Random;
use insula_model::feed::Change;
use insula_model::fleet::Member;
use insula_model::node::Ailment;
use insula_model::observed::NodeReport;
use insula_model::routes::{Route, RouteTable};
use insula_model::target::NodeTarget;
use insula_model::{
    AppId, EventId, Generation, HostName, ID_RANDOM_BYTES, Millis, NodeId, NodeName, Timestamp,
};
use insula_plan::{Due, Measured, Plan, Rules, View, World};

use allowance::Allowances;
use clocks::Clocks;
use concern::{Concern, Environments};
use edge::EdgeLedger;
use flight::Flight;
use mutation::{Greeting, Mutation, Ticket};
use presence::Ledger;
use report::{Pass, Reconciler, Reports, Status};
use vigil::Vigil;

/// After a failure of the store, before the next try.
pub const STORE_PAUSE: Millis = Millis(500);
/// Turns in a row that act without anybody having told anything new. A plan that never comes to
/// rest must not keep the machine busy.
pub const TURNS_IN_A_ROW_MAX: usize = 32;
/// Between looks at everything: what the incremental passes missed is found by then.
pub const SAFETY_INTERVAL: Millis = Millis::secs(60);
/// Between looks at presence for those who look at a steady pace and do not ask `listen_at`, and
/// between turns while anything is left that no timer and nobody's word brings back.
pub const TICK: Millis = Millis(250);

/// What does not change while a core lives.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every app answers at its name under this.
    pub suffix: HostName,
    pub rules: Rules,
    /// For nodes to return before their silence counts.
    pub grace: Millis,
    /// Counts microseconds, for the operator to see how long a pass took. Nothing is decided by it;
    /// a simulation has none.
    pub stopwatch: Option<fn() -> u64>,
}

impl Settings {
    pub fn new(suffix: HostName) -> Self {
        Self { suffix, rules: Rules::default(), grace: presence::RETURN_GRACE, stopwatch: None }
    }
}

/// The two clocks. The first may be set by anybody; the second never jumps, and begins anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub wall: Timestamp,
    pub steady: Millis,
}

/// A read of the feed under way: where it begins, and which writes had been answered before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub from: Generation,
    answered: u64,
}

/// What is to be done now.
#[derive(Debug, Default)]
pub struct Turn {
    /// Each is answered with `wrote`, in any order.
    pub writes: Vec<Mutation>,
    /// What nodes should hold; `not_sent` says that one did not go.
    pub targets: Vec<Send>,
    /// What gateways should serve, if that changed.
    pub routes: Option<Publication>,
    /// Whose sessions end: they were removed.
    pub expel: Vec<Member>,
    /// When to come back if nothing happens, in milliseconds.
    pub again: Option<Millis>,
}

/// A Target for a node. The shell adds the newest values of the secrets that it names.
#[derive(Debug, Clone, PartialEq)]
pub struct Send {
    pub target: NodeTarget,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    pub table: RouteTable,
    /// So that one trace runs through a whole deployment, to the edge.
    pub trace: String,
}

/// A node with a session.
#[derive(Debug, Default)]
struct Session {
    /// Tells sessions of one node apart.
    number: u64,
    /// What it says is wrong with it; nothing before its first report.
    ailments: Option<Vec<Ailment>>,
    clock: clocks::Seen,
    sent: Option<targets::Sent>,
}

pub struct Core {
    settings: Settings,
    random: Arc<dyn Random>,
    world: Arc<World>,
    plan: Arc<Plan>,
    environments: Environments,
    ledger: Ledger,
    edge: EdgeLedger,
    /// What the gateways serve may be another than the World says.
    edge_moved: bool,
    sessions: BTreeMap<NodeId, Session>,
    greetings: BTreeMap<NodeId, Box<Greeting>>,
    reports: BTreeMap<NodeId, Box<NodeReport>>,
    allowances: Allowances,
    concern: Concern,
    /// Nodes whose ailments have to be compared with what is stored.
    ailing: BTreeSet<NodeId>,
    clocks: Clocks,
    contested: BTreeMap<NodeId, String>,
    /// What was published last, and what it is made of.
    table: Option<RouteTable>,
    parts: BTreeMap<AppId, Vec<Route>>,
    due: Due,
    vigil: Vigil,
    /// The last bundle of steps did not go through: each app's go alone, so that one that cannot be
    /// done does not hold up the others.
    singly: bool,
    /// Which flight each mutation without an answer belongs to.
    open: BTreeMap<Ticket, u64>,
    flights: BTreeMap<u64, Flight>,
    /// Counters: tickets given out, sessions begun, mutations answered.
    tickets: u64,
    sessions_begun: u64,
    answered: u64,
    /// The `answered` that the World is at least as new as.
    current_as_of: Option<u64>,
    /// Nothing is written before this, on the steady clock: the store failed.
    resume: Option<Millis>,
    acted_in_a_row: usize,
    /// The last turn stored what was told: this one decides, whatever was told since.
    took_in: bool,
    /// Rows came in since the World let go of what nothing needs.
    unpruned: bool,
    looked_at_everything: Option<Millis>,
    safety: safety::Safety,
    nonsense: u64,
    status: Reports,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("generation", &self.world.generation).finish_non_exhaustive()
    }
}

impl Core {
    /// Begins with everything that the store has.
    pub fn new(
        settings: Settings,
        random: Arc<dyn Random>,
        (generation, rows): (Generation, Vec<Change>),
        now: Now,
    ) -> Self {
        let mut world = World::new(settings.suffix.clone());
        world.rules = settings.rules;
        world.since = now.wall;
        let ledger = Ledger::new(settings.rules.heartbeat, settings.grace, now.steady);
        let clocks = Clocks::new(settings.grace, now);
        let plan = insula_plan::blank(settings.suffix.clone()).1.clone();
        let mut core = Self {
            settings,
            random,
            world: Arc::new(world),
            plan,
            environments: Environments::default(),
            ledger,
            edge: EdgeLedger::default(),
            edge_moved: false,
            sessions: BTreeMap::new(),
            greetings: BTreeMap::new(),
            reports: BTreeMap::new(),
            allowances: Allowances::default(),
            concern: Concern::default(),
            ailing: BTreeSet::new(),
            clocks,
            contested: BTreeMap::new(),
            table: None,
            parts: BTreeMap::new(),
            due: Due::default(),
            vigil: Vigil::default(),
            singly: false,
            open: BTreeMap::new(),
            flights: BTreeMap::new(),
            tickets: 0,
            sessions_begun: 0,
            answered: 0,
            current_as_of: None,
            resume: None,
            acted_in_a_row: 0,
            took_in: false,
            unpruned: false,
            looked_at_everything: Some(now.steady),
            safety: safety::Safety::default(),
            nonsense: 0,
            status: Reports::new(),
        };
        core.take_snapshot(generation, rows);
        let found: Vec<AppId> = core.world.pending_apps().collect();
        core.watch(found, now, false);
        core.current_as_of = Some(0);
        core
    }

    /// When to call `heard` again, on the steady clock.
    pub fn listen_at(&self) -> Millis {
        self.ledger.look_at()
    }

    /// Whose sessions it then has to be told of.
    pub fn awaited(&self, now: Now) -> impl Iterator<Item = NodeId> {
        self.ledger.awaited(now.steady)
    }

    /// Lets time pass, with what the sessions say of when nodes were heard last, on the steady
    /// clock: the awaited ones, or all.
    pub fn heard(&mut self, now: Now, readings: impl IntoIterator<Item = (NodeId, Millis)>) {
        let mut pass = self.pass();
        let changed = self.ledger.look(now.steady, readings);
        for node in &changed {
            self.look_at_presence(*node);
        }
        pass.did("presence changed", changed.len());
        let waiting = self.status.entry(Reconciler::Nodes).or_default();
        if changed.is_empty() && waiting.passes > 0 {
            pass.waits.clone_from(&waiting.waits);
            pass.waiting = waiting.waiting;
        } else {
            let silent = self.world.nodes.values().filter(|node| !self.world.is_here(node.id));
            silent.for_each(|node| pass.wait(|| silence(&node.name)));
        }
        self.note(Reconciler::Nodes, pass, now);
    }

    /// What the nodes use in truth. Only a step that matters changes the World.
    pub fn used(&mut self, readings: impl IntoIterator<Item = (NodeId, Measured)>) {
        for (node, used) in readings {
            let Some(row) = self.world.nodes.get(&node) else { continue };
            let coarse = nodes::coarse(&row.offer.capacity, used, self.world.measured.get(&node));
            if self.world.measured.get(&node) != Some(&coarse) {
                self.world_mut().measured.insert(node, coarse);
            }
        }
    }

    /// Nodes as which more than one machine speaks, all of them, and where these call from.
    pub fn contested(&mut self, contested: BTreeMap<NodeId, String>) {
        if self.contested == contested {
            return;
        }
        self.ailing.extend(self.contested.keys().chain(contested.keys()));
        self.contested = contested;
    }

    /// Whether the World is as new as the last answer to a write.
    pub fn is_current(&self) -> bool {
        self.flights.is_empty() && self.current_as_of == Some(self.answered)
    }

    /// To be called before a read of the feed begins. The read goes on after `Reading::from`.
    pub fn begin_read(&self) -> Reading {
        Reading { from: self.world.generation, answered: self.answered }
    }

    /// What the feed told. `whole`: nothing was left out.
    pub fn read(&mut self, reading: Reading, to: Generation, changes: Vec<Change>, whole: bool) {
        // Two reads under way: the second one to arrive begins where the first did.
        if reading.from != self.world.generation {
            return;
        }
        let any = !changes.is_empty();
        for change in changes {
            let world = Arc::make_mut(&mut self.world);
            self.concern.change(world, &mut self.environments, &change);
            self.due.change(world, &change);
            if let Change::Node(row) = &change {
                self.ledger.know(row.id);
                self.ailing.insert(row.id);
            }
            if let Change::NodeGone(id) = &change {
                self.ledger.forget(*id);
            }
            world.apply(change);
        }
        if self.world.generation != to {
            self.world_mut().generation = to;
        }
        if whole {
            self.current_as_of = Some(reading.answered);
        }
        self.unpruned |= any;
        // Not before: a page may end between a row and the one that needs it.
        if whole && std::mem::take(&mut self.unpruned) {
            self.world_mut().prune();
        }
    }

    /// Everything that the store has, after the feed could not go on.
    pub fn read_everything(&mut self, reading: Reading, to: Generation, rows: Vec<Change>) {
        self.take_snapshot(to, rows);
        self.current_as_of = Some(reading.answered);
    }

    fn take_snapshot(&mut self, generation: Generation, rows: Vec<Change>) {
        let mut world = World::new(self.settings.suffix.clone());
        rows.into_iter().for_each(|change| world.apply(change));
        world.generation = generation;
        world.since = self.world.since;
        world.edge = self.world.edge.clone();
        world.rules = self.settings.rules;
        world.measured = self.world.measured.clone();
        world.watched = self.world.watched.clone();
        world.prune();
        self.environments = Environments::of(&world);
        for known in self.ledger.nodes().collect::<Vec<_>>() {
            if !world.nodes.contains_key(&known) && self.world.nodes.contains_key(&known) {
                self.concern.removed.push(Member::Node(known));
                self.ledger.forget(known);
            }
        }
        world.nodes.keys().for_each(|node| self.ledger.know(*node));
        for node in self.ledger.nodes() {
            world.heard.insert(node, self.ledger.presence(node));
        }
        self.world = Arc::new(world);
        // Which secrets changed in the gap is not known: everything is sent again.
        for session in self.sessions.values_mut() {
            session.sent = None;
        }
        self.concern.everything();
        self.due = Due::default();
        self.due.everything(&self.world);
    }

    fn is_session(&self, node: NodeId, number: u64) -> bool {
        self.sessions.get(&node).is_some_and(|session| session.number == number)
    }

    /// The node has said what it holds.
    fn settle(&mut self, node: NodeId) {
        if self.world.is_here(node) {
            return;
        }
        self.ledger.settle(node);
        self.look_at_presence(node);
    }

    /// A Target did not go: its secrets could not be read, say.
    pub fn not_sent(&mut self, node: NodeId, now: Now) {
        if let Some(session) = self.sessions.get_mut(&node) {
            session.sent = None;
        }
        self.concern.nodes.insert(node);
        self.resume = Some(Millis(now.steady.0 + STORE_PAUSE.0));
    }

    /// The routes were not published.
    pub fn not_published(&mut self, now: Now) {
        self.table = None;
        self.resume = Some(Millis(now.steady.0 + STORE_PAUSE.0));
    }

    /// What to do now. Yields nothing to write while the World is not current: first every mutation
    /// is answered and the feed is read.
    pub fn turn(&mut self, now: Now) -> Turn {
        let mut turn = Turn { expel: self.expel(), ..Turn::default() };
        if std::mem::take(&mut self.edge_moved) {
            self.look_at_edge();
        }
        if !self.is_current() {
            return turn;
        }
        if let Some(resume) = self.resume {
            if now.steady < resume {
                turn.again = Some(Millis(resume.0 - now.steady.0));
                return turn;
            }
            self.resume = None;
        }
        // What was told comes first, but not for ever: whoever tells without end must not keep the
        // rest waiting.
        let decides = std::mem::take(&mut self.took_in);
        if !decides {
            self.take_in(now, &mut turn);
        }
        if turn.writes.is_empty() {
            self.look_at_everything(now);
            self.pass_routes(now, &mut turn);
            self.pass_targets(now, &mut turn);
            self.pass_nodes(now, &mut turn);
            self.pass_deployments(now, &mut turn);
            if decides && turn.writes.is_empty() {
                self.take_in(now, &mut turn);
                self.took_in = !turn.writes.is_empty();
            }
        } else {
            self.took_in = true;
        }
        // Reports that were read before there was a Target: now there is one that they may answer.
        if turn.targets.iter().any(|send| self.reports.contains_key(&send.target.node)) {
            turn.again = Some(Millis(0));
        } else if self.is_unfinished() {
            turn.again = Some(turn.again.map_or(TICK, |again| again.min(TICK)));
        }
        turn
    }

    /// Whether anything waits for a turn that neither a timer nor anybody's word brings: reports of
    /// nodes that have used up what they may change, or that are read again once their Target went;
    /// nodes that the look at everything has not come to.
    fn is_unfinished(&self) -> bool {
        !self.greetings.is_empty() || !self.reports.is_empty() || !self.safety.is_done()
    }

    fn expel(&mut self) -> Vec<Member> {
        let removed = std::mem::take(&mut self.concern.removed);
        for member in &removed {
            if let Member::Node(node) = member {
                self.end_session(*node);
            }
        }
        removed
    }

    /// Once in a while everything is looked at, as if nothing had been noted.
    fn look_at_everything(&mut self, now: Now) {
        let due = self
            .looked_at_everything
            .is_none_or(|last| now.steady.0.saturating_sub(last.0) >= SAFETY_INTERVAL.0);
        if !due {
            return;
        }
        self.looked_at_everything = Some(now.steady);
        self.allowances.prune(now.steady);
        // Nodes one after the other, see `pass_targets`.
        self.safety = safety::Safety::of(self.sessions.keys().copied());
        self.concern.every_route = true;
        self.due.everything(&self.world);
    }

    fn event_id(&self, now: Now) -> EventId {
        EventId::from_parts(now.wall, self.random_bytes())
    }

    fn random_bytes(&self) -> [u8; ID_RANDOM_BYTES] {
        let mut bytes = [0; ID_RANDOM_BYTES];
        self.random.fill(&mut bytes);
        bytes
    }

    fn look_at_edge(&mut self) {
        let edge = self.edge.view();
        if edge != self.world.edge {
            self.world_mut().edge = edge;
            self.due.edge(&self.world);
        }
    }

    /// Whether what the World says of a node's presence has changed.
    fn look_at_presence(&mut self, node: NodeId) -> bool {
        let presence = self.ledger.presence(node);
        let changed =
            self.world.presence(node) != presence || !self.world.heard.contains_key(&node);
        if changed && self.world.nodes.contains_key(&node) {
            let was_here = self.world.is_here(node);
            self.world_mut().heard.insert(node, presence);
            self.due.presence(&self.world, node);
            // One that was lost and is here again counts as neither, before its mark is gone.
            let marked = self.world.nodes.get(&node).is_some_and(|row| row.lost.is_some());
            if marked && was_here != self.world.is_here(node) {
                self.concern.reached(&self.world, node);
            }
        }
        changed
    }

    /// Copies what is changed of the world, if a view still holds it.
    fn world_mut(&mut self) -> &mut World {
        Arc::make_mut(&mut self.world)
    }

    fn note(&mut self, reconciler: Reconciler, mut pass: Pass, now: Now) {
        if let Some(began) = pass.began_micros {
            pass.took_micros = self.stopwatch().saturating_sub(began);
        }
        self.status.entry(reconciler).or_default().note(pass, now.wall);
    }

    /// A pass that begins now.
    fn pass(&self) -> Pass {
        Pass { began_micros: Some(self.stopwatch()), ..Pass::default() }
    }

    fn stopwatch(&self) -> u64 {
        self.settings.stopwatch.map_or(0, |count| count())
    }

    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// What was seen and decided last.
    pub fn view(&self) -> View {
        Arc::new((Arc::clone(&self.world), Arc::clone(&self.plan)))
    }

    /// What the operator sees, but for what only the shell knows: who leads, and the servers.
    pub fn status(&self, now: Now) -> Status {
        let mut nodes = BTreeMap::new();
        for node in self.world.nodes.values() {
            *nodes.entry(insula_plan::nodes::state(&self.world, node)).or_default() += 1;
        }
        Status {
            at: Some(now.wall),
            reports: self.status.clone(),
            nodes,
            gateways: self.world.edge.gateways,
            instances: self.world.instances.len(),
            heartbeat_lag: self.ledger.lag(),
            nonsense: self.nonsense,
            unstored: self.greetings.len() + self.reports.len() + self.flights.len(),
            ..Status::default()
        }
    }
}

fn silence(name: &NodeName) -> String {
    format!("{name} is not connected or has not said what it holds")
}
