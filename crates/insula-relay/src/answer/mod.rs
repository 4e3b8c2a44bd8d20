//! Answers members: who may, what runs, and then bytes. Takes no stranger's word for anything.

mod connection;
mod places;
mod rate;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insula_kit::clock::Clock;
use insula_kit::metrics::{Counter, Gauge, Metrics};
use insula_kit::tls::{Acceptor, ClientCertificates, Credentials, Peer};
use insula_model::fleet::Member;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ahead::ReadAhead;
use crate::doors::Doors;
use crate::member::member;
use connection::Connection;
use places::{Place, Places};

/// The kernel has no descriptor left; one that ends gives one back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Bounds of one relay.
#[derive(Debug, Clone)]
pub struct Limits {
    pub connections_per_member_max: usize,
    pub connections_max: usize,
    /// TCP connections that have not said who they are.
    pub strangers_max: usize,
    /// A connection on which nobody says anything, not even a ping.
    pub idle_max: Duration,
    /// From the first byte of a message to its last.
    pub message_time_max: Duration,
    /// How long an instance may take to accept.
    pub connect_time_max: Duration,
    /// On one connection and in a second: pings, and openings that led nowhere.
    pub pings_per_second_max: u32,
    pub misses_per_second_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A gateway with five thousand requests in flight at one node, and its spare ones.
            connections_per_member_max: 8_192,
            // Each is two descriptors with its instance, and 32 KiB while it is quiet.
            connections_max: 16_384,
            // What `insula_kit::tls` lets through at once, four times over, waiting their turn.
            strangers_max: 1_024,
            // Callers give theirs up after a minute.
            idle_max: Duration::from_secs(120),
            message_time_max: Duration::from_secs(5),
            // Accepting is the kernel's work; an instance whose queue is full for so long is ill.
            connect_time_max: Duration::from_secs(3),
            // Twenty times what a caller sends.
            pings_per_second_max: 20,
            // A whole table of routes that is out of date is noticed after fewer.
            misses_per_second_max: 200,
        }
    }
}

/// Handles on the counters of one relay.
#[derive(Debug, Clone)]
pub struct AnswerCounts {
    pub connections: Gauge,
    pub streams: Gauge,
    /// With members and strangers alike; in the steady state there are none.
    pub handshakes: Counter,
    pub opened: Counter,
    pub gone: Counter,
    pub denied: Counter,
    pub refused: Counter,
    /// Connections that were turned away before anything was asked.
    pub turned_away: Counter,
    /// Connections that were closed because of what they said.
    pub misbehaved: Counter,
    /// Streams that were ended because their instance or their right was gone.
    pub cut: Counter,
    pub bytes_to_instances: Counter,
    pub bytes_from_instances: Counter,
}

impl AnswerCounts {
    pub fn new(metrics: &Metrics) -> Self {
        let open = |answer| {
            let help = "Openings of streams through this relay, by answer.";
            metrics.counter("insula_relay_opens_total", help, &[("answer", answer)])
        };
        let ended = |why| {
            let help = "Connections and streams that this relay ended, by reason.";
            metrics.counter("insula_relay_ended_total", help, &[("why", why)])
        };
        let bytes = |to| {
            let help = "Bytes carried by this relay, by direction.";
            metrics.counter("insula_relay_bytes_total", help, &[("to", to)])
        };
        Self {
            connections: metrics.gauge(
                "insula_relay_connections",
                "Connections of members to this relay.",
                &[],
            ),
            streams: metrics.gauge("insula_relay_streams", "Streams open through this relay.", &[]),
            handshakes: metrics.counter(
                "insula_relay_handshakes_total",
                "Handshakes with who called this relay.",
                &[],
            ),
            opened: open("ok"),
            gone: open("gone"),
            denied: open("denied"),
            refused: open("refused"),
            turned_away: ended("turned_away"),
            misbehaved: ended("misbehaved"),
            cut: ended("cut"),
            bytes_to_instances: bytes("instance"),
            bytes_from_instances: bytes("member"),
        }
    }
}

