//! What goes wrong, for how long, and how it ends.

use crate::link::Place;
use crate::sim::{Event, Sim};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    AgentCrash,
    MachineCrash,
    MachinePause,
    ServerCrash,
    ServerPause,
    ClockJump,
    GatewayCrash,
    /// Between a node or a gateway and one server.
    Partition,
    /// One direction of the same.
    OneWay,
    /// All nodes from all servers.
    AllCutOff,
    ServersApart,
    StoreAway,
    StoreDown,
    StoreFull,
    StoreSlow,
    AnswersLost,
    FeedTrimmed,
    SlowNetwork,
    Breaks,
    Doubles,
    Exit,
    Unready,
}

impl Kind {
    pub const ALL: [Self; 22] = [
        Self::AgentCrash,
        Self::MachineCrash,
        Self::MachinePause,
        Self::ServerCrash,
        Self::ServerPause,
        Self::ClockJump,
        Self::GatewayCrash,
        Self::Partition,
        Self::OneWay,
        Self::AllCutOff,
        Self::ServersApart,
        Self::StoreAway,
        Self::StoreDown,
        Self::StoreFull,
        Self::StoreSlow,
        Self::AnswersLost,
        Self::FeedTrimmed,
        Self::SlowNetwork,
        Self::Breaks,
        Self::Doubles,
        Self::Exit,
        Self::Unready,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::AgentCrash => "agent crash",
            Self::MachineCrash => "machine crash",
            Self::MachinePause => "machine pause",
            Self::ServerCrash => "server crash",
            Self::ServerPause => "server pause",
            Self::ClockJump => "clock jump",
            Self::GatewayCrash => "gateway crash",
            Self::Partition => "partition, both ways",
            Self::OneWay => "partition, one way",
            Self::AllCutOff => "all nodes cut off",
            Self::ServersApart => "servers apart",
            Self::StoreAway => "store away from a server",
            Self::StoreDown => "store down",
            Self::StoreFull => "disk full",
            Self::StoreSlow => "slow commits",
            Self::AnswersLost => "answers lost",
            Self::FeedTrimmed => "feed trimmed",
            Self::SlowNetwork => "slow network",
            Self::Breaks => "sessions break",
            Self::Doubles => "messages twice",
            Self::Exit => "process ends",
            Self::Unready => "probe fails",
        }
    }
}

/// How the store fares.
#[derive(Debug, Default)]
pub struct Weather {
    pub down: bool,
    pub full: bool,
    /// The most that a commit takes beyond the usual, in milliseconds.
    pub slow: u64,
    /// Commits in a thousand that are done without anybody hearing of it.
    pub answers_lost: u64,
}

/// One that lasts, and what undoes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Agent(usize),
    Machine(usize),
    Frozen(usize),
    Server(usize),
    Gateway(usize),
    Blocked(Vec<(Place, Place)>),
    StoreDown,
    StoreFull,
    StoreSlow,
    AnswersLost,
    SlowNetwork,
    Breaks,
    Doubles,
}

impl Sim {
    pub fn counts_fault(&mut self, kind: &'static str) {
        *self.counts.faults.entry(kind).or_default() += 1;
    }

    /// Something goes wrong, and the next one is arranged for.
    pub fn inject(&mut self) {
        if !self.round.is_rough() {
            return;
        }
        let pause = self.chance.between(1, self.setup.fault_every * 2);
        self.queue.push(self.now + pause, Event::Fault);
        let kinds: Vec<Kind> = self.setup.faults.iter().copied().collect();
        let Some(kind) = self.chance.pick(&kinds).copied() else { return };
        let Some(fault) = self.begin(kind) else { return };
        self.counts_fault(kind.as_str());
        self.trace.tell(self.now, || format!("fault: {} {fault:?}", kind.as_str()));
        if let Some(fault) = fault {
            let longest = *self.chance.pick(&[3_000, 12_000, 60_000]).unwrap_or(&3_000);
            let lasts = self.chance.between(200, longest);
            self.faults.push(fault.clone());
            self.queue.push(self.now + lasts, Event::Heal(Box::new(fault)));
        }
    }

