//! Which of the servers that share a store reconciles: the one that holds the lease.
//!
//! The lease says who should; the fence in each write makes sure that nobody else does. A server
//! that could not renew in time stops by itself, before another may begin.

use std::sync::Arc;
use std::time::Duration;

use insula_kit::shutdown::Shutdown;
use insula_model::fleet::{Lease, Server};
use insula_model::{Millis, ServerId, Timestamp};
use insula_store::{StoreError, leases, servers};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::Cx;
use crate::fence::{Fence, LEASE};
use crate::status::Board;

/// How long a lease is good for: three renewals, so that one that is late costs nothing.
pub const LEASE_TTL: Millis = Millis::secs(3);
/// Between renewals.
const RENEWAL: Duration = Duration::from_secs(1);
/// Between looks of those who do not hold it: with the time to live, less than four seconds from a
/// leader's death to the next one.
const ATTEMPT: Duration = Duration::from_millis(500);
/// Between a server's words that it is there.
const SAY_HERE: Duration = Duration::from_secs(5);
/// Likewise of one that nobody listens to: only so that it is not taken for dead.
const SAY_HERE_ALONE: Duration = Duration::from_secs(600);
/// A server that was silent for longer, by the clock that they share, is not offered to agents any
/// more, nor shown.
const SERVER_FRESH: Millis = Millis::secs(20);
/// For the store to take the lease back at the end. Others get it soon enough without.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(2);

/// Who this server is among those that share the store.
#[derive(Debug, Clone)]
pub struct Membership {
    pub id: ServerId,
    /// Where agents, gateways and other servers reach it; nothing if it serves this machine alone.
    pub fleet: Option<std::net::SocketAddr>,
    pub version: String,
    /// No other process can have the store: SQLite in a folder that is locked. The lease is taken
    /// without waiting for one that a killed predecessor left, and never renewed.
    pub alone: bool,
}

/// Who reconciles, as the binary, the link and the API want to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    Leader {
        epoch: u64,
    },
    /// Nothing while nobody leads, or while that is not known.
    Follower {
        leader: Option<Server>,
    },
}

/// What this server may do now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Standing {
    /// The store has not been asked yet.
    Unknown,
    Leads(Term),
    Follows {
        leader: Option<Server>,
    },
}

/// A term, until when it is sure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Term {
    pub(crate) fence: Fence,
    /// Nothing if nobody else can take it.
    pub(crate) until: Option<Instant>,
}

