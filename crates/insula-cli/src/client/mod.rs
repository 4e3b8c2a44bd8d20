//! Requests to a server: JSON, pages, streams and uploads, over HTTP/1.1 and rustls with ring.
//!
//! Every change carries an `Idempotency-Key` that stays the same however often it has to be sent,
//! so a connection that breaks, or a server that restarts, costs a moment and not a doubt. Paths
//! are written by the commands; words for failures are found in `failure`.

mod address;
mod error;
mod retry;
mod sse;
mod target;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use insula_kit::random::{Random, SystemRandom};
use insula_wire::problem::Problem;
use insula_wire::rest::Page;
use insula_wire::rest::page::Hidden;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use address::{AddressError, Server};
pub use error::ClientError;
pub use sse::Sse;
pub use target::Target;

use retry::{Attempt, Fault};

const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Until an answer begins. The server checks a manifest of 100,000 files well within it.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// The same for an upload, which is as slow as the line: a body that stands still is the server's
/// to cut.
const UPLOAD_TIME: Duration = Duration::from_secs(3_600);
/// Three times the pause after which a quiet stream says that it lives.
const STREAM_QUIET: Duration = Duration::from_secs(45);
/// The longest list that fits a page is far below; more is not from a server of ours.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Items asked for at once.
const PAGE_ITEMS: usize = 200;
/// A list longer than this is not read by a person, and a program asks the API itself.
const LIST_ITEMS_MAX: usize = 10_000;

pub type SendBody = UnsyncBoxBody<Bytes, io::Error>;

/// What is sent, in a form that can be sent again.
#[derive(Clone)]
pub enum Body {
    Empty,
    Json(Bytes),
    Stream {
        media_type: &'static str,
        len: u64,
        open: Arc<dyn Fn() -> SendBody + Send + Sync>,
        /// Whether opening it again would be no use.
        gave_up: Arc<dyn Fn() -> bool + Send + Sync>,
    },
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // May hold what nobody should read in a log.
        f.write_str("Body")
    }
}

impl Body {
    pub fn json<T: Serialize>(value: &T) -> Self {
        // Our own request types are strings, numbers and maps with keys that are strings.
        Self::Json(serde_json::to_vec(value).expect("a request becomes JSON").into())
    }

    fn gave_up(&self) -> bool {
        match self {
            Self::Empty | Self::Json(_) => false,
            Self::Stream { gave_up, .. } => gave_up(),
        }
    }

    fn open(&self) -> SendBody {
        match self {
            Self::Empty => Full::default().map_err(|never| match never {}).boxed_unsync(),
            Self::Json(bytes) => {
                Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync()
            }
            Self::Stream { open, .. } => open(),
        }
    }
}

/// Called when a command has to wait for the server: with the reason.
pub type Waiting = Box<dyn Fn(&str) + Send + Sync>;

pub struct Client {
    http: Http<HttpsConnector<HttpConnector>, SendBody>,
    server: Server,
    token: Option<HeaderValue>,
    heard: AtomicBool,
    waiting: Waiting,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("server", &self.server).finish_non_exhaustive()
    }
}

/// After so long people want to know what they wait for.
const WAITING_SAID_AFTER: Duration = Duration::from_secs(1);

