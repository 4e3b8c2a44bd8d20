//! The listener: connections, their limits, and the names that every request gets first.
//!
//! What a stranger can hold open is bounded here: connections in number, headers in size and time.
//! What happens to a request that has a route is `dispatch`'s subject.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use insula_kit::shutdown::Shutdown;
use insula_kit::trace::{RequestId, TraceParent, request_span};
use insula_wire::problem::Code;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tracing::Instrument;

use crate::context::Names;
use crate::dispatch::router;
use crate::error::ApiError;
use crate::held::PassedOn;
use crate::limits;
use crate::place::Places;
use crate::state::{Api, ApiConfig, ApiState};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// After an `accept` that failed for lack of descriptors, say: not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The API, ready to answer; clones share one.
#[derive(Debug, Clone)]
pub struct Server {
    api: Api,
    router: Router,
}

impl Server {
    pub fn new(config: ApiConfig, state: ApiState, shutdown: Shutdown) -> Self {
        let api = Api::new(config, state, shutdown);
        let router = router(&api);
        Self { api, router }
    }

    /// Answers one request that did not come by the listener: another server asks.
    pub async fn answer(&self, mut request: Request<Body>, peer: SocketAddr) -> Response {
        request.extensions_mut().insert(PassedOn);
        respond(self.api.clone(), self.router.clone(), request, peer).await
    }

    /// Serves until an end is asked for, then lets requests finish for a while.
    pub async fn serve(self, listener: TcpListener) {
        let Self { api, router } = self;
        listen(api, router, listener).await;
    }
}

async fn listen(api: Api, router: Router, listener: TcpListener) {
    let shutdown = api.shutdown.clone();
    let guard = shutdown.guard("api");
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    let addresses = Places::new(limits::CONNECTIONS_PER_ADDRESS_MAX, limits::CONNECTIONS_MAX);
    loop {
        // With no place left, strangers wait in the kernel's queue.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            _ = shutdown.requested() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.requested() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                // A closed connection says it quickest to one who opens them without end.
                let Ok(own) = addresses.take(peer.ip()) else { continue };
                let connection = connection(api.clone(), router.clone(), stream, peer);
                tokio::spawn(async move {
                    connection.await;
                    drop((place, own));
                });
            }
            Err(error) => refused(&error).await,
        }
    }
    drop(listener);
    let all = u32::try_from(limits::CONNECTIONS_MAX).unwrap_or(u32::MAX);
    let drained = tokio::time::timeout(limits::DRAIN_TIME, places.acquire_many(all)).await;
    if drained.is_err() {
        tracing::warn!("some requests did not finish in time");
    }
    drop(guard);
}

async fn refused(error: &io::Error) {
    tracing::warn!(%error, "accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn connection(api: Api, router: Router, stream: TcpStream, peer: SocketAddr) {
    // Answers are small; waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let service = {
        let api = api.clone();
        service_fn(move |request: Request<Incoming>| {
            let (api, router) = (api.clone(), router.clone());
            async move {
                let request = request.map(Body::new);
                Ok::<_, Infallible>(respond(api, router, request, peer).await)
            }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADERS_TIME)
        .max_buf_size(limits::HEADERS_BYTES_MAX)
        .max_headers(limits::HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut ending = pin!(api.shutdown.requested());
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _ = &mut ending => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Strangers who hang up or talk nonsense are no trouble of ours.
        tracing::debug!(%error, %peer, "a connection ended");
    }
}

async fn respond(
    api: Api,
    router: Router,
    mut request: Request<Body>,
    peer: SocketAddr,
) -> Response {
    let names = names(&api, request.headers(), peer);
    let span = request_span(names.trace.trace, &names.request);
    request.extensions_mut().insert(names.clone());
    async {
        let routed = match router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let mut response = without_a_route(routed, &names);
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(names.request.as_str()) {
            headers.insert(REQUEST_ID, id);
        }
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
    .instrument(span)
    .await
}

/// A request's names: those that it brings, if they are well-formed; else new ones.
fn names(api: &Api, headers: &HeaderMap, peer: SocketAddr) -> Names {
    let random = &*api.state.random;
    let given = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let request = given(&REQUEST_ID).and_then(|text| text.parse().ok());
    let trace = given(&TRACEPARENT).and_then(|text| text.parse::<TraceParent>().ok());
    Names {
        request: request.unwrap_or_else(|| RequestId::random(random)),
        trace: trace.map_or_else(|| TraceParent::random(random), |trace| trace.child(random)),
        peer: peer.ip(),
    }
}

/// What the router itself refuses gets a problem document, too.
fn without_a_route(response: Response, names: &Names) -> Response {
    if response.headers().contains_key(header::CONTENT_TYPE) {
        return response;
    }
    let code = match response.status() {
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        _ => return response,
    };
    let said = match code {
        Code::MethodNotAllowed => "this path does not take that method",
        _ => "there is nothing at this path",
    };
    let mut problem = ApiError::new(code, said)
        .hint("the whole API is described at /openapi.json")
        .answer(&names.request);
    if let Some(allow) = response.headers().get(header::ALLOW) {
        problem.headers_mut().insert(header::ALLOW, allow.clone());
    }
    problem
}
