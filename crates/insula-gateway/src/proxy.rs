//! One request: find its route, choose an endpoint, send it there, hand the answer back.
//!
//! A request is sent again only when nothing of it can have reached an app, or when repeating it
//! is harmless by its method and it has no body. One that may be sent, and finds nobody because a
//! node has just gone, is held for a moment instead of refused (see `hold`).

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
use insula_model::routes::RouteTable;
use insula_model::{AppId, InstanceId};
use insula_relay::{Health, OpenError, Unreachable};
use tokio::sync::watch;
use tracing::{debug, info};

use crate::body::{Progress, RequestBody, ResponseBody};
use crate::codec::{Handler, Upgrade, Visit, upgraded};
use crate::endpoint::{Endpoint, Lease, Ledger, avoid_for};
use crate::error::chain;
use crate::forward::{self, Visitor};
use crate::front::Link;
use crate::hold::{self, Doubt, Hall, Prospect, Step};
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
    hall: Rc<Hall>,
    /// Moves with every table.
    adopted: watch::Sender<u64>,
    turn: Cell<usize>,
    random: SystemRandom,
    pub(crate) limits: Arc<Limits>,
    trusted_proxies: Arc<[IpAddr]>,
}

/// What stands behind a route.
#[derive(Debug)]
struct Target {
    app: AppId,
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
            hall: Rc::default(),
            adopted: watch::Sender::new(0),
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
                    app: route.app,
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
        self.adopted.send_modify(|count| *count = count.wrapping_add(1));
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

