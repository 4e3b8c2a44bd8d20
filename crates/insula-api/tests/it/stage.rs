//! The stage of all stories: a server on a loopback port, a small client, and a cast.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use insula_api::{ApiConfig, ApiState, Bootstrap, Company, Server, bootstrap};
use insula_blobs::{BlobConfig, Blobs};
use insula_kit::clock::TestClock;
use insula_kit::metrics::Metrics;
use insula_kit::random::{Random, SystemRandom};
use insula_kit::seal::{Key, Keyring};
use insula_kit::shutdown::{Cause, Shutdown};
use insula_kit::token::Token as TokenText;
use insula_link::Hub;
use insula_model::tenancy::Role;

use insula_store::{Store, StoreConfig};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

/// 2026-11-20, so that times look familiar.
const NOW_MS: i64 = 1_795_000_000_000;
pub const PASSWORD: &str = "correct horse battery";

pub struct Stage {
    pub address: SocketAddr,
    pub operator: String,
    pub store: Store,
    pub hub: Hub,
    pub clock: TestClock,
    pub master: Arc<Keyring>,
    pub view: watch::Sender<insula_plan::View>,
    pub fleet: insula_api::Fleet,
    config: ApiConfig,
    state: ApiState,
    shutdown: Shutdown,
    /// Kept, so that the hub has somebody to tell.
    _inbound: insula_link::Inbox,
    folder: tempfile::TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.shutdown.begin(Cause::Own);
    }
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_else(|| panic!("no code: {self:?}")).to_owned()
    }

    /// The document of an answer that went well.
    pub fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Asserts a refusal with this code.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.code(), code, "{}", self.text);
        self.json()
    }
}

/// What a request is besides its method and path.
#[derive(Debug, Clone, Default)]
pub struct With {
    pub token: Option<String>,
    pub body: Vec<u8>,
    pub media_type: Option<&'static str>,
    pub headers: Vec<(&'static str, String)>,
    /// Of the loopback network: where the request comes from.
    pub from: Option<std::net::Ipv4Addr>,
}

impl With {
    pub fn token(token: &str) -> Self {
        Self { token: Some(token.into()), ..Self::default() }
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.media_type = Some("application/json");
        self
    }

