//! What nodes and gateways do when their time comes or a message does.

use insula_control::core::mutation::Greeting;
use insula_model::Timestamp;
use insula_wire::facts::NodeFacts;

use crate::fault::Kind;
use crate::link::{Down, Place, Up};
use crate::machine::Happened;
use crate::server::WALL_BEGINS_MS;
use crate::sim::{Event, Sim};
use crate::words::short;

const BEAT_MS: u64 = 1_000;
/// A client gives a session up in which the server missed so many heartbeats.
const UNANSWERED_MAX_MS: u64 = 3_200;

impl Sim {
    pub fn start_machine(&mut self, n: usize) {
        if self.machines[n].removed {
            return;
        }
        self.machines[n].up = true;
        self.start_agent(n);
    }

    pub fn start_agent(&mut self, n: usize) {
        if !self.machines[n].up || self.machines[n].agent || self.machines[n].removed {
            return;
        }
        let happened = self.machines[n].start_agent(self.now, &mut self.chance);
        self.happened(n, happened);
        self.queue.push(self.now + 20, Event::Beat(n));
        self.announce(n);
    }

    pub fn crash_machine(&mut self, n: usize) {
        if let Some(session) = self.machines[n].session.and_then(|id| self.sessions.get_mut(&id)) {
            // What its kernel had still to send is gone with it.
            session.up.clear();
        }
        self.machines[n].up = false;
        self.end_client(n);
        let happened = self.machines[n].crash(self.now);
        self.happened(n, happened);
    }

    pub fn crash_agent(&mut self, n: usize) {
        self.end_client(n);
        self.machines[n].crash_agent();
    }