    /// What a request that has found nobody may hope for from an endpoint.
    fn prospect<'s>(&self, endpoint: &Endpoint, search: &'s Search) -> Prospect<'s> {
        Prospect {
            tried: search.tried.contains(&endpoint.way),
            doubt: search.doubts.iter().find(|doubt| doubt.way == endpoint.way),
            is_dead: endpoint.is_cut_off(),
            lost: self.far.lost(&endpoint.way),
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

    /// Asks one endpoint after another until one has answered, and waits for a node that has just
    /// gone rather than to send the visitor away.
    async fn send(
        &self,
        outgoing: &mut Outgoing,
        host: &str,
        path: &str,
        first: Rc<Target>,
        fresh: bool,
    ) -> Result<(Response<Incoming>, Connection, Lease), Trouble> {
        let mut search = Search::new(fresh);
        let mut target = first;
        loop {
            match self.ask(outgoing, host, path, target, &mut search).await? {
                Some(answered) => return Ok(answered),
                None => target = self.wait(host, path, &mut search).await?,
            }
        }
    }

    /// Asks one endpoint after another, each by the table of that moment. Nothing if none of them
    /// has the request, nor the harm of it.
    async fn ask(
        &self,
        outgoing: &mut Outgoing,
        host: &str,
        path: &str,
        mut target: Rc<Target>,
        search: &mut Search,
    ) -> Result<Option<(Response<Incoming>, Connection, Lease)>, Trouble> {
        let edge = &self.edge;
        for attempt in 0..edge.limits.attempts_max {
            if attempt > 0 {
                target = edge.find(host, path)?.0;
            }
            let (turn, asked) = (edge.next_turn(), Instant::now());
            let chosen = balance::choose(&target.endpoints, &search.tried, turn, asked);
            let Some(endpoint) = chosen.cloned() else { break };
            let lease = endpoint.lease();
            let connection = match self.connection(&endpoint, search.fresh, outgoing).await {
                Ok(connection) => connection,
                Err(error) => {
                    info!(error = chain(&error), instance = %endpoint.instance(), "an endpoint takes no connection");
                    avoid_for(&endpoint, edge.limits.avoid);
                    search.refused(endpoint.way, asked, &error);
                    continue;
                }
            };
            let reused = connection.reused;
            match self.exchange(outgoing, connection).await {
                Sent::Answer(answer, connection) => {
                    endpoint.welcome();
                    return Ok(Some((*answer, connection, lease)));
                }
                // A connection that had grown old says nothing about its endpoint.
                Sent::Again if reused => {
                    (search.fresh, search.last) = (true, Trouble::NoAnswer);
                }
                Sent::Again => search.broke(endpoint.way, asked),
                Sent::Failed(trouble) => return Err(trouble),
            }
        }
        Ok(None)
    }

    /// Ready as soon as there is somebody to ask, who is then in the target; an error if nobody is
    /// expected, the time is up, or too many wait already. A visitor who leaves drops this.
    async fn wait(
        &self,
        host: &str,
        path: &str,
        search: &mut Search,
    ) -> Result<Rc<Target>, Trouble> {
        let edge = &self.edge;
        let limits = &edge.limits;
        if search.doubts.is_empty() {
            return Err(search.last);
        }
        let Some(mut nodes) = edge.far.changes() else { return Err(search.last) };
        let mut tables = edge.adopted.subscribe();
        let until = *search.until.get_or_insert_with(|| Instant::now() + limits.hold);
        let mut place = None;
        loop {
            nodes.borrow_and_update();
            tables.borrow_and_update();
            let target = edge.find(host, path)?.0;
            // Nobody else is bothered with what so many have dropped for no fault of their nodes.
            let spent = search.blamed(|way| edge.far.lost(way)) >= limits.attempts_max as usize;
            let prospects = target.endpoints.iter().map(|it| {
                let prospect = edge.prospect(it, search);
                Prospect { tried: prospect.tried || spent, ..prospect }
            });
            match hold::step(prospects, limits.hold, Instant::now(), until) {
                Step::Anew => {
                    let is_back = |it: &&Rc<Endpoint>| edge.prospect(it, search).is_back();
                    let back = target.endpoints.iter().filter(is_back).map(|it| it.way);
                    let back: Vec<Way> = back.collect();
                    search.forgive(&back);
                    return Ok(target);
                }
                Step::Wait(moment) => {
                    if place.is_none() {
                        place = edge.hall.place(target.app, limits);
                    }
                    if place.is_none() {
                        debug!(host, "as many requests wait for nodes as may");
                        return Err(search.last);
                    }
                    tokio::select! {
                        _ = nodes.changed() => {}
                        _ = tables.changed() => {}
                        () = tokio::time::sleep_until(moment.into()) => {}
                    }
                }
                Step::GiveUp => return Err(search.last),
            }
        }
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
        info!(error = chain(&error), "no answer from an app");
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

/// What looking for somebody who answers has come to.
struct Search {
    tried: Vec<Way>,
    /// Those of them whose node may be to blame.
    doubts: Vec<Doubt>,
    /// What the visitor is told if it comes to nothing.
    last: Trouble,
    /// On a connection of its own.
    fresh: bool,
    /// As long as it waits, once it does.
    until: Option<Instant>,
}

impl Search {
    fn new(fresh: bool) -> Self {
        let (tried, doubts) = (Vec::new(), Vec::new());
        Self { tried, doubts, last: Trouble::NothingReady, fresh, until: None }
    }

    fn refused(&mut self, way: Way, asked: Instant, error: &ConnectError) {
        self.tried.push(way);
        self.last = match error {
            ConnectError::Silent { .. } => Trouble::AnswerTooSlow,
            ConnectError::Connect { .. }
            | ConnectError::Relay(_)
            | ConnectError::NoWay { .. }
            | ConnectError::Handshake { .. } => Trouble::NoAnswer,
        };
        let ConnectError::Relay(OpenError::Unreachable { source, .. }) = error else { return };
        match source {
            Unreachable::Dead { .. } => self.doubt(way, asked, true),
            Unreachable::Dial { .. } | Unreachable::Tls { .. } | Unreachable::Ask { .. } => {
                self.doubt(way, asked, false);
            }
            // Who is there and says nothing, or nonsense, has had the visitor's time already.
            Unreachable::Slow { .. } | Unreachable::Nonsense { .. } => {}
        }
    }

    /// The request was on its way, and may be sent again.
    fn broke(&mut self, way: Way, asked: Instant) {
        self.tried.push(way);
        self.last = Trouble::NoAnswer;
        match way {
            Way::There { .. } => self.doubt(way, asked, false),
            Way::Here(_) | Way::Nowhere(_) => {}
        }
    }

    fn doubt(&mut self, way: Way, asked: Instant, was_dead: bool) {
        self.doubts.push(Doubt { way, asked, failed: Instant::now(), was_dead });
    }

    /// How many failed without their node being gone.
    fn blamed(&self, lost: impl Fn(&Way) -> Option<Instant>) -> usize {
        let excused = self.doubts.iter().filter(|doubt| doubt.is_confirmed(lost(&doubt.way)));
        self.tried.len() - excused.count()
    }

    /// Those may be asked again.
    fn forgive(&mut self, back: &[Way]) {
        self.tried.retain(|way| !back.contains(way));
        self.doubts.retain(|doubt| !back.contains(&doubt.way));
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
