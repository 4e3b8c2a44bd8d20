//! From a request to its handler and back: who is it, may they, is it within its limits.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::request::Parts;
use http::{Request, header};
use http_body_util::BodyExt;
use insula_kit::metrics::SECONDS_BUCKETS;
use insula_kit::token;
use insula_model::tenancy::{Org, TokenScope};
use insula_model::{OrgId, OrgName, TokenId};
use insula_store::{SecretHash, Tx, members, orgs, tokens, users};
use insula_wire::problem::Code;

use crate::access::{Caller, CallerKind, Standing, decide, unauthenticated};
use crate::context::{Cx, Input, Names};
use crate::error::ApiError;
use crate::held;
use crate::limits;
use crate::route::{BodyKind, Route};
use crate::state::Api;
use crate::write;

/// The router of all routes.
pub fn router(api: &Api) -> Router {
    api.routes.iter().fold(Router::new(), |router, route| {
        let filter = MethodFilter::try_from(route.method.clone())
            // Routes are ours; a method that axum does not know would fail the first test.
            .unwrap_or(MethodFilter::GET);
        let (api, this) = (api.clone(), Arc::clone(route));
        let handler = move |request: Request<Body>| {
            let (api, route) = (api.clone(), Arc::clone(&this));
            async move { answer(api, route, request).await }
        };
        router.route(route.path, on(filter, handler))
    })
}

/// Runs a route, counts it, logs it, and turns every way of failing into a problem document.
async fn answer(api: Api, route: Arc<Route>, request: Request<Body>) -> Response {
    let began = Instant::now();
    let Some(names) = request.extensions().get::<Names>().cloned() else {
        // Only `serve` calls the router, and it names every request.
        return Response::new(Body::empty());
    };
    let work = AssertUnwindSafe(handle(api.clone(), Arc::clone(&route), names.clone(), request));
    let (response, who) = match work.catch_unwind().await {
        Ok((Ok(response), who)) => (response, who),
        Ok((Err(error), who)) => (error.answer(&names.request), who),
        // The panic hook has logged what and where.
        Err(_) => {
            let error = ApiError::new(Code::Internal, "the request could not be carried out");
            (error.answer(&names.request), String::new())
        }
    };
    let status = response.status().as_u16();
    let took = began.elapsed();
    let labels = &[("route", route.name), ("status", &*status.to_string())];
    let metrics = &api.state.metrics;
    metrics
        .counter("insula_api_requests_total", "Requests by route and status.", labels)
        .increment();
    let labels = &[("route", route.name)];
    metrics
        .histogram(
            "insula_api_request_seconds",
            "Time to the head of an answer.",
            labels,
            SECONDS_BUCKETS,
        )
        .observe_duration(took);
    let took_ms = took.as_millis() as u64;
    tracing::info!(route = route.name, status, took_ms, actor = who, peer = %names.peer, "request");
    response
}

async fn handle(
    api: Api,
    route: Arc<Route>,
    names: Names,
    request: Request<Body>,
) -> (Result<Response, ApiError>, String) {
    let (mut parts, body) = request.into_parts();
    let caller = match authenticate(&api, &parts, &names).await {
        Ok(caller) => caller,
        // A route for everybody does not mind a credential that is no longer one.
        Err(_) if route.rule == crate::route::Rule::Public => None,
        Err(error) => return (Err(error), String::new()),
    };
    let who = caller.as_ref().map_or_else(String::new, |caller| caller.actor().to_string());
    (admitted(api, route, names, &mut parts, body, caller).await, who)
}

async fn admitted(
    api: Api,
    route: Arc<Route>,
    names: Names,
    parts: &mut Parts,
    body: Body,
    caller: Option<Caller>,
) -> Result<Response, ApiError> {
    let params = path_params(parts).await?;
    let (org, standing) = match (params.get("org"), &caller) {
        (Some(name), Some(caller)) => stand(&api, name.clone(), caller.clone()).await?,
        (_, _) => (None, Standing::None),
    };
    decide(route.rule, caller.as_ref(), standing)?;
    if route.live
        && let Some(answer) =
            held::elsewhere(&api.state.fleet, parts, &names.request, &api.shutdown).await
    {
        return answer;
    }
    let idempotency_key =
        if route.repeats() { write::idempotency_key(&parts.headers)? } else { None };
    let query = query(parts, &route)?;
    let heavy = match (&caller, is_heavy(&route.body)) {
        (Some(caller), true) => Some(api.heavy_place(caller.token)?),
        (_, _) => None,
    };
    let patience = Patience::with(caller.as_ref());
    let body = take_body(&route, parts, body, patience).await?;
    let cx = Cx {
        api,
        names,
        caller,
        standing,
        org,
        target: format!("{} {}", parts.method, parts.uri),
        idempotency_key,
        params,
        query,
        headers: std::mem::take(&mut parts.headers),
        body,
        heavy,
    };
    Ok((route.handler)(cx).await?.into())
}

