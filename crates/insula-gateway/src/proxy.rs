//! One request: find its route, choose an endpoint, send it there, hand the answer back.
//!
//! A request is sent again only when nothing of it can have reached an app, or when repeating it
//! is harmless by its method and it has no body.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use insula_kit::random::SystemRandom;
use insula_kit::trace::{RequestId, TraceParent};
use insula_model::InstanceId;
use insula_model::routes::RouteTable;
use insula_relay::Health;
use tokio::sync::watch;
use tracing::{debug, info};

use crate::body::{Progress, RequestBody, ResponseBody};
use crate::codec::{Handler, Upgrade, Visit, upgraded};
use crate::endpoint::{Endpoint, Lease, Ledger, avoid_for};
use crate::forward::{self, Visitor};
use crate::front::Link;
use crate::limits::Limits;
use crate::page::{self, Trouble};
use crate::pool::{ConnectError, Connection, Pool};
use crate::table::{Found, Table};
use crate::traffic::{Counts, Traffic};
use crate::way::{Far, Surroundings, Way};
use crate::worker::Common;
use crate::{balance, host, tunnel, way};

/// What one thread serves with.
#[derive(Debug)]
pub(crate) struct Edge {
    table: RefCell<Table<Target>>,
    endpoints: RefCell<HashMap<(InstanceId, Way), Rc<Endpoint>>>,
    surroundings: Arc<Surroundings>,
    far: Rc<Far>,
    pool: Rc<Pool>,
    turn: Cell<usize>,
    random: SystemRandom,
    pub(crate) limits: Arc<Limits>,
    trusted_proxies: Arc<[IpAddr]>,
}

/// What stands behind a route.
#[derive(Debug)]
struct Target {
    preserve: bool,
    endpoints: Vec<Rc<Endpoint>>,
    counts: Arc<Counts>,
}

/// One visitor's connection.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    edge: Rc<Edge>,
    peer: IpAddr,
}

impl Edge {
    pub(crate) fn new(common: &Common) -> Self {
        let limits = Arc::clone(&common.limits);
        let trusted_proxies = Arc::clone(&common.trusted_proxies);
        let far = Far::new(common.credentials.clone(), common.metrics.clone());
        Self {
            table: RefCell::new(Table::empty()),
            endpoints: RefCell::default(),
            surroundings: Arc::clone(&common.surroundings),
            pool: Rc::new(Pool::new(Arc::clone(&limits), Rc::clone(&far))),
            far,
            turn: Cell::new(0),
            random: SystemRandom::new(),
            limits,
            trusted_proxies,
        }
    }

    /// From here on every choice is made by this table. Endpoints that stay keep their counts.
    pub(crate) fn adopt(&self, table: &RouteTable, ledger: &Ledger, traffic: &Traffic) {
        let before = self.endpoints.take();
        let mut endpoints: HashMap<(InstanceId, Way), Rc<Endpoint>> = HashMap::new();
        let compass = self.surroundings.compass(table);
        self.far.adopt(compass.relays());
        let routes: Vec<_> = table
            .routes
            .iter()
            .map(|route| {
                let list = route.endpoints.iter().map(|endpoint| {
                    let way = compass.way(endpoint);
                    let key = (endpoint.instance, way);
                    let tally = ledger.tally(endpoint.instance);
                    let known = endpoints.get(&key).or(before.get(&key));
                    let known = known
                        .filter(|e| e.counts_in(&tally) && e.is_felt() == self.far.feels(&way));
                    let known = known.map_or_else(
                        || Rc::new(Endpoint::new(way, self.far.health(&way), tally)),
                        Rc::clone,
                    );
                    endpoints.insert(key, Rc::clone(&known));
                    known
                });
                let target = Target {
                    preserve: route.preserve,
                    endpoints: list.collect(),
                    counts: traffic.counts(route.app, &route.component),
                };
                (route.host.as_str(), route.path.as_str(), Rc::new(target))
            })
            .collect();
        let ways = way::all(endpoints.keys());
        self.table.replace(Table::compile(routes));
        self.endpoints.replace(endpoints);
        self.pool.keep_only(&ways);
    }

    pub(crate) fn close_idle(&self) {
        self.pool.clear();
    }

    pub(crate) fn guest(self: &Rc<Self>, peer: IpAddr) -> Guest {
        Guest { edge: Rc::clone(self), peer: peer.to_canonical() }
    }

