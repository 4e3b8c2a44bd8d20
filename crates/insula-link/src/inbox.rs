//! What sessions tell the control plane, in the order in which they say it.
//!
//! A report is everything that a node has to say (and an acknowledgement everything that a gateway
//! has), so of one session only the newest waits: one that
//! was not taken yet is replaced where it stands. Nobody fills the queue but by coming
//! and going.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use insula_model::observed::NodeReport;
use insula_model::{GatewayId, Generation, InstanceId, NodeId, NodeName};
use insula_wire::facts::NodeFacts;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

/// What sessions tell the control plane.
#[derive(Debug)]
pub enum Inbound {
    NodeHello { node: NodeId, name: NodeName, version: String, facts: NodeFacts },
    NodeReport { node: NodeId, report: NodeReport },
    NodeGone { node: NodeId },
    GatewayHello { gateway: GatewayId },
    RouteAck { gateway: GatewayId, generation: Generation, busy: BTreeSet<InstanceId> },
    GatewayGone { gateway: GatewayId },
}

/// Where the control plane hears it.
#[derive(Debug)]
pub struct Inbox(mpsc::Receiver<Queued>);

/// Where it is told.
#[derive(Debug, Clone)]
pub struct Telling(mpsc::Sender<Queued>);

#[derive(Debug, thiserror::Error)]
#[error("tell the control plane, which has ended")]
pub struct NobodyHears;

#[derive(Debug)]
enum Queued {
    Told(Box<Inbound>),
    Newest(Arc<Newest>),
}

/// The report of a session that waits, if one does.
#[derive(Debug, Default)]
pub(crate) struct Newest(Mutex<Option<Inbound>>);

impl Newest {
    fn swap(&self, with: Option<Inbound>) -> Option<Inbound> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *waiting, with)
    }
}

impl Inbox {
    /// At most so many messages wait; then who tells something waits.
    pub fn channel(waiting_max: usize) -> (Telling, Self) {
        let (sender, receiver) = mpsc::channel(waiting_max);
        (Telling(sender), Self(receiver))
    }

    /// Nothing once nobody can tell anything any more. May be dropped half-way: nothing is lost.
    pub async fn recv(&mut self) -> Option<Inbound> {
        loop {
            if let Some(told) = read(self.0.recv().await?) {
                return Some(told);
            }
        }
    }

    pub fn try_recv(&mut self) -> Result<Inbound, TryRecvError> {
        loop {
            if let Some(told) = read(self.0.try_recv()?) {
                return Ok(told);
            }
        }
    }
}

fn read(queued: Queued) -> Option<Inbound> {
    match queued {
        Queued::Told(told) => Some(*told),
        Queued::Newest(newest) => newest.swap(None),
    }
}

impl Telling {
    pub async fn send(&self, told: Inbound) -> Result<(), NobodyHears> {
        self.0.send(Queued::Told(Box::new(told))).await.map_err(|_| NobodyHears)
    }

    /// Behind what was told before; in the place of a report of this session that still waits.
    pub(crate) async fn send_newest(
        &self,
        newest: &Arc<Newest>,
        report: Inbound,
    ) -> Result<(), NobodyHears> {
        if newest.swap(Some(report)).is_some() {
            return Ok(());
        }
        self.0.send(Queued::Newest(newest.clone())).await.map_err(|_| NobodyHears)
    }
}