/// Who sends this, if they say so. A credential that is not valid is an error.
async fn authenticate(api: &Api, parts: &Parts, names: &Names) -> Result<Option<Caller>, ApiError> {
    let now = api.state.clock.now_ms();
    let Some(value) = parts.headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let stranger = |error: ApiError| match api.strangers.take(names.peer, now) {
        Ok(()) => error,
        Err(seconds) => too_many(seconds),
    };
    let text = value.to_str().unwrap_or_default();
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => return Err(stranger(unauthenticated("the credential is not a bearer token"))),
    };
    let token =
        token::Token::parse(token).map_err(|error| stranger(unauthenticated(error.to_string())))?;
    let hash = SecretHash(*token.hash().as_bytes());
    let at = api.now();
    let found = api.state.store.read(move |tx| caller_of(tx, &hash, at)).await?;
    let Some((caller, touch)) = found else {
        return Err(stranger(unauthenticated("the token is not valid, or not any more")));
    };
    api.credentials.take(caller.token, now).map_err(too_many)?;
    if touch {
        note_use(api, caller.token);
    }
    Ok(Some(caller))
}

fn caller_of(
    tx: &Tx,
    hash: &SecretHash,
    now: insula_model::Timestamp,
) -> Result<Option<(Caller, bool)>, ApiError> {
    let Some(known) = tokens::find(tx, hash, now)? else { return Ok(None) };
    let touch = known.touch_is_due(now);
    let token = known.token;
    let kind = match token.scope {
        TokenScope::Operator => CallerKind::Operator,
        TokenScope::Org { org, role } => CallerKind::Machine { org, role },
        TokenScope::Session { user } => {
            let Some(user) = users::get(tx, user)? else { return Ok(None) };
            CallerKind::Person { user: user.id, email: user.email, operator: user.operator }
        }
    };
    Ok(Some((Caller { token: token.id, kind, expires: token.expires }, touch)))
}

/// Notes when a credential was used, now and then and beside the request: nobody waits for it.
fn note_use(api: &Api, token: TokenId) {
    let (store, at) = (api.state.store.clone(), api.now());
    tokio::spawn(async move {
        let noted = store.write(move |tx| tokens::touch(tx, token, at)).await;
        if let Err(error) = noted {
            tracing::warn!(%error, %token, "note the use of a credential");
        }
    });
}

fn too_many(seconds: u64) -> ApiError {
    ApiError::new(Code::RateLimited, "too many requests")
        .hint("wait as long as Retry-After says; follow streams instead of asking again and again")
        .retry_after_s(seconds)
}

/// The org that is meant, by id or name, and where the caller stands in it. Looked up for every
/// request, so that a role that was taken away is gone with the next one.
async fn stand(
    api: &Api,
    name: String,
    caller: Caller,
) -> Result<(Option<Org>, Standing), ApiError> {
    api.state
        .store
        .read(move |tx| {
            let org = match (name.parse::<OrgId>(), name.parse::<OrgName>()) {
                (Ok(id), _) => orgs::get(tx, id)?,
                (_, Ok(name)) => orgs::by_name(tx, &name)?,
                (Err(_), Err(_)) => None,
            };
            let Some(org) = org else { return Ok((None, Standing::None)) };
            if caller.is_operator() {
                return Ok((Some(org), Standing::Operator));
            }
            let role = match &caller.kind {
                CallerKind::Operator => None,
                CallerKind::Machine { org: own, role } => (*own == org.id).then_some(*role),
                CallerKind::Person { user, .. } => members::get(tx, org.id, *user)?.map(|m| m.role),
            };
            Ok(role.map_or((None, Standing::None), |role| (Some(org), Standing::Role(role))))
        })
        .await
}

