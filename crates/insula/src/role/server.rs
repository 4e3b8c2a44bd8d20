//! The API and the control plane, as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use insula_blobs::{BlobConfig, Blobs};
use insula_control::{Cx, NodeBlobs};
use insula_kit::clock::SystemClock;
use insula_kit::random::SystemRandom;
use insula_kit::seal::{Key, Keyring};
use insula_kit::shutdown::Shutdown;
use insula_kit::uds::{self, SocketAccess};
use insula_link::Hub;
use insula_model::HostName;
use insula_store::{Store, StoreConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::LogFormatArg;
use super::gateway::GATEWAY_USER;
use crate::data::Data;

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
    blobs: super::blobs::Args,
    /// How to log
    #[arg(long, value_enum, default_value = "auto")]
    log_format: LogFormatArg,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::begin("server", args.log_format)?;
    // Two workers: the store has threads of its own, and what is left waits on sockets.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    super::run_until_asked(&runtime, |shutdown| serve(args, shutdown))
}

async fn serve(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let data = Data::choose(args.data)?;
    let clock = Arc::new(SystemClock);
    let random = Arc::new(SystemRandom::new());
    let master = Key::load_or_create(&data.master_key(), random.as_ref())
        .context("open the master key")?;
    let keys = Arc::new(Keyring::new(master));
    let store = Store::open(StoreConfig::new(data.database())).context("open the store")?;
    let blobs = Blobs::open(args.blobs.config(&data)?).context("open the blob store")?;
    blobs.probe().await.context("ask the blob store")?;
    let (hub, inbound) = Hub::new();
    let (view, seen) = watch::channel(None);
    let cx = Cx {
        store: store.clone(),
        hub: hub.clone(),
        blobs: blobs.clone(),
        clock: clock.clone(),
        random: random.clone(),
        keys: keys.clone(),
        suffix: args.domain.clone(),
    };
    let _ = (seen, clock, keys, view, inbound, cx);
    let nodes = uds::bind(&data.node_socket(), SocketAccess::PRIVATE).await?;
    let root = rustix::process::geteuid().is_root();
    let edge_access =
        SocketAccess { mode: 0o600, owner: root.then_some(GATEWAY_USER) };
    let edges = uds::bind(&data.edge_socket(), edge_access).await?;
    let listener = TcpListener::bind(args.api)
        .await
        .with_context(|| format!("listen on {}", args.api))?;
    let _ = (listener, nodes, edges, NodeBlobs(blobs), BlobConfig::Directory { path: data.blobs() });
    let _ = (hub, store);
    shutdown.requested().await;
    Ok(())
}