    fn find(&self, host: &str, path: &str) -> Result<(Rc<Target>, usize), Trouble> {
        match self.table.borrow().find(host, path) {
            Found::Route(target, prefix_len) => Ok((Rc::clone(target), prefix_len)),
            Found::NoSuchPath => Err(Trouble::NoSuchPath),
            Found::NoSuchHost => Err(Trouble::NoSuchHost),
        }
    }

    fn next_turn(&self) -> usize {
        self.turn.replace(self.turn.get().wrapping_add(1))
    }
}

impl Handler for Guest {
    async fn handle(&self, visit: Visit, link: &Arc<Link>) -> Response<ResponseBody> {
        let began = Instant::now();
        let id = forward::request_id(visit.request.headers())
            .unwrap_or_else(|| RequestId::random(&self.edge.random));
        let method = visit.request.method().clone();
        let refused = visit.refusal;
        let mut asked =
            Asked { host: String::new(), path: String::new(), accept: HeaderMap::new() };
        let mut counts = None;
        let answered = match refused {
            Some(refusal) => Err(refusal.into()),
            None => self.answer(visit, link, &id, &mut asked, &mut counts).await,
        };
        let response = answered.unwrap_or_else(|trouble| {
            self.note(trouble, &id, &method, &asked);
            let mut response = page::answer(trouble, &id, &asked.accept);
            forward::to_visitor(response.headers_mut(), &id);
            response
        });
        if let Some(counts) = counts {
            counts.request();
            if response.status().is_server_error() {
                counts.error();
            }
        }
        debug!(request_id = %id, peer = %self.peer, %method, host = asked.host, path = asked.path, status = response.status().as_u16(), micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX), "request");
        response
    }
}

/// What a log line and an error page say about a request.
struct Asked {
    host: String,
    path: String,
    accept: HeaderMap,
}

/// A request as it goes to an app, as often as it must.
struct Outgoing {
    method: Method,
    target: PathAndQuery,
    headers: HeaderMap,
    /// Gone once it was given to a connection that did not give it back.
    body: Option<RequestBody>,
    progress: Progress,
    had_body: bool,
}

enum Sent {
    Answer(Box<Response<Incoming>>, Connection),
    /// It may be sent again.
    Again,
    Failed(Trouble),
}

impl Guest {
    /// Loud when an app is in trouble, quiet when a visitor is: anybody can ask for nonsense.
    fn note(&self, trouble: Trouble, id: &RequestId, method: &Method, asked: &Asked) {
        let (status, cause) = (trouble.status(), trouble.code());
        let (host, path) = (asked.host.as_str(), asked.path.as_str());
        if status.is_server_error() && trouble != Trouble::Version {
            info!(request_id = %id, %method, host, path, status = status.as_u16(), cause, "no answer but ours");
        } else {
            debug!(request_id = %id, %method, host, path, status = status.as_u16(), cause, "no answer but ours");
        }
    }

