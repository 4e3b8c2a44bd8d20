//! What sessions tell: kept until it is stored.

use insula_link::Inbound;
use insula_model::node::Ailment;
use insula_model::observed::NodeReport;
use insula_model::{EventId, NodeId, limits};

use super::flight::Cargo;
use super::mutation::{Greeting, Sight, What};
use super::{Core, Now, Session, Turn, ailments, clocks, ingest, targets, words};

/// What a report changes goes into mutations of this many rows, so that others get their turn.
const SIGHTS_PER_MUTATION_MAX: usize = 128;
/// A report tells of a handful of transitions of one instance at most.
const EVENTS_PER_SIGHT_MAX: usize = 8;

impl Core {
    /// Notes what a session told; a later `turn` has it stored.
    pub fn tell(&mut self, message: Inbound, now: Now) {
        self.acted_in_a_row = 0;
        match message {
            Inbound::NodeHello { node, name, version, facts } => {
                self.end_session(node);
                self.sessions_begun += 1;
                let clock = clocks::Seen::greeting(facts.clock, now);
                let number = self.sessions_begun;
                self.sessions.insert(node, Session { number, clock, ..Session::default() });
                self.concern.nodes.insert(node);
                self.ledger.heard(node);
                self.greetings.insert(node, Box::new(Greeting { name, version, facts }));
            }
            Inbound::NodeReport { node, report } => self.take_report(node, report),
            Inbound::NodeGone { node } => self.end_session(node),
            Inbound::GatewayHello { gateway } => {
                self.edge.hello(gateway);
                self.edge_moved = true;
            }
            Inbound::RouteAck { gateway, generation, busy } => {
                self.edge.acked(gateway, generation, busy);
                self.edge_moved = true;
            }
            Inbound::GatewayGone { gateway } => {
                self.edge.gone(gateway);
                self.edge_moved = true;
            }
        }
    }

    fn take_report(&mut self, node: NodeId, mut report: NodeReport) {
        // Of a session that has ended: the next one begins with a report.
        if !self.sessions.contains_key(&node) {
            return;
        }
        self.ledger.heard(node);
        let named = report.instances.len().max(report.builds.len());
        if named > limits::REPORT_INSTANCES_MAX {
            self.nonsense += 1;
            self.ails(node, vec![ailments::too_long(named)]);
            return;
        }
        self.ails(node, ailments::sane(&report.ailments));
        words::cut(&mut report);
        self.reports.insert(node, Box::new(report));
    }

    /// What a node says is wrong with it, all of it.
    fn ails(&mut self, node: NodeId, ailments: Vec<Ailment>) {
        if let Some(session) = self.sessions.get_mut(&node)
            && session.ailments.as_ref() != Some(&ailments)
        {
            session.ailments = Some(ailments);
            self.ailing.insert(node);
        }
    }

    pub(super) fn end_session(&mut self, node: NodeId) {
        self.sessions.remove(&node);
        self.greetings.remove(&node);
        self.reports.remove(&node);
        self.ledger.unsettle(node);
        self.look_at_presence(node);
    }

    /// Has greetings and reports stored.
    pub(super) fn take_in(&mut self, now: Now, turn: &mut Turn) {
        for (node, greeting) in std::mem::take(&mut self.greetings) {
            let Some(session) = self.sessions.get(&node).map(|s| s.number) else { continue };
            if !self.allowances.has_some(node, now.steady) {
                self.greetings.insert(node, greeting);
                continue;
            }
            let event = self.event_id(now);
            let what = What::Greet { node, greeting: greeting.clone(), event };
            let flight = self.fly(Cargo::Greeting { node, session, greeting });
            self.write(flight, what, now, turn);
        }
        for (node, report) in std::mem::take(&mut self.reports) {
            let Some(session) = self.sessions.get(&node) else { continue };
            // Its greeting comes first: a node without a row holds nothing. What comes too thick waits.
            if !self.world.nodes.contains_key(&node) || !self.allowances.has_some(node, now.steady)
            {
                self.reports.insert(node, report);
                continue;
            }
            let number = session.number;
            let asked = session.sent.as_ref().map(targets::Sent::asked);
            // It may answer the Target that is still to be sent: a node that holds that very one
            // has nothing new to say when it comes. So it is read once more after that.
            if asked.is_none() {
                self.reports.insert(node, report.clone());
            }
            let understood = ingest::report(&self.world, node, &report, asked, now.wall);
            self.nonsense += understood.nonsense as u64;
            if understood.seen.is_empty() {
                if understood.answers {
                    self.settle(node);
                }
                continue;
            }
            let flight = self.fly(Cargo::Report {
                node,
                session: number,
                report,
                settles: understood.answers,
                rows: understood.seen.len(),
            });
            let sights: Vec<Sight> = understood
                .seen
                .into_iter()
                .map(|seen| Sight { events: self.event_ids(&seen, now), seen })
                .collect();
            for part in sights.chunks(SIGHTS_PER_MUTATION_MAX) {
                let what = What::Saw { node, seen: part.to_vec() };
                self.write(flight, what, now, turn);
            }
        }
    }

    fn event_ids(&self, seen: &ingest::Seen, now: Now) -> Vec<EventId> {
        let count = match seen {
            ingest::Seen::Instance { told, .. } => told.len().min(EVENTS_PER_SIGHT_MAX),
            ingest::Seen::Build { .. } => 1,
            ingest::Seen::Turn { .. } => 0,
        };
        (0..count).map(|_| self.event_id(now)).collect()
    }
}
