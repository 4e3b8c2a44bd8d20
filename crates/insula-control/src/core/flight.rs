//! Mutations under way, and what is done once they were answered.

use std::sync::Arc;

use insula_model::fleet::Member;
use insula_model::observed::NodeReport;
use insula_model::{Millis, NodeId};

use super::allowance::GREETING_ROWS;
use super::mutation::{Greeting, Mutation, Outcome, Ticket, What};
use super::report::Reconciler;
use super::{Core, Now, STORE_PAUSE, Turn};

/// What is being stored: one or more mutations.
#[derive(Debug)]
pub(super) struct Flight {
    cargo: Cargo,
    /// Mutations without an answer yet.
    open: usize,
    failed: bool,
}

#[derive(Debug)]
pub(super) enum Cargo {
    Greeting {
        node: NodeId,
        session: u64,
        greeting: Box<Greeting>,
    },
    /// `settles`: it answered the Target that was sent.
    Report {
        node: NodeId,
        session: u64,
        report: Box<NodeReport>,
        settles: bool,
        rows: usize,
    },
    Ailments {
        node: NodeId,
    },
    Actions {
        steps: usize,
    },
}

impl Core {
    /// What became of a mutation.
    pub fn wrote(&mut self, ticket: Ticket, outcome: Outcome, now: Now) {
        let Some(number) = self.open.remove(&ticket) else { return };
        self.answered += 1;
        let Some(flight) = self.flights.get_mut(&number) else { return };
        flight.open -= 1;
        match outcome {
            Outcome::Done => {}
            Outcome::Overtaken => match flight.cargo {
                Cargo::Actions { steps } => self.singly |= steps > 1,
                // The store knows it as removed for ever.
                Cargo::Greeting { node, .. } => self.concern.removed.push(Member::Node(node)),
                Cargo::Report { .. } | Cargo::Ailments { .. } => {}
            },
            Outcome::Failed => {
                flight.failed = true;
                let report = self.status.entry(Reconciler::Deployments).or_default();
                report.error = Some("the store did not take what was to be written".to_owned());
                self.resume = Some(Millis(now.steady.0 + STORE_PAUSE.0));
                if let Cargo::Actions { steps } = flight.cargo {
                    self.singly |= steps > 1;
                }
            }
        }
        if flight.open == 0
            && let Some(flight) = self.flights.remove(&number)
        {
            self.landed(flight, now);
        }
    }

    /// Everything of a flight was answered.
    fn landed(&mut self, flight: Flight, now: Now) {
        match flight.cargo {
            Cargo::Greeting { node, session, greeting } => {
                if !flight.failed {
                    self.allowances.spend(node, GREETING_ROWS, now.steady);
                } else if self.is_session(node, session) {
                    self.greetings.entry(node).or_insert(greeting);
                }
            }
            Cargo::Report { node, session, report, settles, rows } => {
                // A store that is away costs nobody anything.
                if !flight.failed {
                    self.allowances.spend(node, rows, now.steady);
                }
                if !self.is_session(node, session) {
                    return;
                }
                if flight.failed {
                    // A newer one says it all.
                    self.reports.entry(node).or_insert(report);
                } else if settles {
                    self.settle(node);
                }
            }
            Cargo::Ailments { node } => drop(self.ailing.insert(node)),
            Cargo::Actions { .. } => {}
        }
    }

    pub(super) fn fly(&mut self, cargo: Cargo) -> u64 {
        self.tickets += 1;
        self.flights.insert(self.tickets, Flight { cargo, open: 0, failed: false });
        self.tickets
    }

    pub(super) fn write(&mut self, number: u64, what: What, now: Now, turn: &mut Turn) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        if let Some(flight) = self.flights.get_mut(&number) {
            flight.open += 1;
        }
        self.open.insert(ticket, number);
        let world = Arc::clone(&self.world);
        turn.writes.push(Mutation { ticket, world, at: now.wall, what });
    }
}
