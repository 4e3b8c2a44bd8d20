//! The server's end of sessions: what is told to the core.

use insula_link::Inbound;

use crate::link::{Down, Place, Up};
use crate::sim::Sim;

impl Sim {
    /// A message of a session has reached its leader.
    pub fn server_hears(&mut self, id: u64, message: Up) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let (s, epoch, who) = (session.server, session.epoch, session.who);
        session.heard = self.now;
        if !self.leads(s, epoch) || !self.sessions.get(&id).is_some_and(|it| it.server_holds) {
            return;
        }
        let (now, steady) = (self.clocks(s), self.steady());
        let Some(term) = &mut self.servers[s].term else { return };
        let told = match (message, who) {
            (Up::Beat { sent }, Place::Node(n)) => {
                term.heard.insert(self.machines[n].id, steady);
                return self.send_down(id, Down::Answer { sent });
            }
            (Up::Beat { sent }, _) => return self.send_down(id, Down::Answer { sent }),
            (Up::Hello(greeting), Place::Node(n)) => {
                let node = self.machines[n].id;
                let old = term.nodes.insert(node, id);
                term.heard.insert(node, steady);
                if let Some(old) = old.filter(|old| *old != id) {
                    self.replaced(old);
                }
                let greeting = *greeting;
                // The welcome answers the greeting, which went as the session began.
                let sent = self.sessions.get(&id).map_or(self.now, |session| session.began);
                self.send_down(id, Down::Answer { sent });
                let (name, version) = (greeting.name, greeting.version);
                Inbound::NodeHello { node, name, version, facts: greeting.facts }
            }
            (Up::Report(report), Place::Node(n)) => {
                Inbound::NodeReport { node: self.machines[n].id, report: *report }
            }
            (Up::GatewayHello, Place::Gateway(g)) => {
                let old = term.gateways.insert(g, id);
                let table = term.table.clone();
                if let Some(old) = old.filter(|old| *old != id) {
                    self.replaced(old);
                }
                if let Some(table) = table {
                    self.send_down(id, Down::Table(Box::new((*table).clone())));
                }
                Inbound::GatewayHello { gateway: self.gateways[g].id }
            }
            (Up::Acked { generation, busy }, Place::Gateway(g)) => {
                Inbound::RouteAck { gateway: self.gateways[g].id, generation, busy }
            }
            (Up::Hello(_) | Up::Report(_) | Up::GatewayHello | Up::Acked { .. }, _) => return,
        };
        if let Some(term) = &mut self.servers[s].term {
            term.core.tell(told, now);
        }
        self.turns(s);
    }

    /// A newer session of the same member ends this one.
    fn replaced(&mut self, id: u64) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.server_holds = false;
        }
        self.tell_client(id);
    }

    /// The server's end of a session is over: the core hears of it, and the client in time.
    pub fn server_lets_go(&mut self, id: u64) {
        let Some(session) = self.sessions.get_mut(&id).filter(|it| it.server_holds) else { return };
        session.server_holds = false;
        let (s, epoch, who) = (session.server, session.epoch, session.who);
        self.tell_client(id);
        if !self.is_term(s, epoch) {
            return;
        }
        let now = self.clocks(s);
        let Some(term) = &mut self.servers[s].term else { return };
        // One whose greeting never arrived was nobody's, and a newer one may be there since.
        let told = match who {
            Place::Node(n) => {
                let node = self.machines[n].id;
                if term.nodes.get(&node) != Some(&id) {
                    return;
                }
                term.nodes.remove(&node);
                Inbound::NodeGone { node }
            }
            Place::Gateway(g) => {
                if term.gateways.get(&g) != Some(&id) {
                    return;
                }
                term.gateways.remove(&g);
                Inbound::GatewayGone { gateway: self.gateways[g].id }
            }
            Place::Server(_) | Place::Store => return,
        };
        term.core.tell(told, now);
        self.wake(s, 1);
    }
}