impl Client {
    pub fn new(
        server: Server,
        token: Option<&Hidden>,
        insecure_http: bool,
        waiting: Waiting,
    ) -> Result<Self, ClientError> {
        if !server.uses_tls() && !server.is_loopback() && !insecure_http {
            return Err(ClientError::Insecure { server });
        }
        let token = match token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.0.trim()))
                    .map_err(|_| ClientError::Token { given: "what was given" })?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let http = Http::builder(TokioExecutor::new()).build(connector(&server)?);
        Ok(Self { http, server, token, heard: AtomicBool::new(false), waiting })
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    pub async fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T, ClientError> {
        self.json(Method::GET, target, Body::Empty, None).await
    }

    /// A POST that only asks.
    pub async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        target: &Target,
        body: &B,
    ) -> Result<T, ClientError> {
        self.json(Method::POST, target, Body::json(body), None).await
    }

    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        target: &Target,
        body: &B,
    ) -> Result<T, ClientError> {
        self.json(Method::POST, target, Body::json(body), Some(key())).await
    }

    /// A POST that says everything by its path.
    pub async fn act<T: DeserializeOwned>(&self, target: &Target) -> Result<T, ClientError> {
        self.json(Method::POST, target, Body::Empty, Some(key())).await
    }

    pub async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        target: &Target,
        body: &B,
    ) -> Result<T, ClientError> {
        self.json(Method::PUT, target, Body::json(body), Some(key())).await
    }

    pub async fn patch<B: Serialize, T: DeserializeOwned>(
        &self,
        target: &Target,
        body: &B,
    ) -> Result<T, ClientError> {
        self.json(Method::PATCH, target, Body::json(body), Some(key())).await
    }

    pub async fn upload<T: DeserializeOwned>(
        &self,
        target: &Target,
        body: Body,
    ) -> Result<T, ClientError> {
        self.json(Method::PUT, target, body, Some(key())).await
    }

    /// A change whose answer is empty, or does not matter.
    pub async fn change(
        &self,
        method: Method,
        target: &Target,
        body: Body,
    ) -> Result<(), ClientError> {
        let what = format!("{method} {target}");
        let response = self.send(method, target, body, Some(key()), false).await?;
        self.read(response, &what).await.map(drop)
    }

    pub async fn delete(&self, target: &Target) -> Result<(), ClientError> {
        self.change(Method::DELETE, target, Body::Empty).await
    }

    /// A list that has no pages.
    pub async fn whole<T: DeserializeOwned>(&self, target: &Target) -> Result<Vec<T>, ClientError> {
        Ok(self.get::<Page<T>>(target).await?.items)
    }

    /// A list to its end, page by page.
    pub async fn all<T: DeserializeOwned>(&self, target: &Target) -> Result<Vec<T>, ClientError> {
        self.some(target, LIST_ITEMS_MAX).await
    }

    /// The first `max` items of a list.
    pub async fn some<T: DeserializeOwned>(
        &self,
        target: &Target,
        max: usize,
    ) -> Result<Vec<T>, ClientError> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < max {
            let limit = (max - items.len()).min(PAGE_ITEMS);
            let target = target.clone().with("limit", limit).with_some("cursor", cursor.as_ref());
            let page: Page<T> = self.get(&target).await?;
            items.extend(page.items);
            match page.next {
                // The same place again would go on for ever.
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                Some(_) | None => break,
            }
        }
        items.truncate(max);
        Ok(items)
    }

    /// Opens a stream of server-sent events.
    pub async fn stream(&self, target: &Target) -> Result<Events, ClientError> {
        let what = format!("GET {target}");
        let response = self.send(Method::GET, target, Body::Empty, None, true).await?;
        if !response.status().is_success() {
            let status = response.status();
            let bytes = self.bytes(response, &what).await?;
            return Err(self.refusal(status, &bytes, what));
        }
        Ok(Events {
            server: self.server.clone(),
            what,
            body: response.into_body(),
            parser: sse::Parser::default(),
            ready: Vec::new().into_iter(),
        })
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        body: Body,
        key: Option<String>,
    ) -> Result<T, ClientError> {
        let what = format!("{method} {target}");
        let response = self.send(method, target, body, key, false).await?;
        let bytes = self.read(response, &what).await?;
        let server = self.server.clone();
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Answer {
            server,
            what,
            source,
        })
    }

    /// The body of a success; a refusal as an error.
    async fn read(&self, response: Response<Incoming>, what: &str) -> Result<Bytes, ClientError> {
        let status = response.status();
        let bytes = self.bytes(response, what).await?;
        if status.is_success() {
            return Ok(bytes);
        }
        Err(self.refusal(status, &bytes, what.to_owned()))
    }

    async fn bytes(&self, response: Response<Incoming>, what: &str) -> Result<Bytes, ClientError> {
        let limited = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let (server, what) = (self.server.clone(), what.to_owned());
        match tokio::time::timeout(ANSWER_TIME, limited.collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                Err(ClientError::TooLarge { server, what, max: ANSWER_BYTES_MAX })
            }
            Ok(Err(source)) => Err(ClientError::Lost { server, what, source }),
            Err(_) => Err(ClientError::TimedOut { server, what, after: ANSWER_TIME }),
        }
    }

    fn refusal(&self, status: StatusCode, bytes: &[u8], what: String) -> ClientError {
        let server = self.server.clone();
        match serde_json::from_slice::<Problem>(bytes) {
            Ok(problem) => ClientError::Refused { server, problem: Box::new(problem) },
            Err(_) => ClientError::Strange { server, what, status: status.as_u16() },
        }
    }

    /// Sends until there is an answer that is final, or until it would be no use.
    async fn send(
        &self,
        method: Method,
        target: &Target,
        body: Body,
        key: Option<String>,
        streams: bool,
    ) -> Result<Response<Incoming>, ClientError> {
        let what = format!("{method} {target}");
        let began = Instant::now();
        let mut said = false;
        for number in 0.. {
            let request = self.request(&method, target, &body, key.as_deref(), streams)?;
            let time = if matches!(body, Body::Stream { .. }) { UPLOAD_TIME } else { ANSWER_TIME };
            let sent = tokio::time::timeout(time, self.http.request(request)).await;
            let attempt = Attempt {
                number,
                failing_for: began.elapsed(),
                heard: self.heard.load(Ordering::Relaxed),
                // Questions change nothing, and changes carry a key.
                repeatable: !body.gave_up(),
            };
            let server = self.server.clone();
            let (fault, outcome) = match sent {
                Err(_) => return Err(ClientError::TimedOut { server, what, after: time }),
                Ok(Ok(response)) => {
                    self.heard.store(true, Ordering::Relaxed);
                    match not_now(&response) {
                        None => return Ok(response),
                        Some(fault) => (fault, Ok(response)),
                    }
                }
                Ok(Err(source)) if source.is_connect() => {
                    (Fault::NotConnected, Err(ClientError::Unreachable { server, source }))
                }
                Ok(Err(source)) => {
                    let (what, source) = (what.clone(), source.into());
                    (Fault::Lost, Err(ClientError::Lost { server, what, source }))
                }
            };
            let Some(pause) = retry::pause(fault, attempt) else { return outcome };
            if !said && (began.elapsed() + pause) >= WAITING_SAID_AFTER {
                said = true;
                (self.waiting)(match fault {
                    Fault::NotConnected => "it cannot be reached",
                    Fault::Lost => "the connection was lost",
                    Fault::NotNow { .. } => "it asks for patience",
                });
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("attempts end by an answer or by patience that runs out")
    }

    fn request(
        &self,
        method: &Method,
        target: &Target,
        body: &Body,
        key: Option<&str>,
        streams: bool,
    ) -> Result<Request<SendBody>, ClientError> {
        let mut builder = Request::builder()
            .method(method)
            .uri(format!("{}{target}", self.server))
            .header(header::USER_AGENT, concat!("insula/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, if streams { "text/event-stream" } else { "application/json" });
        if let Some(token) = &self.token {
            builder = builder.header(header::AUTHORIZATION, token.clone());
        }
        if let Some(key) = key {
            builder = builder.header("idempotency-key", key);
        }
        match body {
            Body::Empty => {}
            Body::Json(_) => builder = builder.header(header::CONTENT_TYPE, "application/json"),
            Body::Stream { media_type, len, .. } => {
                builder = builder
                    .header(header::CONTENT_TYPE, *media_type)
                    .header(header::CONTENT_LENGTH, *len);
            }
        }
        builder
            .body(body.open())
            .map_err(|source| ClientError::Request { what: format!("{method} {target}"), source })
    }
}

/// An answer that means: later.
fn not_now(response: &Response<Incoming>) -> Option<Fault> {
    let retry_after = retry_after(response.headers());
    match response.status() {
        // Some 429 are final: they say no time.
        StatusCode::TOO_MANY_REQUESTS => retry_after.map(|_| Fault::NotNow { retry_after }),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            Some(Fault::NotNow { retry_after })
        }
        _ => None,
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// One for each change that a command makes.
fn key() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes);
    format!("cli-{}", insula_kit::digest::hex(&bytes))
}

fn connector(server: &Server) -> Result<HttpsConnector<HttpConnector>, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(CONNECT_TIME));
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Tls { source };
    if server.uses_tls() {
        let builder = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(|error| failed(error.into()))?;
        return Ok(builder.https_only().enable_http1().wrap_connector(tcp));
    }
    // Reading the system's certificates takes longer than most commands; nobody needs them here.
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.into()))?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
    Ok(builder.enable_http1().wrap_connector(tcp))
}

/// An open stream of server-sent events.
#[derive(Debug)]
pub struct Events {
    server: Server,
    what: String,
    body: Incoming,
    parser: sse::Parser,
    ready: std::vec::IntoIter<Sse>,
}

impl Events {
    /// The next event; nothing when the server has ended the stream. May be dropped while waiting.
    pub async fn next(&mut self) -> Result<Option<Sse>, ClientError> {
        loop {
            if let Some(event) = self.ready.next() {
                return Ok(Some(event));
            }
            let (server, what) = (self.server.clone(), self.what.clone());
            let frame = match tokio::time::timeout(STREAM_QUIET, self.body.frame()).await {
                Err(_) => {
                    return Err(ClientError::TimedOut { server, what, after: STREAM_QUIET });
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(source))) => {
                    return Err(ClientError::Lost { server, what, source: source.into() });
                }
                Ok(Some(Ok(frame))) => frame,
            };
            if let Ok(bytes) = frame.into_data() {
                self.ready = self.parser.push(&bytes)?.into_iter();
            }
        }
    }
}

#[cfg(test)]
mod tests;