    fn sides(&mut self) -> (Place, Place) {
        let s = Place::Server(self.chance.below(self.servers.len()));
        if self.chance.percent(80) {
            (Place::Node(self.chance.below(self.machines.len())), s)
        } else {
            (Place::Gateway(self.chance.below(self.gateways.len())), s)
        }
    }

    fn block(&mut self, pairs: Vec<(Place, Place)>) -> Fault {
        pairs.iter().for_each(|(from, to)| self.network.block(*from, *to));
        Fault::Blocked(pairs)
    }

    /// Nothing: it cannot happen now. Nothing inside: it is over at once.
    #[allow(clippy::option_option)] // The two kinds of nothing are said above.
    fn begin(&mut self, kind: Kind) -> Option<Option<Fault>> {
        let n = self.chance.below(self.machines.len());
        let s = self.chance.below(self.servers.len());
        let g = self.chance.below(self.gateways.len());
        let is_on = |sim: &Self, fault: &Fault| sim.faults.contains(fault);
        let there = self.machines[n].up && !self.machines[n].removed;
        let lasting = match kind {
            Kind::AgentCrash if there && self.machines[n].agent => {
                self.crash_agent(n);
                Fault::Agent(n)
            }
            Kind::MachineCrash if there => {
                self.crash_machine(n);
                Fault::Machine(n)
            }
            Kind::MachinePause if there && !self.machines[n].frozen => {
                self.machines[n].frozen = true;
                Fault::Frozen(n)
            }
            Kind::ServerCrash if self.servers[s].up => {
                self.crash_server(s);
                Fault::Server(s)
            }
            Kind::ServerPause if self.servers[s].up => {
                let until = self.now + self.chance.between(300, 20_000);
                // What it has still to hear lies there until then: in calm nobody stands still.
                self.servers[s].paused_until = until.min(self.round.rough_until());
                return Some(None);
            }
            Kind::ClockJump => {
                let far = *self.chance.pick(&[500, 30_000, 3_600_000]).unwrap_or(&500);
                let by = i64::try_from(self.chance.between(0, 2 * far)).unwrap_or(0);
                let server = &mut self.servers[s];
                server.wall_ms = by - i64::try_from(far).unwrap_or(0);
                server.wall_latest_ms = server.wall_latest_ms.max(server.wall_ms);
                return Some(None);
            }
            Kind::GatewayCrash if self.gateways[g].up => {
                self.crash_gateway(g);
                Fault::Gateway(g)
            }
            Kind::Partition => {
                let (a, b) = self.sides();
                self.block(vec![(a, b), (b, a)])
            }
            Kind::OneWay => {
                let (a, b) = self.sides();
                let pair = if self.chance.percent(50) { (a, b) } else { (b, a) };
                self.block(vec![pair])
            }
            Kind::AllCutOff => {
                let nodes = (0..self.machines.len()).map(Place::Node);
                let pairs = nodes.flat_map(|n| {
                    (0..self.servers.len()).map(Place::Server).flat_map(move |s| [(n, s), (s, n)])
                });
                let pairs = pairs.collect();
                self.block(pairs)
            }
            Kind::ServersApart if self.servers.len() > 1 => {
                let (a, b) = (Place::Server(s), Place::Server((s + 1) % self.servers.len()));
                self.block(vec![(a, b), (b, a)])
            }
            Kind::StoreAway => {
                let (a, b) = (Place::Server(s), Place::Store);
                self.block(vec![(a, b), (b, a)])
            }
            Kind::StoreDown if !is_on(self, &Fault::StoreDown) => {
                self.weather.down = true;
                Fault::StoreDown
            }
            Kind::StoreFull if !is_on(self, &Fault::StoreFull) => {
                self.weather.full = true;
                Fault::StoreFull
            }
            Kind::StoreSlow if !is_on(self, &Fault::StoreSlow) => {
                self.weather.slow = self.chance.between(50, 2_500);
                Fault::StoreSlow
            }
            Kind::AnswersLost if !is_on(self, &Fault::AnswersLost) => {
                self.weather.answers_lost = self.chance.between(20, 400);
                Fault::AnswersLost
            }
            Kind::FeedTrimmed => {
                self.store.trim();
                return Some(None);
            }
            Kind::SlowNetwork if !is_on(self, &Fault::SlowNetwork) => {
                self.network.slow = self.chance.between(50, 2_500);
                Fault::SlowNetwork
            }
            Kind::Breaks if !is_on(self, &Fault::Breaks) => {
                self.network.breaks = self.chance.between(5, 100);
                Fault::Breaks
            }
            Kind::Doubles if !is_on(self, &Fault::Doubles) => {
                self.network.doubles = self.chance.between(50, 500);
                Fault::Doubles
            }
            Kind::Exit | Kind::Unready if there => {
                let held: Vec<_> = self.machines[n].held.keys().copied().collect();
                let id = self.chance.pick(&held).copied()?;
                if kind == Kind::Exit {
                    self.machines[n].kill(id, self.now).then_some(())?;
                } else {
                    let until = self.now + self.chance.between(500, 8_000);
                    self.machines[n].held.get_mut(&id)?.unready_until = until;
                }
                self.step_node(n);
                return Some(None);
            }
            Kind::AgentCrash
            | Kind::MachineCrash
            | Kind::MachinePause
            | Kind::ServerCrash
            | Kind::ServerPause
            | Kind::GatewayCrash
            | Kind::ServersApart
            | Kind::StoreDown
            | Kind::StoreFull
            | Kind::StoreSlow
            | Kind::AnswersLost
            | Kind::SlowNetwork
            | Kind::Breaks
            | Kind::Doubles
            | Kind::Exit
            | Kind::Unready => return None,
        };
        Some(Some(lasting))
    }

