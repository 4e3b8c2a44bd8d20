//! What every request needs, in one handle.

use std::net::IpAddr;
use std::sync::Arc;

use insula_blobs::Blobs;
use insula_kit::clock::Clock;
use insula_kit::metrics::Metrics;
use insula_kit::random::Random;
use insula_kit::seal::Keyring;
use insula_kit::shutdown::Shutdown;
use insula_link::Hub;
use insula_model::app::App;
use insula_model::release::Release;
use insula_model::{HostName, OrgId, Timestamp, TokenId};
use insula_store::Store;
use insula_wire::problem::Code;
use tokio::sync::watch;

use crate::error::ApiError;
use crate::fleet::Fleet;
use crate::limiter::{Limiter, Rate};
use crate::limits;
use crate::outcomes::Outcomes;
use crate::password::Passwords;
use crate::place::{Full, Place, Places};
use crate::route::Route;

/// What the operator decided.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Every app answers at its name under this.
    pub suffix: HostName,
    /// How browsers reach the edge: `http` or `https`, and the port if it is not the usual one.
    pub edge_scheme: &'static str,
    pub edge_port: Option<u16>,
    /// Whether there are no hard limits, and therefore one org at most.
    pub development: bool,
    pub version: String,
    /// A folder for archives on their way, on a disk that has room for them.
    pub spool: std::path::PathBuf,
}

/// What the control plane saw and decided last: what `why` and `routes` are answered from.
pub type View = watch::Receiver<insula_plan::View>;

/// What the API works with.
#[derive(Debug, Clone)]
pub struct ApiState {
    pub store: Store,
    pub blobs: Blobs,
    pub hub: Hub,
    pub fleet: Fleet,
    pub view: View,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    /// The key that wraps the orgs' data keys, with those before it.
    pub master: Arc<Keyring>,
    pub metrics: Metrics,
}

/// Clones share one API.
#[derive(Debug, Clone)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
pub struct Inner {
    pub config: ApiConfig,
    pub state: ApiState,
    pub shutdown: Shutdown,
    pub started: Timestamp,
    pub outcomes: Outcomes,
    pub passwords: Passwords,
    pub credentials: Limiter<TokenId>,
    pub strangers: Limiter<IpAddr>,
    /// By the address that is written and the one that it comes from.
    pub sign_in_pairs: Limiter<(String, IpAddr)>,
    pub sign_in_emails: Limiter<String>,
    pub sign_in_addresses: Limiter<IpAddr>,
    pub routes: Vec<Arc<Route>>,
    /// Bytes of sources that an org has sent, whether or not they were deployed.
    pub uploads: Limiter<OrgId>,
    streams: Places<TokenId>,
    heavy: Places<TokenId>,
}

impl std::ops::Deref for Api {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Api {
    pub fn new(config: ApiConfig, state: ApiState, shutdown: Shutdown) -> Self {
        let rate = |per_second, burst| Rate { per_second, burst };
        Self(Arc::new(Inner {
            started: Timestamp::from_millis(state.clock.now_ms()),
            outcomes: Outcomes::after(*state.store.events().borrow()),
            passwords: Passwords::new(Arc::clone(&state.random)),
            credentials: Limiter::new(rate(limits::CREDENTIAL_RATE, limits::CREDENTIAL_BURST)),
            strangers: Limiter::new(rate(limits::STRANGER_RATE, limits::STRANGER_BURST)),
            sign_in_pairs: Limiter::new(rate(
                limits::SIGN_IN_PAIR_RATE,
                limits::SIGN_IN_PAIR_BURST,
            )),
            sign_in_emails: Limiter::new(rate(
                limits::SIGN_IN_EMAIL_RATE,
                limits::SIGN_IN_EMAIL_BURST,
            )),
            sign_in_addresses: Limiter::new(rate(
                limits::SIGN_IN_ADDRESS_RATE,
                limits::SIGN_IN_ADDRESS_BURST,
            )),
            routes: crate::table::routes().into_iter().map(Arc::new).collect(),
            uploads: Limiter::new(rate(limits::UPLOAD_RATE, limits::UPLOAD_BURST)),
            streams: Places::new(limits::STREAMS_PER_CREDENTIAL_MAX, limits::CONNECTIONS_MAX / 2),
            heavy: Places::new(limits::HEAVY_PER_CREDENTIAL_MAX, limits::HEAVY_MAX),
            config,
            state,
            shutdown,
        }))
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.state.clock.now_ms())
    }

    /// Where an app answers with this release, if it does: workers and jobs answer nobody. Before
    /// there is a release, where it is going to answer if something of it does.
    pub fn url_of(&self, app: &App, release: Option<&Release>) -> String {
        if release.is_some_and(|release| !is_routed(release)) {
            return String::new();
        }
        let host = app.default_host(&self.config.suffix).map_or(String::new(), |h| h.to_string());
        let port = self.config.edge_port.map_or(String::new(), |port| format!(":{port}"));
        format!("{}://{host}{port}/", self.config.edge_scheme)
    }

    /// A place for one more stream of this credential; free again when dropped.
    pub fn stream_place(&self, credential: TokenId) -> Result<Place<TokenId>, ApiError> {
        self.streams.take(credential).map_err(|full| match full {
            Full::Own(max) => {
                let text = format!("this credential has {max} streams open, which is all it may");
                ApiError::new(Code::TooManyStreams, text)
                    .hint("close some of them")
                    .retry_after_s(5)
            }
            Full::All => {
                ApiError::new(Code::Unavailable, "too many streams are open").retry_after_s(5)
            }
        })
    }

    /// A place for one more body that is large; free again when dropped.
    pub fn heavy_place(&self, credential: TokenId) -> Result<Place<TokenId>, ApiError> {
        self.heavy.take(credential).map_err(|full| match full {
            Full::Own(max) => {
                let text = format!("this credential sends {max} large bodies, which is all it may");
                ApiError::new(Code::RateLimited, text).hint("send fewer at once").retry_after_s(1)
            }
            Full::All => ApiError::new(Code::Unavailable, "too many large bodies are being sent")
                .retry_after_s(2),
        })
    }
}

fn is_routed(release: &Release) -> bool {
    let mut components = release.spec.components.values();
    components
        .any(|component| !insula_plan::routes::effective_routes(release, component).is_empty())
}
