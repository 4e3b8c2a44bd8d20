//! A thread of the gateway: its listeners, its routes, its connections. Shares nothing that moves.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use bytes::BytesMut;
use insula_kit::metrics::Metrics;
use insula_kit::tls::Credentials;
use insula_model::routes::RouteTable;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tokio_util::io::read_buf;
use tracing::{debug, warn};

use crate::codec::{Codec, HyperHttp1, HyperHttp2};
use crate::endpoint::Ledger;
use crate::front::Front;
use crate::limits::Limits;
use crate::proxy::Edge;
use crate::traffic::Traffic;
use crate::way::Surroundings;

/// How an HTTP/2 connection with prior knowledge begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// When there is no descriptor left, one is not freed by asking at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all threads have in common.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) limits: Arc<Limits>,
    pub(crate) trusted_proxies: Arc<[IpAddr]>,
    pub(crate) ledger: Ledger,
    pub(crate) traffic: Traffic,
    pub(crate) surroundings: Arc<Surroundings>,
    /// What other nodes know us by, once we have it.
    pub(crate) credentials: watch::Receiver<Option<Arc<Credentials>>>,
    pub(crate) metrics: Metrics,
}

/// A table to serve from now on, and whom to tell that it is in force.
pub(crate) type NewTable = (Arc<RouteTable>, oneshot::Sender<()>);

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) tables: mpsc::UnboundedSender<NewTable>,
    pub(crate) thread: thread::JoinHandle<()>,
}

/// Begins a thread that accepts until `ending` turns true and then lets its visitors finish.
pub(crate) fn start(
    number: usize,
    listeners: Vec<StdListener>,
    common: Arc<Common>,
    table: Option<Arc<RouteTable>>,
    ending: watch::Receiver<bool>,
) -> io::Result<Worker> {
    let (tables, receiver) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = thread::Builder::new().name(format!("edge-{number}")).spawn(move || {
        let local = LocalSet::new();
        local.block_on(&runtime, work(listeners, common, table, receiver, ending));
    })?;
    Ok(Worker { tables, thread })
}

async fn work(
    listeners: Vec<StdListener>,
    common: Arc<Common>,
    table: Option<Arc<RouteTable>>,
    mut tables: mpsc::UnboundedReceiver<NewTable>,
    mut ending: watch::Receiver<bool>,
) {
    let edge = Rc::new(Edge::new(&common));
    let mut table = table;
    if let Some(table) = &table {
        edge.adopt(table, &common.ledger, &common.traffic);
    }
    let mut credentials = common.credentials.clone();
    let mut is_member = credentials.borrow_and_update().is_some();
    let mut is_placed = common.surroundings.is_settled();
    let house = Rc::new(House {
        http1: HyperHttp1::new(&common.limits),
        http2: HyperHttp2::new(&common.limits),
        edge: Rc::clone(&edge),
        guests: Cell::new(0),
        left: tokio::sync::Notify::new(),
        ending: ending.clone(),
    });
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::task::spawn_local(accept(Rc::clone(&house), listener)))
        .collect();
    loop {
        tokio::select! {
            biased;
            received = tables.recv() => {
                let Some((newest, done)) = received else { break };
                edge.adopt(&newest, &common.ledger, &common.traffic);
                table = Some(newest);
                // Whoever does not wait any more need not know.
                let _ = done.send(());
            }
            Ok(_) = credentials.wait_for(Option::is_some), if !is_member => {
                is_member = true;
                // From now on it can be felt how other nodes fare.
                if let Some(table) = &table {
                    edge.adopt(table, &common.ledger, &common.traffic);
                }
            }
            () = common.surroundings.settled(), if !is_placed => {
                is_placed = true;
                // From now on it is known which instances are beside us.
                if let Some(table) = &table {
                    edge.adopt(table, &common.ledger, &common.traffic);
                }
            }
            _ = ending.wait_for(|ending| *ending) => break,
        }
    }
    for task in accepting {
        task.abort();
    }
    edge.close_idle();
    let drained = async {
        while house.guests.get() > 0 {
            house.left.notified().await;
        }
    };
    if tokio::time::timeout(common.limits.drain, drained).await.is_err() {
        warn!(connections = house.guests.get(), "cut off connections that did not end in time");
    }
}

/// Where a thread's visitors are.
struct House {
    http1: HyperHttp1,
    http2: HyperHttp2,
    edge: Rc<Edge>,
    guests: Cell<usize>,
    left: tokio::sync::Notify,
    ending: watch::Receiver<bool>,
}

/// A place in the house, free again when dropped.
struct Place(Rc<House>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.guests.set(self.0.guests.get() - 1);
        self.0.left.notify_one();
    }
}

async fn accept(house: Rc<House>, listener: StdListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%error, "cannot wait for visitors");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => welcome(&house, stream, peer),
            Err(error) => {
                // ECONNABORTED and the like concern one visitor; the rest (no descriptors, no
                // memory) passes when others leave.
                warn!(%error, "cannot accept a visitor");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn welcome(house: &Rc<House>, stream: TcpStream, peer: SocketAddr) {
    if house.guests.get() >= house.edge.limits.connections_per_thread_max {
        // Closing at once is an answer; leaving him in the backlog is none.
        warn!(limit = house.edge.limits.connections_per_thread_max, "too many connections");
        return;
    }
    house.guests.set(house.guests.get() + 1);
    let place = Place(Rc::clone(house));
    // A failure costs speed alone.
    let _ = stream.set_nodelay(true);
    tokio::task::spawn_local(async move {
        serve(&place.0, stream, peer.ip()).await;
    });
}

async fn serve(house: &House, mut stream: TcpStream, peer: IpAddr) {
    let limits = &house.edge.limits;
    let mut buffer = BytesMut::new();
    let mut ending = house.ending.clone();
    let http2 = tokio::select! {
        protocol = tokio::time::timeout(limits.idle_timeout, is_http2(&mut stream, &mut buffer)) => {
            match protocol {
                Ok(Ok(http2)) => http2,
                Ok(Err(error)) => return debug!(%error, "a visitor left before asking"),
                Err(_) => return,
            }
        }
        _ = ending.wait_for(|ending| *ending) => return,
    };
    let guest = house.edge.guest(peer);
    let limits = Arc::clone(limits);
    if http2 {
        house.http2.serve(Front::http2(stream, buffer, limits), guest, ending).await;
    } else {
        house.http1.serve(Front::http1(stream, buffer, limits), guest, ending).await;
    }
}

/// Reads until it is certain; what was read is in `buffer`.
async fn is_http2(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<bool> {
    loop {
        buffer.reserve(4 * 1024);
        if read_buf(stream, buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let compared = buffer.len().min(PREFACE.len());
        if buffer[..compared] != PREFACE[..compared] {
            return Ok(false);
        }
        if compared == PREFACE.len() {
            return Ok(true);
        }
    }
}
