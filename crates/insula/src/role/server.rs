//! The API and the control plane, as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use insula_api::{ApiConfig, ApiState, Bootstrap};
use insula_blobs::Blobs;
use insula_control::{Cx, NodeBlobs};
use insula_kit::clock::SystemClock;
use insula_kit::files::{self, Access};
use insula_kit::metrics::Metrics;
use insula_kit::random::{Random, SystemRandom};
use insula_kit::seal::{Key, Keyring};
use insula_kit::shutdown::{Cause, Shutdown};
use insula_kit::token::Token;
use insula_kit::uds::{self, SocketAccess};
use insula_link::{Hub, serve};
use insula_model::HostName;
use insula_store::{Store, StoreConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::LogFormatArg;
use super::gateway::GATEWAY_USER;
use crate::data::Data;

/// A port that URLs leave out.
const HTTP_PORT: u16 = 80;
/// A URL and a token.
const OPERATOR_BYTES_MAX: u64 = 4_096;
/// Within the supervisor's patience.
const END_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data folder
    #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the API listens
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDR")]
    api: SocketAddr,
    /// Where the gateway listens, for the URLs that are shown
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    edge: SocketAddr,
    /// Apps answer at NAME-ID.SUFFIX
    #[arg(long, default_value = "localhost", value_name = "SUFFIX")]
    domain: HostName,
    #[command(flatten)]
    blobs: super::blobs::BlobArgs,
    /// How to log
    #[arg(long, value_enum, default_value = "auto")]
    log_format: LogFormatArg,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::begin("server", args.log_format)?;
    // Two workers: the store has threads of its own, and what is left waits on sockets.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    super::run_until_asked(&runtime, |shutdown| run_server(args, shutdown))
}

async fn run_server(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    refuse_off_loopback(args.api)?;
    let data = Data::choose(args.data)?;
    let _lock = super::hold(&data, "server")?;
    let clock = Arc::new(SystemClock);
    let random = Arc::new(SystemRandom::new());
    let store = Store::open(StoreConfig::new(data.database())).context("open the store")?;
    let mut keys = Keyring::new(master_key(&data, &store, random.as_ref()).await?);
    if data.next_master_key().exists() {
        // A rotation was interrupted: some keys are sealed with one, some with the other.
        keys = keys
            .with_older(Key::load(&data.next_master_key()).context("open the next master key")?);
    }
    let keys = Arc::new(keys);
    let blobs = Blobs::open(args.blobs.config(&data)?).context("open the blob store")?;
    blobs.probe().await.context("ask the blob store")?;
    let (hub, inbound) = Hub::new();
    let (view, seen) = watch::channel(insula_plan::blank(args.domain.clone()));
    let operator = operator(&data, args.api, random.as_ref())?;
    insula_api::bootstrap(&store, clock.as_ref(), random.as_ref(), &operator, Bootstrap::usual()?)
        .await
        .context("make the operator's credential and the first org")?;
    let root = rustix::process::geteuid().is_root();
    let nodes = uds::bind(&data.node_socket(), SocketAccess::PRIVATE).await?;
    let edge_access = SocketAccess { mode: 0o600, owner: root.then_some(GATEWAY_USER) };
    let edges = uds::bind(&data.edge_socket(), edge_access).await?;
    let listener =
        TcpListener::bind(args.api).await.with_context(|| format!("listen on {}", args.api))?;
    let config = ApiConfig {
        suffix: args.domain.clone(),
        edge_scheme: "http",
        edge_port: (args.edge.port() != HTTP_PORT).then_some(args.edge.port()),
        development: !root,
        spool: data.root().join("server/spool"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let state = ApiState {
        store: store.clone(),
        blobs: blobs.clone(),
        hub: hub.clone(),
        view: seen,
        clock: clock.clone(),
        random: random.clone(),
        master: keys.clone(),
        metrics: Metrics::new(),
    };
    let cx = Cx {
        store,
        hub: hub.clone(),
        blobs: blobs.clone(),
        clock,
        random,
        keys,
        suffix: args.domain,
    };
    let asked = |shutdown: Shutdown| async move { _ = shutdown.requested().await };
    let lent = Arc::new(NodeBlobs(blobs));
    let control = tokio::spawn(insula_control::run(cx, inbound, view, shutdown.clone()));
    let nodes = tokio::spawn(serve::nodes(hub.clone(), lent, nodes, asked(shutdown.clone())));
    let edges = tokio::spawn(serve::edges(hub, edges, asked(shutdown.clone())));
    let api = tokio::spawn(insula_api::serve(config, state, listener, shutdown.clone()));
    // Whichever part ends first, by request or by failure, ends the whole; the supervisor starts it
    // again.
    let outcome = tokio::select! {
        ended = control => ended?.map_err(anyhow::Error::from),
        ended = nodes => ended?.map_err(anyhow::Error::from),
        ended = edges => ended?.map_err(anyhow::Error::from),
        ended = api => ended.map_err(anyhow::Error::from),
    };
    shutdown.begin(Cause::Own);
    if let Err(late) = shutdown.completed_within(END_TIME_MAX).await {
        tracing::warn!(%late, "ending anyway");
    }
    outcome
}

/// Plain HTTP is for this machine alone.
pub fn refuse_off_loopback(api: SocketAddr) -> anyhow::Result<()> {
    if !api.ip().is_loopback() {
        bail!(
            "--api {api}: the API speaks plain HTTP, which is refused off loopback; put a TLS proxy \
             before 127.0.0.1:{}",
            api.port()
        );
    }
    Ok(())
}

/// The key of this data folder; a new one only where nothing is sealed with another.
async fn master_key(data: &Data, store: &Store, random: &dyn Random) -> anyhow::Result<Key> {
    let path = data.master_key();
    if !path.exists() {
        let sealed = store.read(insula_store::data_keys::list_any_org).await?;
        if !sealed.is_empty() {
            bail!(
                "{} is missing, and secrets are sealed with it: put it back. If it is lost for \
                 good, `insula master-key new` makes another; secrets have to be set again then",
                path.display()
            );
        }
    }
    Key::load_or_create(&path, random).context("open the master key")
}

/// What a file holds that only its owner can read: where the API is and what opens it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Operator {
    server: String,
    token: String,
}

/// The operator's token, made and kept on the first start, before the API takes a connection.
fn operator(data: &Data, api: SocketAddr, random: &dyn Random) -> anyhow::Result<String> {
    let path = data.operator();
    let server = format!("http://{api}");
    let known = match files::read_private(&path, OPERATOR_BYTES_MAX) {
        Ok(bytes) => Some(
            serde_json::from_slice::<Operator>(&bytes)
                .with_context(|| format!("read {}; remove it to get a new one", path.display()))?,
        ),
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(error.into()),
    };
    let current = known.as_ref().is_some_and(|known| known.server == server);
    let token = match known {
        Some(known) => known.token,
        None => Token::generate("op", random).expose().to_owned(),
    };
    if !current {
        let operator = Operator { server, token: token.clone() };
        files::write_json(&path, &operator, Access::Private)?;
    }
    Ok(token)
}