impl Term {
    pub(crate) fn is_sure(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

/// Where agents may go.
fn addresses(servers: &[Server]) -> Vec<String> {
    let addresses = servers.iter().filter_map(|server| server.fleet);
    addresses.map(|fleet| fleet.to_string()).collect()
}

/// Ready once a term is over, whatever its holder is doing.
pub(crate) async fn over(mut standing: watch::Receiver<Standing>, fence: Fence) {
    loop {
        let until = match &*standing.borrow_and_update() {
            Standing::Leads(term) if term.fence == fence => term.until,
            Standing::Leads(_) | Standing::Unknown | Standing::Follows { .. } => return,
        };
        // A renewal wakes nobody, so the time is read again when it has come.
        let wait = until.map_or(LEASE_TTL.as_duration(), |until| {
            until.saturating_duration_since(Instant::now())
        });
        if until.is_some() && wait.is_zero() {
            return;
        }
        tokio::select! {
            changed = standing.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// What the store said of the lease.
enum Answer {
    Ours(Lease),
    Theirs(Option<Server>),
}

pub(crate) struct Elector {
    cx: Cx,
    membership: Membership,
    board: Arc<Board>,
    standing: watch::Sender<Standing>,
    said_here: Option<Instant>,
    wrote_here: Option<Instant>,
}

impl Elector {
    pub(crate) fn new(
        cx: Cx,
        membership: Membership,
        board: Arc<Board>,
    ) -> (Self, watch::Receiver<Standing>) {
        let (standing, seen) = watch::channel(Standing::Unknown);
        (Self { cx, membership, board, standing, said_here: None, wrote_here: None }, seen)
    }

    /// Runs until `shutdown` was requested and everything that leads has `ended`. `lost` tells of
    /// terms that turned out to be over.
    pub(crate) async fn run(
        mut self,
        mut lost: mpsc::Receiver<Fence>,
        shutdown: Shutdown,
        ended: impl Future<Output = ()>,
    ) {
        loop {
            if let Err(error) = self.say_here().await {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "this server is not known to others"
                );
            }
            self.look().await;
            let wait = match self.term() {
                Some(term) if term.until.is_none() => SAY_HERE,
                Some(_) => RENEWAL,
                None => ATTEMPT,
            };
            // A term ends when it was not renewed in time, whatever the store is doing.
            tokio::select! {
                _ = shutdown.requested() => break,
                Some(fence) = lost.recv() => {
                    if self.term().is_some_and(|term| term.fence == fence) {
                        warn!(epoch = fence.epoch, "another server leads");
                        self.stand(Standing::Follows { leader: None });
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
        ended.await;
        self.leave().await;
    }

    fn term(&self) -> Option<Term> {
        match &*self.standing.borrow() {
            Standing::Leads(term) => Some(*term),
            Standing::Unknown | Standing::Follows { .. } => None,
        }
    }

    fn stand(&self, standing: Standing) {
        self.standing.send_if_modified(|before| {
            let changed = *before != standing;
            *before = standing;
            changed
        });
    }

    /// Asks the store who leads, and leads if it may. Never takes longer than the term is sure.
    async fn look(&self) {
        let began = Instant::now();
        let ttl = LEASE_TTL.as_duration();
        let deadline = match self.term().and_then(|term| term.until) {
            Some(until) => until,
            None => began + ttl,
        };
        match tokio::time::timeout_at(deadline, self.ask()).await {
            Ok(Ok(Answer::Ours(lease))) => {
                let fence = Fence { holder: lease.holder, epoch: lease.epoch };
                let until = (!self.membership.alone).then(|| began + ttl);
                let before = self.term();
                if before.is_none_or(|term| term.fence != fence) {
                    info!(epoch = lease.epoch, "this server leads");
                }
                // The time is renewed in silence: nobody has to wake for it.
                let standing = Standing::Leads(Term { fence, until });
                self.standing.send_if_modified(|seen| {
                    *seen = standing;
                    before.is_none_or(|term| term.fence != fence)
                });
            }
            Ok(Ok(Answer::Theirs(leader))) => self.stand(Standing::Follows { leader }),
            Ok(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "the lease cannot be asked for");
                self.give_up_if_over();
            }
            Err(_) => self.give_up_if_over(),
        }
    }

    /// Nobody can say who leads; we do only for as long as our term is sure.
    fn give_up_if_over(&self) {
        match self.term() {
            Some(term) if term.is_sure() => {}
            Some(_) => {
                warn!("the lease could not be renewed in time: this server leads no more");
                self.stand(Standing::Follows { leader: None });
            }
            None => self.stand(Standing::Follows { leader: None }),
        }
    }

    async fn ask(&self) -> Result<Answer, StoreError> {
        let held = self.term().map(|term| term.fence);
        if let Some(fence) = held.filter(|_| self.membership.alone) {
            let lease = Lease { holder: fence.holder, epoch: fence.epoch, until: self.now() };
            return Ok(Answer::Ours(lease));
        }
        let (id, alone, now) = (self.membership.id, self.membership.alone, self.now());
        self.cx
            .store
            .write(move |tx| {
                if let Some(Fence { holder, epoch }) = held
                    && let Some(lease) = leases::renew(tx, LEASE, holder, epoch, now, LEASE_TTL)?
                {
                    return Ok(Answer::Ours(lease));
                }
                // Whoever had it before us in this folder is dead: we hold its lock. In his name
                // nobody has to wait, and the new epoch shuts him out.
                let before = leases::get(tx, LEASE)?.filter(|_| alone);
                let holder = before.map_or(id, |lease| lease.holder);
                if let Some(lease) = leases::acquire(tx, LEASE, holder, now, LEASE_TTL)? {
                    return Ok(Answer::Ours(lease));
                }
                let leader = leases::get(tx, LEASE)?.map(|lease| lease.holder);
                let leader = leader.map(|holder| servers::get(tx, holder)).transpose()?;
                Ok::<_, StoreError>(Answer::Theirs(leader.flatten()))
            })
            .await
    }

    /// Says that this server is there, and hears of the others.
    async fn say_here(&mut self) -> Result<(), StoreError> {
        if self.said_here.is_some_and(|at| at.elapsed() < SAY_HERE) {
            return Ok(());
        }
        self.said_here = Some(Instant::now());
        let (server, alone) = (self.server(), self.membership.alone);
        let wait = if alone { SAY_HERE_ALONE } else { Duration::ZERO };
        let write = self.wrote_here.is_none_or(|at| at.elapsed() >= wait);
        if write {
            self.wrote_here = Some(Instant::now());
        }
        let store = &self.cx.store;
        let say = async move {
            let (ours, now) = (server.clone(), server.seen);
            if write {
                store.write(move |tx| servers::say_here(tx, &server)).await?;
            }
            if alone {
                return Ok::<_, StoreError>(vec![ours]);
            }
            store.read(move |tx| servers::fresh(tx, now, SERVER_FRESH)).await
        };
        let Ok(listed) = tokio::time::timeout(ATTEMPT, say).await else { return Ok(()) };
        let listed = listed?;
        self.cx.hub.set_servers(addresses(&listed));
        self.board.see_servers(listed);
        Ok(())
    }

    fn server(&self) -> Server {
        Server {
            id: self.membership.id,
            fleet: self.membership.fleet,
            version: self.membership.version.clone(),
            seen: self.now(),
        }
    }

    /// A clean end: the next leader need not wait.
    async fn leave(&self) {
        let (held, id) = (self.term().map(|term| term.fence), self.membership.id);
        self.stand(Standing::Follows { leader: None });
        let left = self.cx.store.write(move |tx| {
            if let Some(Fence { holder, epoch }) = held {
                leases::release(tx, LEASE, holder, epoch)?;
            }
            servers::forget(tx, id)
        });
        match tokio::time::timeout(RELEASE_TIME_MAX, left).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "the lease was not given back");
            }
            Err(_) => warn!("the lease was not given back in time"),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.cx.clock.now_ms())
    }
}
