//! How many requests each member of the fleet may have open at once, on all its connections
//! together: each may hold a message half read, so without a bound one certificate is enough to end
//! the server's memory.
//!
//! Other servers are not counted, they carry everybody's sessions and have counted them. Who calls
//! by a socket of this machine is not counted either.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::connection::Connection;
use crate::gather::{Asked, Waits};

/// What an agent fetches at once while a hundred apps start, its session and a renewal.
const OF_NODE_MAX: usize = 64;
/// One counts; others are the rests of broken connections, until those are noticed.
const SESSIONS_OF_NODE_MAX: usize = 16;
/// Outputs of builds. Each is a spool file here, and the next one waits at the agent.
pub(crate) const BROUGHT_BY_NODE_MAX: usize = 4;
/// A session, a renewal, and the rests of broken connections.
pub(crate) const OF_GATEWAY_MAX: usize = 8;
/// A newcomer asks one question; of one connection.
const OF_NEWCOMER_MAX: usize = 2;

/// What is counted by itself, beside all of a member together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Session,
    /// What a gateway has open as long as it lives. Counted with all others.
    Routes,
    Brought,
    Other,
}

impl Kind {
    fn of(path: &str) -> Self {
        match path {
            "/insula.v1.Node/Session" => Self::Session,
            "/insula.v1.Edge/Routes" => Self::Routes,
            "/insula.v1.Node/PutBlob" => Self::Brought,
            _ => Self::Other,
        }
    }
}

/// What is open, by who has it open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests {
    open: Arc<Mutex<HashMap<String, Count>>>,
    asked: Asked,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    all: usize,
    sessions: usize,
    brought: usize,
}

/// Given back when dropped.
#[derive(Debug)]
struct Open {
    of: Requests,
    who: String,
    kind: Kind,
}

impl Requests {
    /// Nothing to hold for whom nobody counts; refused over the bound.
    fn open(&self, connection: &Connection, path: &str) -> Result<Option<Open>, Status> {
        let (who, all_max) = match &connection.peer {
            None => (connection.address.to_string(), OF_NEWCOMER_MAX),
            Some(peer) => match peer.subject.role() {
                "node" => (peer.subject.id().to_owned(), OF_NODE_MAX),
                "gateway" => (peer.subject.id().to_owned(), OF_GATEWAY_MAX),
                _ => return Ok(None),
            },
        };
        let kind = Kind::of(path);
        let mut open = self.counts();
        let count = open.get(&who).copied().unwrap_or_default();
        let full = match kind {
            Kind::Session => count.sessions >= SESSIONS_OF_NODE_MAX,
            Kind::Brought => count.brought >= BROUGHT_BY_NODE_MAX,
            Kind::Routes | Kind::Other => false,
        };
        if full || count.all >= all_max {
            return Err(Status::resource_exhausted(format!(
                "{who} has too many requests open: let some of them end first"
            )));
        }
        open.entry(who.clone()).or_default().add(kind, 1);
        Ok(Some(Open { of: self.clone(), who, kind }))
    }

    /// What is open of all callers, and ends with an answer.
    pub(crate) fn asked(&self) -> &Asked {
        &self.asked
    }

    fn waits(&self, path: &str) -> Option<Waits> {
        match Kind::of(path) {
            Kind::Session | Kind::Routes => None,
            Kind::Brought | Kind::Other => Some(self.asked.one()),
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, Count>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    fn add(&mut self, kind: Kind, more: isize) {
        let add = |count: &mut usize| *count = count.saturating_add_signed(more);
        add(&mut self.all);
        match kind {
            Kind::Session => add(&mut self.sessions),
            Kind::Brought => add(&mut self.brought),
            Kind::Routes | Kind::Other => {}
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.of.counts();
        let Some(count) = open.get_mut(&self.who) else { return };
        count.add(self.kind, -1);
        if count.all == 0 {
            open.remove(&self.who);
        }
    }
}

impl<S> Layer<S> for Requests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, requests: self.clone() }
    }
}

/// A service that counts what is open until the last of its answer was sent.
#[derive(Debug, Clone)]
pub(crate) struct Counted<S> {
    inner: S,
    requests: Requests,
}

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Future: Send + 'static>,
    S::Error: Send + 'static,
{
    type Response = http::Response<Held>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let open = match request.extensions().get::<Connection>() {
            Some(connection) => self.requests.open(connection, request.uri().path()),
            None => Err(Status::internal("a connection without an address")),
        };
        match open {
            Ok(open) => {
                let waits = self.requests.waits(request.uri().path());
                let answer = self.inner.call(request);
                Box::pin(async move {
                    Ok(answer.await?.map(|body| Held { body, _open: open, _waits: waits }))
                })
            }
            Err(refused) => {
                let refused = refused.into_http::<Body>();
                let refused = refused.map(|body| Held { body, _open: None, _waits: None });
                Box::pin(std::future::ready(Ok(refused)))
            }
        }
    }
}

/// An answer, and the place that it takes until it was sent or nobody wants it.
#[derive(Debug)]
pub(crate) struct Held {
    body: Body,
    _open: Option<Open>,
    _waits: Option<Waits>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