    /// Ends a fault, unless that was done already.
    pub fn heal(&mut self, fault: Fault) {
        let Some(at) = self.faults.iter().position(|it| *it == fault) else { return };
        self.faults.remove(at);
        self.trace.tell(self.now, || format!("over: {fault:?}"));
        match fault {
            Fault::Agent(n) => self.start_agent(n),
            Fault::Machine(n) => self.start_machine(n),
            Fault::Frozen(n) => {
                self.machines[n].frozen = false;
                self.step_node(n);
            }
            Fault::Server(s) => self.start_server(s),
            Fault::Gateway(g) => self.start_gateway(g),
            Fault::Blocked(pairs) => {
                pairs.into_iter().for_each(|(from, to)| self.network.unblock(from, to));
            }
            Fault::StoreDown => self.weather.down = false,
            Fault::StoreFull => self.weather.full = false,
            Fault::StoreSlow => self.weather.slow = 0,
            Fault::AnswersLost => self.weather.answers_lost = 0,
            Fault::SlowNetwork => self.network.slow = 0,
            Fault::Breaks => self.network.breaks = 0,
            Fault::Doubles => self.network.doubles = 0,
        }
    }

    /// Ends all of them, but for a machine that stays dead now and then.
    pub fn heal_all(&mut self) {
        // Clocks are set right, to what was written last: a row of the future would be waited for as
        // long as clocks were apart, which is as the product has it and nothing to wait for here.
        let latest = self.servers.iter().map(|server| server.wall_latest_ms).max().unwrap_or(0);
        for server in &mut self.servers {
            server.wall_ms = latest;
        }
        let mut spared =
            !self.chance.percent(25) || self.machines.iter().filter(|m| m.up).count() < 2;
        for fault in self.faults.clone() {
            if !spared && matches!(fault, Fault::Machine(_)) {
                spared = true;
                self.faults.retain(|it| *it != fault);
                continue;
            }
            self.heal(fault);
        }
    }
}