    async fn answer(
        &self,
        visit: Visit,
        link: &Arc<Link>,
        id: &RequestId,
        asked: &mut Asked,
        counts: &mut Option<Arc<Counts>>,
    ) -> Result<Response<ResponseBody>, Trouble> {
        let edge = &self.edge;
        let (mut parts, body) = visit.request.into_parts();
        for value in parts.headers.get_all(http::header::ACCEPT) {
            asked.accept.append(http::header::ACCEPT, value.clone());
        }
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return Err(Trouble::MethodRefused);
        }
        let host_value = host_of(&parts.uri, &parts.headers)?;
        let host = host_value.to_str().ok().and_then(host::normalise);
        let host = host.ok_or(Trouble::Malformed("The host is not a host name."))?.into_owned();
        asked.host.clone_from(&host);
        let path = parts.uri.path();
        if !path.starts_with('/') {
            return Err(Trouble::Malformed("The target is not a path."));
        }
        path.clone_into(&mut asked.path);
        let (target, prefix_len) = edge.find(&host, path)?;
        *counts = Some(Arc::clone(&target.counts));
        if announced(&parts.headers) > edge.limits.body_bytes_max {
            return Err(Trouble::BodyTooLarge);
        }
        let prefix_len = if target.preserve { 0 } else { prefix_len };
        let given = parts.uri.path_and_query().cloned();
        let given = given.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let had_body = !body.is_end_stream();
        let protocol = forward::upgrade_asked(&parts.headers)
            .filter(|_| parts.version == Version::HTTP_11 && !had_body);
        let trace = forward::trace_parent(&parts.headers)
            .map_or_else(|| TraceParent::random(&edge.random), |parent| parent.child(&edge.random));
        let visitor = Visitor {
            peer: self.peer,
            peer_trusted: edge.trusted_proxies.contains(&self.peer),
            host: &host_value,
            prefix: &path[..prefix_len],
            id,
            trace,
        };
        forward::to_app(&mut parts.headers, &visitor);
        if let Some(protocol) = &protocol {
            forward::set_upgrade(&mut parts.headers, protocol.clone());
        }
        let body = body.bounded(edge.limits.body_bytes_max, edge.limits.stall_timeout);
        let mut outgoing = Outgoing {
            method: parts.method,
            target: forward::target(&given, prefix_len),
            headers: parts.headers,
            progress: body.progress(),
            body: Some(body),
            had_body,
        };
        let upgrade = visit.upgrade.filter(|_| protocol.is_some());
        let (answer, connection, lease) =
            self.send(&mut outgoing, &host, &asked.path, target, upgrade.is_some()).await?;
        self.hand_back(answer, connection, lease, upgrade, counts.clone(), link, id)
    }

    /// Asks one endpoint after another, each by the table of that moment.
    async fn send(
        &self,
        outgoing: &mut Outgoing,
        host: &str,
        path: &str,
        first: Rc<Target>,
        fresh: bool,
    ) -> Result<(Response<Incoming>, Connection, Lease), Trouble> {
        let edge = &self.edge;
        let mut target = first;
        let mut tried: Vec<Way> = Vec::new();
        let mut last = Trouble::NothingReady;
        let mut fresh = fresh;
        for attempt in 0..edge.limits.attempts_max {
            if attempt > 0 {
                target = edge.find(host, path)?.0;
            }
            let turn = edge.next_turn();
            let chosen = balance::choose(&target.endpoints, &tried, turn, Instant::now());
            let Some(endpoint) = chosen.cloned() else { break };
            let lease = endpoint.lease();
            let connection = match self.connection(&endpoint, fresh, outgoing).await {
                Ok(connection) => connection,
                Err(error) => {
                    info!(error = &error as &dyn std::error::Error, instance = %endpoint.instance(), "an endpoint takes no connection");
                    avoid_for(&endpoint, edge.limits.avoid);
                    tried.push(endpoint.way);
                    last = match error {
                        ConnectError::Silent { .. } => Trouble::AnswerTooSlow,
                        ConnectError::Connect { .. }
                        | ConnectError::Relay(_)
                        | ConnectError::NoWay { .. }
                        | ConnectError::Handshake { .. } => Trouble::NoAnswer,
                    };
                    continue;
                }
            };
            let reused = connection.reused;
            match self.exchange(outgoing, connection).await {
                Sent::Answer(answer, connection) => {
                    endpoint.welcome();
                    return Ok((*answer, connection, lease));
                }
                Sent::Again => {
                    last = Trouble::NoAnswer;
                    // A connection that had grown old says nothing about its endpoint.
                    if reused {
                        fresh = true;
                    } else {
                        tried.push(endpoint.way);
                    }
                }
                Sent::Failed(trouble) => return Err(trouble),
            }
        }
        Err(last)
    }

    async fn connection(
        &self,
        endpoint: &Endpoint,
        fresh: bool,
        outgoing: &Outgoing,
    ) -> Result<Connection, ConnectError> {
        let pool = &self.edge.pool;
        while !fresh && let Some(connection) = pool.take(endpoint.way) {
            if outgoing.repeatable() || connection.alive() {
                return Ok(connection);
            }
        }
        pool.connect(endpoint.way).await
    }

    async fn exchange(&self, outgoing: &mut Outgoing, mut connection: Connection) -> Sent {
        let Some(body) = outgoing.body.take() else { return Sent::Failed(Trouble::NoAnswer) };
        let mut request = Request::new(body);
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = Uri::from(outgoing.target.clone());
        *request.headers_mut() = outgoing.headers.clone();
        let limit = self.edge.limits.answer_timeout;
        let progress = outgoing.progress.clone();
        let sent = tokio::select! {
            sent = connection.sender.try_send_request(request) => sent,
            () = silence(&progress, limit) => return Sent::Failed(Trouble::AnswerTooSlow),
            // Its node is gone or frozen: nobody knows what the app has seen of the request.
            () = dead(connection.health.as_mut()) => {
                if outgoing.repeatable() {
                    outgoing.body = Some(RequestBody::empty());
                    return Sent::Again;
                }
                return Sent::Failed(Trouble::NoAnswer);
            }
        };
        let mut failure = match sent {
            Ok(answer) => return Sent::Answer(Box::new(answer), connection),
            Err(failure) => failure,
        };
        if let Some(unsent) = failure.take_message() {
            outgoing.body = Some(unsent.into_body());
            return Sent::Again;
        }
        let error = failure.into_error();
        if progress.too_large() {
            return Sent::Failed(Trouble::BodyTooLarge);
        }
        if progress.broken() {
            return Sent::Failed(Trouble::TooSlow);
        }
        info!(error = &error as &dyn std::error::Error, "no answer from an app");
        if error.is_parse() {
            return Sent::Failed(Trouble::BadAnswer);
        }
        if outgoing.repeatable() {
            outgoing.body = Some(RequestBody::empty());
            return Sent::Again;
        }
        Sent::Failed(Trouble::NoAnswer)
    }

    #[allow(clippy::too_many_arguments)] // Every one is a thing that the answer takes with it.
    fn hand_back(
        &self,
        mut answer: Response<Incoming>,
        connection: Connection,
        lease: Lease,
        upgrade: Option<Upgrade>,
        counts: Option<Arc<Counts>>,
        link: &Arc<Link>,
        id: &RequestId,
    ) -> Result<Response<ResponseBody>, Trouble> {
        let limits = &self.edge.limits;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked: whatever the app believes it speaks now, the visitor does not.
            let Some(visitor) = upgrade else { return Err(Trouble::BadAnswer) };
            let protocol = answer.headers().get(http::header::UPGRADE).cloned();
            let app = upgraded(hyper::upgrade::on(&mut answer));
            link.become_tunnel();
            let patience = limits.upgrade_idle_timeout;
            tokio::task::spawn_local(async move {
                // However it ended, both sides know it from their connections.
                let _ = tunnel::join(visitor, app, patience).await;
                drop(lease);
            });
            let (mut parts, _) = answer.into_parts();
            forward::to_visitor(&mut parts.headers, id);
            if let Some(protocol) = protocol {
                forward::set_upgrade(&mut parts.headers, protocol);
            }
            return Ok(Response::from_parts(parts, ResponseBody::empty()));
        }
        let (mut parts, body) = answer.into_parts();
        forward::to_visitor(&mut parts.headers, id);
        parts.version = Version::HTTP_11;
        let returning = connection.returning(&self.edge.pool);
        let counts = counts.unwrap_or_default();
        let body = ResponseBody::app(body, limits.answer_idle_timeout, counts, returning, lease);
        Ok(Response::from_parts(parts, body))
    }
}