    pub fn body(mut self, media_type: &'static str, body: Vec<u8>) -> Self {
        (self.media_type, self.body) = (Some(media_type), body);
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Another server on the same store, without a port of its own.
pub struct Other {
    pub server: Server,
    pub hub: Hub,
    pub fleet: insula_api::Fleet,
    _inbound: insula_link::Inbox,
}

impl Stage {
    pub fn another(&self) -> Other {
        let (hub, inbound) = Hub::new();
        let fleet = insula_api::Fleet::default();
        let state = ApiState { hub: hub.clone(), fleet: fleet.clone(), ..self.state.clone() };
        let server = Server::new(self.config.clone(), state, self.shutdown.clone());
        Other { server, hub, fleet, _inbound: inbound }
    }

    /// As when the process is asked to end.
    pub fn end(&self) {
        self.shutdown.begin(Cause::Terminate);
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub async fn open() -> Self {
        Self::open_with(|_| ()).await
    }

    pub async fn open_with(adjust: impl FnOnce(&mut ApiConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig::new(folder.path().join("insula.db"))).unwrap();
        let blobs =
            Blobs::open(BlobConfig::Directory { path: folder.path().join("blobs") }).unwrap();
        let (hub, inbound) = Hub::new();
        let random: Arc<dyn Random> = Arc::new(SystemRandom::new());
        let clock = TestClock::new(NOW_MS);
        let operator = TokenText::generate("inso", &*random).expose().to_owned();
        let first = Bootstrap::usual().unwrap();
        bootstrap(&store, &clock, &*random, &operator, first, Company::Alone).await.unwrap();
        let (view, seen) = watch::channel(insula_plan::blank("localhost".parse().unwrap()));
        let master = Arc::new(Keyring::new(Key::generate(&*random)));
        let mut config = ApiConfig {
            suffix: "localhost".parse().unwrap(),
            edge_scheme: "http",
            edge_port: Some(8080),
            development: false,
            version: "0.1.0".into(),
            spool: folder.path().into(),
        };
        adjust(&mut config);
        let fleet = insula_api::Fleet::default();
        let state = ApiState {
            store: store.clone(),
            blobs,
            hub: hub.clone(),
            fleet: fleet.clone(),
            view: seen,
            clock: Arc::new(clock.clone()),
            random,
            master: Arc::clone(&master),
            metrics: Metrics::new(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let server = Server::new(config.clone(), state.clone(), shutdown.clone());
        tokio::spawn(server.serve(listener));
        Self {
            address,
            operator,
            store,
            hub,
            clock,
            master,
            view,
            fleet,
            config,
            state,
            shutdown,
            folder,
            _inbound: inbound,
        }
    }

    pub async fn send(&self, method: &str, path: &str, with: With) -> Answer {
        let response = self.begin(method, path, with).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    /// The answer while it is still coming.
    pub async fn begin(
        &self,
        method: &str,
        path: &str,
        with: With,
    ) -> http::Response<hyper::body::Incoming> {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(from) = with.from {
            socket.bind((from, 0).into()).unwrap();
        }
        let stream = socket.connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = Request::builder().method(method).uri(path).header("host", "api");
        if let Some(token) = &with.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(media_type) = with.media_type {
            request = request.header("content-type", media_type);
        }
        for (name, value) in &with.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(with.body))).unwrap();
        sender.send_request(request).await.unwrap()
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.send("GET", path, With::token(token)).await
    }

    pub async fn post(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.send("POST", path, With::token(token).json(body)).await
    }

    pub async fn put(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, With::token(token).json(body)).await
    }

    pub async fn delete(&self, token: &str, path: &str) -> Answer {
        self.send("DELETE", path, With::token(token)).await
    }

    /// By the operator, and it has to go well.
    pub async fn make(&self, path: &str, body: &Value) -> Value {
        self.post(&self.operator, path, body).await.ok()
    }

    pub async fn org(&self, name: &str) {
        self.make("/v1/orgs", &json!({ "name": name })).await;
    }

    /// A token of the org with this role.
    pub async fn machine(&self, org: &str, role: Role) -> String {
        let body = json!({ "name": role.as_str(), "role": role });
        let made = self.make(&format!("/v1/orgs/{org}/tokens"), &body).await;
        made["secret"].as_str().unwrap().to_owned()
    }

    /// A person with this role, invited and signed in.
    pub async fn person(&self, org: &str, role: Role) -> String {
        let email = format!("{role}@{org}.example");
        self.invite(org, &email, role).await;
        self.sign_in(&email).await
    }

    pub async fn invite(&self, org: &str, email: &str, role: Role) -> String {
        let body = json!({ "email": email, "role": role });
        let made = self.make(&format!("/v1/orgs/{org}/invitations"), &body).await;
        let body = json!({ "secret": made["secret"], "password": PASSWORD });
        let accepted =
            self.send("POST", "/v1/invitations/accept", With::default().json(&body)).await.ok();
        // Attempts are limited by address, and all of the cast live at one.
        self.clock.set_ms(insula_kit::clock::Clock::now_ms(&self.clock) + 10_000);
        accepted["user"].as_str().unwrap().to_owned()
    }

    pub async fn sign_in(&self, email: &str) -> String {
        let body = json!({ "email": email, "password": PASSWORD });
        let signed = self.send("POST", "/v1/sign-in", With::default().json(&body)).await.ok();
        self.clock.set_ms(insula_kit::clock::Clock::now_ms(&self.clock) + 60_000);
        signed["token"].as_str().unwrap().to_owned()
    }

    /// An app in the org's first environment; its id.
    pub async fn app(&self, org: &str, name: &str) -> String {
        let body = json!({ "name": name, "project": "default", "environment": "production" });
        let made = self.make(&format!("/v1/orgs/{org}/apps"), &body).await;
        made["id"].as_str().unwrap().to_owned()
    }
}
