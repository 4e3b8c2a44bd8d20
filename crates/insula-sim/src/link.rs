//! Sessions: two streams of messages in order, between a node or a gateway and the leader, perhaps
//! through another server. What is under way when a path is blocked waits for it, or dies with the
//! session; a new session begins with everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use insula_control::core::mutation::Greeting;
use insula_model::observed::NodeReport;
use insula_model::routes::RouteTable;
use insula_model::target::NodeTarget;
use insula_model::{Generation, InstanceId};

/// Whoever has an end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Server(usize),
    Node(usize),
    Gateway(usize),
    /// Where the store is; servers reach it over the network, too.
    Store,
}

#[derive(Debug, Clone)]
pub enum Up {
    Hello(Box<Greeting>),
    Report(Box<NodeReport>),
    Beat { sent: u64 },
    GatewayHello,
    Acked { generation: Generation, busy: BTreeSet<InstanceId> },
}

#[derive(Debug, Clone)]
pub enum Down {
    Answer { sent: u64 },
    Target(Box<NodeTarget>),
    Table(Box<RouteTable>),
}

#[derive(Debug)]
pub struct Session {
    pub who: Place,
    pub server: usize,
    pub epoch: u64,
    /// The server that was dialled, if it is not the leader.
    pub via: Option<usize>,
    pub up: VecDeque<Up>,
    pub down: VecDeque<Down>,
    /// Each end has its own opinion of whether it still is.
    pub server_holds: bool,
    pub client_holds: bool,
    /// When the server heard anything last.
    pub heard: u64,
    pub began: u64,
}

impl Session {
    /// The places that a message passes, from the client's end.
    pub fn path(&self) -> Vec<Place> {
        let mut path = vec![self.who];
        path.extend(self.via.map(Place::Server));
        path.push(Place::Server(self.server));
        path
    }
}

/// Who cannot reach whom, and how slow everything is.
#[derive(Debug, Default)]
pub struct Network {
    /// How many faults block each direction.
    blocked: BTreeMap<(Place, Place), u32>,
    /// The most that a message takes beyond the usual, in milliseconds.
    pub slow: u64,
    /// Messages in a thousand with which their session ends.
    pub breaks: u64,
    /// Messages in a thousand that arrive twice.
    pub doubles: u64,
}

impl Network {
    pub fn block(&mut self, from: Place, to: Place) {
        *self.blocked.entry((from, to)).or_default() += 1;
    }

    pub fn unblock(&mut self, from: Place, to: Place) {
        if let Some(times) = self.blocked.get_mut(&(from, to)) {
            *times -= 1;
            if *times == 0 {
                self.blocked.remove(&(from, to));
            }
        }
    }

    pub fn reaches(&self, from: Place, to: Place) -> bool {
        !self.blocked.contains_key(&(from, to))
    }

    pub fn both_ways(&self, a: Place, b: Place) -> bool {
        self.reaches(a, b) && self.reaches(b, a)
    }

    pub fn passes(&self, path: &[Place], upward: bool) -> bool {
        path.windows(2).all(|hop| match upward {
            true => self.reaches(hop[0], hop[1]),
            false => self.reaches(hop[1], hop[0]),
        })
    }
}