impl Outgoing {
    /// Harmless if an app sees it twice.
    fn repeatable(&self) -> bool {
        !self.had_body && self.method.is_idempotent() && !self.progress.touched()
    }
}

/// Ready when the node at the end of the connection does not answer any more.
async fn dead(health: Option<&mut watch::Receiver<Health>>) {
    if let Some(health) = health {
        // Whoever feels the pulse outlives the connection.
        if health.wait_for(|health| *health == Health::Dead).await.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

/// Ready when nothing of the request has moved for `limit`, and no answer came.
async fn silence(progress: &Progress, limit: std::time::Duration) {
    loop {
        let deadline = progress.last() + limit;
        if Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep_until(deadline.into()).await;
    }
}

/// From the target if it names one (absolute form, HTTP/2), which `Host` must then repeat.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Result<HeaderValue, Trouble> {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, None) = (hosts.next(), hosts.next()) else {
        return Err(Trouble::Malformed("A request names one host."));
    };
    let Some(authority) = uri.authority() else {
        return host.cloned().ok_or(Trouble::Malformed("A request names one host."));
    };
    if host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
    {
        return Err(Trouble::Malformed("The target and `Host` name different hosts."));
    }
    HeaderValue::from_str(authority.as_str())
        .map_err(|_| Trouble::Malformed("The host is not a host name."))
}

fn announced(headers: &HeaderMap) -> u64 {
    let value = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    value.and_then(|text| text.parse().ok()).unwrap_or(0)
}