    /// The process at the client's end is gone.
    fn end_client(&mut self, n: usize) {
        let Some(id) = self.machines[n].session.take() else { return };
        let power = self.machines[n].up;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.client_holds = false;
            let path = session.path();
            // A machine without power says nothing; a process that dies resets its connection.
            if power && self.chance.percent(70) && self.network.passes(&path, true) {
                self.server_lets_go(id);
            }
        }
    }

    pub fn client_finds_end(&mut self, id: u64) {
        let Some(session) = self.sessions.get_mut(&id).filter(|it| it.client_holds) else { return };
        session.client_holds = false;
        match session.who {
            Place::Node(n) if self.machines[n].session == Some(id) => {
                self.machines[n].session = None;
                self.machines[n].said = None;
                let soon = self.now + self.chance.between(20, 200);
                self.redial(n, soon);
            }
            Place::Gateway(g) if self.gateways[g].session == Some(id) => {
                self.gateways[g].session = None;
            }
            Place::Node(_) | Place::Gateway(_) | Place::Server(_) | Place::Store => {}
        }
    }

    fn redial(&mut self, n: usize, at: u64) {
        self.queue.push(at, Event::Machine(n));
    }

    /// Once a second, as long as the agent runs: a heartbeat, or another attempt to reach a server.
    pub fn beat(&mut self, n: usize) {
        if !self.machines[n].up || !self.machines[n].agent || self.machines[n].removed {
            return;
        }
        self.queue.push(self.now + BEAT_MS, Event::Beat(n));
        if self.machines[n].frozen {
            return;
        }
        match self.machines[n].session {
            Some(id) if self.now.saturating_sub(self.machines[n].answered) > UNANSWERED_MAX_MS => {
                // Nobody is told: whoever is at the other end may not be reached.
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.client_holds = false;
                }
                self.machines[n].session = None;
                self.machines[n].said = None;
                self.dial_node(n);
            }
            Some(id) => self.send_up(id, Up::Beat { sent: self.now }),
            None => self.dial_node(n),
        }
        self.step_node(n);
    }

    fn dial_node(&mut self, n: usize) {
        if !self.machines[n].works() || self.machines[n].session.is_some() {
            return;
        }
        if self.store.removed.contains(&self.machines[n].id) {
            return;
        }
        let Some(id) = self.dial(Place::Node(n)) else { return };
        let machine = &mut self.machines[n];
        machine.begin_session(id, self.now);
        let clock = WALL_BEGINS_MS + i64::try_from(self.now).unwrap_or(0) + machine.clock_ms;
        let facts = NodeFacts {
            offer: machine.offer.clone(),
            relay: Some(([10, 0, 1, u8::try_from(n).unwrap_or(255)], 7_000).into()),
            // A server whose own clock was set finds that of every node wrong, and places nothing: that
            // is what it should do, and would hide everything else.
            clock: (!self.setup.faults.contains(&Kind::ClockJump))
                .then(|| Timestamp::from_millis(clock)),
            site: Some(machine.site.clone()),
        };
        let greeting = Greeting { name: machine.name.clone(), version: "0.1.0".to_owned(), facts };
        let report = machine.report(self.now);
        machine.said = Some(report.clone());
        self.send_up(id, Up::Hello(Box::new(greeting)));
        self.send_up(id, Up::Report(Box::new(report)));
        self.send_up(id, Up::Beat { sent: self.now });
    }

    /// A timer of the node, or of its processes.
    pub fn machine_step(&mut self, n: usize) {
        if self.machines[n].due.is_some_and(|due| due <= self.now) {
            self.machines[n].due = None;
        }
        self.dial_node(n);
        self.step_node(n);
    }

    pub fn step_node(&mut self, n: usize) {
        let flaky = self.round.is_rough();
        let happened = self.machines[n].step(self.now, flaky, &mut self.chance);
        self.happened(n, happened);
        self.say(n);
        self.announce(n);
    }

    /// Has `step` called again when there is something to do.
    fn announce(&mut self, n: usize) {
        let Some(next) = self.machines[n].next(self.now) else { return };
        if self.machines[n].due.is_none_or(|due| next < due) {
            self.machines[n].due = Some(next);
            self.queue.push(next, Event::Machine(n));
        }
    }

    /// Reports if there is anything new.
    fn say(&mut self, n: usize) {
        if !self.machines[n].works() {
            return;
        }
        let Some(id) = self.machines[n].session else { return };
        let report = self.machines[n].report(self.now);
        if self.machines[n].said.as_ref() != Some(&report) {
            self.machines[n].said = Some(report.clone());
            self.send_up(id, Up::Report(Box::new(report)));
        }
    }

    pub fn client_hears(&mut self, id: u64, message: Down) {
        let Some(session) = self.sessions.get(&id).filter(|it| it.client_holds) else { return };
        match (session.who, message) {
            (Place::Node(n), Down::Answer { sent }) => {
                if !self.machines[n].answered(sent, self.now) {
                    self.client_finds_end(id);
                }
            }
            (Place::Node(n), Down::Target(target)) => {
                let before = self.machines[n].generation();
                let offered = target.generation;
                let Some(happened) = self.machines[n].take(*target, self.now, &mut self.chance)
                else {
                    self.trace.tell(self.now, || format!("node {n} refuses {offered}"));
                    return;
                };
                self.trace.tell(self.now, || format!("node {n} takes the Target {offered}"));
                self.after_target(n, before);
                self.happened(n, happened);
                self.say(n);
                self.announce(n);
            }
            (Place::Gateway(g), Down::Answer { .. }) => self.gateways[g].answered = self.now,
            (Place::Gateway(g), Down::Table(table)) => {
                let generation = table.generation;
                self.gateways[g].take(*table, self.now, &mut self.chance);
                self.trace.tell(self.now, || format!("gateway {g} serves {generation}"));
                self.gateway_says(g);
            }
            (Place::Node(_) | Place::Gateway(_) | Place::Server(_) | Place::Store, _) => {}
        }
    }

    fn happened(&mut self, n: usize, happened: Vec<Happened>) {
        for what in happened {
            self.trace.tell(self.now, || match what {
                Happened::Began(id) => format!("node {n}: {} starts", short(&id.to_string())),
                Happened::BecameReady(id) => {
                    format!("node {n}: {} is ready", short(&id.to_string()))
                }
                Happened::StoppedReady(id, fenced) => {
                    let why = if fenced { " (its lease is over)" } else { "" };
                    format!("node {n}: {} is stopped{why}", short(&id.to_string()))
                }
                Happened::Gone(id) => format!("node {n}: {} is gone", short(&id.to_string())),
            });
            self.after_happening(n, what);
        }
    }

    pub fn start_gateway(&mut self, g: usize) {
        self.gateways[g].up = true;
        self.queue.push(self.now + 20, Event::GatewayBeat(g));
    }

    pub fn crash_gateway(&mut self, g: usize) {
        self.gateways[g].up = false;
        if let Some(id) = self.gateways[g].session.take() {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.client_holds = false;
            }
            if self.chance.percent(70) {
                self.server_lets_go(id);
            }
        }
    }

    pub fn gateway_beat(&mut self, g: usize) {
        if !self.gateways[g].up {
            return;
        }
        self.queue.push(self.now + BEAT_MS, Event::GatewayBeat(g));
        let silent = self.now.saturating_sub(self.gateways[g].answered) > UNANSWERED_MAX_MS;
        match self.gateways[g].session {
            Some(id) if silent => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.client_holds = false;
                }
                self.gateways[g].session = None;
            }
            Some(id) => return self.send_up(id, Up::Beat { sent: self.now }),
            None => {}
        }
        if let Some(id) = self.dial(Place::Gateway(g)) {
            self.gateways[g].session = Some(id);
            self.gateways[g].answered = self.now;
            self.send_up(id, Up::GatewayHello);
        }
    }

    pub fn gateway_step(&mut self, g: usize) {
        if self.gateways[g].up {
            self.gateway_says(g);
        }
    }

    fn gateway_says(&mut self, g: usize) {
        if let Some(next) = self.gateways[g].step(self.now) {
            self.queue.push(next, Event::GatewayStep(g));
        }
        let said = self.gateways[g].says(self.now);
        if let (Some(id), Some((generation, busy))) = (self.gateways[g].session, said) {
            self.send_up(id, Up::Acked { generation, busy });
        }
    }
}