async fn path_params(parts: &mut Parts) -> Result<BTreeMap<String, String>, ApiError> {
    let params = RawPathParams::from_request_parts(parts, &()).await.map_err(|_| {
        ApiError::new(Code::BadRequest, "the path is not text after its escapes are read")
    })?;
    Ok(params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// The query, each parameter once and none that the route does not know.
fn query(parts: &Parts, route: &Route) -> Result<BTreeMap<String, String>, ApiError> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map_err(|_| ApiError::new(Code::BadRequest, "the query cannot be read"))?;
    let mut query = BTreeMap::new();
    for (name, value) in pairs {
        if !route.query.iter().any(|param| param.name == name) {
            let known: Vec<_> = route.query.iter().map(|param| param.name).collect();
            let name = insula_model::names::excerpt(&name);
            let hint = match known.is_empty() {
                true => "there is none here".to_owned(),
                false => format!("there are {}", known.join(", ")),
            };
            return Err(ApiError::query(&name, "not known here").hint(hint));
        }
        if query.insert(name.clone(), value).is_some() {
            return Err(ApiError::query(&name, "given twice"));
        }
    }
    Ok(query)
}

fn is_heavy(body: &BodyKind) -> bool {
    match body {
        BodyKind::None => false,
        BodyKind::Json { bytes_max, .. } => *bytes_max > limits::JSON_BODY_BYTES_MAX,
        BodyKind::Stream { .. } => true,
    }
}

/// How much of a body is taken from somebody, and for how long.
#[derive(Debug, Clone, Copy)]
struct Patience {
    bytes_max: usize,
    time: Duration,
}

impl Patience {
    fn with(caller: Option<&Caller>) -> Self {
        match caller {
            Some(_) => Self { bytes_max: usize::MAX, time: limits::JSON_BODY_TIME },
            None => Self {
                bytes_max: limits::STRANGER_BODY_BYTES_MAX,
                time: limits::STRANGER_BODY_TIME,
            },
        }
    }
}

async fn take_body(
    route: &Route,
    parts: &Parts,
    body: Body,
    patience: Patience,
) -> Result<Input, ApiError> {
    let media_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.map(|value| value.split(';').next().unwrap_or_default().trim());
    match &route.body {
        BodyKind::None => {
            // Nothing is expected; a few bytes are no reason to refuse, more are a mistake.
            whole(body, parts, limits::JSON_BODY_BYTES_MAX, patience).await.map(|_| Input::None)
        }
        BodyKind::Json { bytes_max, optional, .. } => {
            let bytes = whole(body, parts, *bytes_max, patience).await?;
            let json = media_type.is_some_and(|name| name.eq_ignore_ascii_case("application/json"));
            let left_out = bytes.is_empty() && *optional;
            if !(json || left_out) {
                return Err(another_media_type(&["application/json"]));
            }
            Ok(Input::Whole(bytes))
        }
        BodyKind::Stream { media_types } => {
            let known = |name: &str| media_types.iter().any(|one| one.eq_ignore_ascii_case(name));
            if !media_type.is_some_and(known) {
                return Err(another_media_type(media_types));
            }
            Ok(Input::stream(body))
        }
    }
}

fn another_media_type(taken: &[&str]) -> ApiError {
    ApiError::new(Code::UnsupportedMediaType, format!("this takes {}", taken.join(" or ")))
        .hint("set Content-Type")
}

/// The whole body, within a size and a time.
async fn whole(
    body: Body,
    parts: &Parts,
    bytes_max: usize,
    patience: Patience,
) -> Result<Bytes, ApiError> {
    let bytes_max = bytes_max.min(patience.bytes_max);
    let announced = parts.headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > bytes_max) {
        return Err(too_large(bytes_max));
    }
    let read = read_up_to(body, bytes_max);
    tokio::time::timeout(patience.time, read).await.unwrap_or_else(|_| Err(too_slow()))
}

async fn read_up_to(mut body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(piece) = next_piece(&mut body).await? {
        let held = first.as_ref().map_or(all.len(), Bytes::len);
        if held + piece.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        match first.take() {
            None if all.is_empty() => first = Some(piece),
            None => all.extend_from_slice(&piece),
            Some(before) => {
                all.extend_from_slice(&before);
                all.extend_from_slice(&piece);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// The next bytes of a body; nothing at its end. It must not stand still for long.
pub async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    loop {
        let frame = tokio::time::timeout(limits::BODY_STALL, body.frame());
        let Some(frame) = frame.await.map_err(|_| too_slow())? else { return Ok(None) };
        let frame = frame.map_err(|source| {
            ApiError::new(Code::BadRequest, "the body did not arrive whole").log_only(source)
        })?;
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
}

fn too_large(bytes_max: usize) -> ApiError {
    let max = insula_model::Bytes(bytes_max as u64);
    ApiError::new(Code::BodyTooLarge, format!("the body may have {max}"))
}

fn too_slow() -> ApiError {
    ApiError::new(Code::Timeout, "the body did not arrive in time")
        .hint("try again with the same Idempotency-Key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_stands_still_is_waited_for_as_long_as_its_sender_is_worth() {
        let stranger = Patience::with(None);
        assert_eq!(stranger.time, limits::STRANGER_BODY_TIME);
        assert!(stranger.time < limits::BODY_STALL);
        // The first bytes of one that never goes on.
        let begun = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from("{"))]);
        let body = Body::from_stream(futures_util::StreamExt::chain(
            begun,
            futures_util::stream::pending(),
        ));
        let (parts, ()) = Request::new(()).into_parts();
        let patience = Patience { time: Duration::from_millis(1), ..stranger };
        let refused = whole(body, &parts, limits::JSON_BODY_BYTES_MAX, patience).await;
        assert_eq!(refused.unwrap_err().code(), Code::Timeout);
    }
}