/// What one relay needs; made once.
pub struct Answerer {
    pub credentials: Arc<Credentials>,
    /// The one that the credentials go by.
    pub clock: Arc<dyn Clock>,
    pub doors: Arc<dyn Doors>,
    pub limits: Limits,
    pub counts: AnswerCounts,
}

impl std::fmt::Debug for Answerer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answerer").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

struct Relay {
    acceptor: Acceptor,
    clock: Arc<dyn Clock>,
    doors: Arc<dyn Doors>,
    limits: Limits,
    counts: AnswerCounts,
    places: Places,
    /// The newest certificate that each member showed: an older one is somebody else's.
    serials: Mutex<HashMap<Member, u64>>,
}

/// Until the end is asked for; then every stream ends with it.
pub async fn answer(listener: TcpListener, answerer: Answerer, end: CancellationToken) {
    let Answerer { credentials, clock, doors, limits, counts } = answerer;
    let relay = Arc::new(Relay {
        acceptor: Acceptor::new(&credentials, ClientCertificates::Required, crate::ALPN),
        clock,
        doors,
        places: Places::new(limits.connections_per_member_max, limits.connections_max),
        limits,
        counts,
        serials: Mutex::default(),
    });
    let strangers = Arc::new(tokio::sync::Semaphore::new(relay.limits.strangers_max));
    let tasks = TaskTracker::new();
    // Dropping what answers drops all of it.
    let end = end.child_token();
    let _ended = end.clone().drop_guard();
    loop {
        let accepted = tokio::select! {
            () = end.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept a connection to the relay");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(stranger) = Arc::clone(&strangers).try_acquire_owned() else {
            relay.counts.turned_away.increment();
            continue;
        };
        let (relay, end) = (Arc::clone(&relay), end.clone());
        tasks.spawn(async move {
            let serving = Box::pin(relay.serve(tcp, from, stranger));
            tokio::select! {
                () = end.cancelled() => {}
                () = serving => {}
            }
        });
    }
}

impl Relay {
    async fn serve(
        &self,
        tcp: TcpStream,
        from: std::net::SocketAddr,
        stranger: tokio::sync::OwnedSemaphorePermit,
    ) {
        crate::call::socket::tune(&tcp);
        let shaken = Box::pin(self.acceptor.accept(ReadAhead::new(tcp), from.ip())).await;
        drop(stranger);
        if shaken.is_ok() {
            self.counts.handshakes.increment();
        }
        let (stream, peer) = match shaken {
            Ok((stream, Some(peer))) => (stream, peer),
            Ok((_, None)) => return self.turn_away(from, "it showed no certificate"),
            Err(error) => {
                tracing::debug!(%from, error = &error as &dyn std::error::Error, "a handshake");
                return self.turn_away(from, "the handshake failed");
            }
        };
        match self.admit(&peer) {
            Ok((member, _place)) => {
                self.counts.connections.add(1);
                let _counted = Counted(&self.counts.connections);
                Connection::new(self, member, peer.not_after_ms, stream).run().await;
            }
            Err(why) => self.turn_away(from, why),
        }
    }

    fn admit(&self, peer: &Peer) -> Result<(Member, Place), &'static str> {
        let member = member(&peer.subject).ok_or("its certificate names no member")?;
        if !self.doors.admits(member) {
            return Err("we do not know it");
        }
        let mut serials = self.serials.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = serials.entry(member).or_default();
        if peer.serial < *newest {
            return Err("it has shown a newer certificate before");
        }
        *newest = peer.serial;
        let place = self.places.take(member).ok_or("it holds as many connections as it may")?;
        Ok((member, place))
    }

    fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    fn turn_away(&self, from: std::net::SocketAddr, why: &'static str) {
        tracing::debug!(%from, why, "turned away");
        self.counts.turned_away.increment();
    }
}

/// Counted as long as it is held.
struct Counted<'a>(&'a Gauge);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}
