//! The API and the control plane, as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::FutureExt;
use insula_api::{ApiConfig, ApiState, Bootstrap, Company, Deciding};
use insula_blobs::Blobs;
use insula_control::{Boards, Cx, Membership, NodeBlobs};
use insula_kit::clock::{Clock, SystemClock};
use insula_kit::files::{self, Access};
use insula_kit::metrics::Metrics;
use insula_kit::random::{Random, SystemRandom};
use insula_kit::seal::{Key, Keyring};
use insula_kit::shutdown::{Cause, Shutdown};
use insula_kit::token::Token;
use insula_kit::uds::{self, SocketAccess};
use insula_link::Hub;
use insula_model::{HostName, ID_RANDOM_BYTES, ServerId, Timestamp};
use insula_plan::Rules;
use insula_store::Store;
use insula_vault::fleet::Registrar;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::LogFormatArg;
use super::fleet;
use super::gateway::GATEWAY_USER;
use crate::data::Data;
use crate::kept::Kept;

/// A port that URLs leave out.
const HTTP_PORT: u16 = 80;
/// A URL and a token.
const OPERATOR_BYTES_MAX: u64 = 4_096;
/// Within the supervisor's patience.
const END_TIME_MAX: Duration = Duration::from_secs(5);
/// What holds a database's URL, which may hold a password.
pub const DATABASE: &str = "INSULA_DATABASE";
/// What a member joins with.
pub const JOIN_TOKEN: &str = "INSULA_JOIN_TOKEN";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data folder [default: /var/lib/insula as root, else the XDG data folder]
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
    /// Where agents, gateways and other servers dial in, over mutual TLS
    #[arg(long, value_name = "ADDR")]
    fleet: Option<SocketAddr>,
    /// What they are told to dial instead, if that is another address
    #[arg(long, requires = "fleet", value_name = "ADDR")]
    advertise: Option<SocketAddr>,
    /// Keep state in this PostgreSQL, which servers can share: postgres://user@host/name
    #[arg(long, env = DATABASE, hide_env_values = true, value_name = "URL")]
    database: Option<String>,
    #[command(flatten)]
    blobs: super::blobs::BlobArgs,
    #[command(flatten)]
    promises: Promises,
    /// How to log
    #[arg(long, value_enum, default_value = "auto")]
    log_format: LogFormatArg,
}

/// How often what nodes have is promised.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Promises {
    /// How often a core is promised; most instances are idle most of the time
    #[arg(long, default_value = "16", value_parser = times, value_name = "TIMES")]
    cpu_overcommit: u32,
    /// How often memory is promised; who is over his own dies, and so does a node that is over
    #[arg(long, default_value = "1", value_parser = times, value_name = "TIMES")]
    memory_overcommit: u32,
}

impl Promises {
    fn rules(self) -> Rules {
        Rules {
            cpu_overcommit: self.cpu_overcommit,
            memory_overcommit: self.memory_overcommit,
            ..Rules::default()
        }
    }

    /// As `up` passes them on.
    pub fn args(self) -> [String; 4] {
        let times = |hundredths: u32| format!("{}", f64::from(hundredths) / 100.0);
        [
            "--cpu-overcommit".into(),
            times(self.cpu_overcommit),
            "--memory-overcommit".into(),
            times(self.memory_overcommit),
        ]
    }
}

/// In hundredths: `1.5` is 150.
fn times(text: &str) -> Result<u32, String> {
    const RANGE: std::ops::RangeInclusive<f64> = 0.1..=1_000.0;
    match text.parse::<f64>() {
        Ok(times) if RANGE.contains(&times) => Ok((times * 100.0).round() as u32),
        Ok(_) | Err(_) => Err("write a number from 0.1 to 1000".into()),
    }
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
    let kept = Kept::read(&data)?;
    let kept = Kept {
        database: args.database.or(kept.database),
        blobs: args.blobs.asked()?.or(kept.blobs),
    };
    let store = tokio::select! {
        store = super::store::open(kept.store(&data)?) => store?,
        _ = shutdown.requested() => return Ok(()),
    };
    let mut keys = Keyring::new(master_key(&data, &store, random.as_ref()).await?);
    if data.next_master_key().exists() {
        // A rotation was interrupted: some keys are sealed with one, some with the other.
        keys = keys
            .with_older(Key::load(&data.next_master_key()).context("open the next master key")?);
    }
    let keys = Arc::new(keys);
    // Before anything is written: a server with the key of another fleet must not touch this one.
    let registrar = Registrar::open(store.clone(), keys.clone(), random.clone(), clock.clone());
    let registrar = registrar
        .await
        .with_context(|| format!("use {} with this database", data.master_key().display()))?;
    let blobs =
        Blobs::open(super::blobs::config(&data, kept.blobs.clone())).context("open the blobs")?;
    blobs.probe().await.context("ask the blob store")?;
    kept.note_used(&data)?;
    let (hub, inbound) = Hub::new();
    let boards = Boards::of(watch::Sender::new(insula_plan::blank(args.domain.clone())));
    let operator = operator(&data, args.api, random.as_ref())?;
    let first = Bootstrap::usual()?;
    let company = if kept.database.is_none() { Company::Alone } else { Company::Shared };
    insula_api::bootstrap(&store, clock.as_ref(), random.as_ref(), &operator, first, company)
        .await
        .context("make the operator's credential and the first org")?;
    let root = rustix::process::geteuid().is_root();
    let nodes = uds::bind(&data.node_socket(), SocketAccess::PRIVATE).await?;
    let edge_access = SocketAccess { mode: 0o600, owner: root.then_some(GATEWAY_USER) };
    let edges = uds::bind(&data.edge_socket(), edge_access).await?;
    let listener =
        TcpListener::bind(args.api).await.with_context(|| format!("listen on {}", args.api))?;
    let membership = Membership {
        id: server_id(&data, clock.as_ref(), random.as_ref())?,
        fleet: args.advertise.or(args.fleet),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        alone: kept.database.is_none(),
    };
    if let Some(fleet) = membership.fleet
        && fleet.ip().is_unspecified()
    {
        bail!("--fleet {fleet}: say with --advertise which address others shall dial");
    }
    let config = ApiConfig {
        suffix: args.domain.clone(),
        edge_scheme: "http",
        edge_port: (args.edge.port() != HTTP_PORT).then_some(args.edge.port()),
        // Apart, its nodes say by themselves whether they keep orgs apart; who does not gets one.
        development: !root && std::env::var_os(crate::SUPERVISOR).is_some(),
        spool: data.root().join("server/spool"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let fleet_said = insula_api::Fleet::default();
    // Until that is clear, questions of what is live wait.
    fleet_said.set_deciding(Deciding::Nobody);
    let state = ApiState {
        store: store.clone(),
        blobs: blobs.clone(),
        hub: hub.clone(),
        fleet: fleet_said.clone(),
        view: boards.view.subscribe(),
        clock: clock.clone(),
        random: random.clone(),
        master: keys.clone(),
        metrics: Metrics::new(),
    };
    hub.show_relays(state.metrics.clone());
    let api = insula_api::Server::new(config, state, shutdown.clone());
    let lent = Arc::new(NodeBlobs(blobs.clone()));
    let house = fleet::House {
        registrar,
        clock: clock.clone(),
        hub: hub.clone(),
        blobs: lent.clone(),
        api: api.clone(),
        said: fleet_said,
        id: membership.id,
        listen: args.fleet,
        advertise: membership.fleet,
    };
    let cx = Cx {
        store,
        hub: hub.clone(),
        blobs,
        clock,
        random,
        keys,
        suffix: args.domain,
        rules: args.promises.rules(),
    };
    // Shared, because every door waits for it.
    let asked = {
        let shutdown = shutdown.clone();
        async move { _ = shutdown.requested().await }.boxed().shared()
    };
    let (leadership, status) = (boards.leadership.subscribe(), boards.status.subscribe());
    let view = boards.view.subscribe();
    let open = house.open().await?;
    let serving = insula_control::serve(cx, membership, inbound, boards, shutdown.clone());
    let control = tokio::spawn(serving);
    let fleet = tokio::spawn(open.run(leadership, view, status, nodes, edges, asked));
    let api = tokio::spawn(api.serve(listener));
    // Whichever part ends first, by request or by failure, ends the whole; the supervisor starts it
    // again.
    let mut control = control;
    let outcome = tokio::select! {
        ended = &mut control => ended?.map_err(anyhow::Error::from),
        ended = fleet => ended?,
        ended = api => ended.map_err(anyhow::Error::from),
    };
    shutdown.begin(Cause::Own);
    if !control.is_finished() {
        // It gives its lease back, so that another need not wait for its end.
        let _ = tokio::time::timeout(END_TIME_MAX, control).await;
    }
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

#[derive(serde::Serialize, serde::Deserialize)]
struct ServerIdentity {
    server: ServerId,
}

/// Made once, and the same ever after: which of several servers this is.
fn server_id(data: &Data, clock: &dyn Clock, random: &dyn Random) -> anyhow::Result<ServerId> {
    let path = data.server_id();
    match files::read_json::<ServerIdentity>(&path) {
        Ok(known) => Ok(known.server),
        Err(error) if error.is_missing() => {
            let mut bytes = [0; ID_RANDOM_BYTES];
            random.fill(&mut bytes);
            let server = ServerId::from_parts(Timestamp::from_millis(clock.now_ms()), bytes);
            files::write_json(&path, &ServerIdentity { server }, Access::Private)?;
            Ok(server)
        }
        Err(error) => Err(error.into()),
    }
}

/// The one that was made, if it was.
pub fn known_id(data: &Data) -> anyhow::Result<Option<ServerId>> {
    match files::read_json::<ServerIdentity>(&data.server_id()) {
        Ok(known) => Ok(Some(known.server)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The key of this data folder; a new one only where nothing is sealed with another.
async fn master_key(data: &Data, store: &Store, random: &dyn Random) -> anyhow::Result<Key> {
    let path = data.master_key();
    if !path.exists() {
        let sealed = store.read(insula_store::data_keys::list_any_org).await?;
        let authority = store.read(insula_store::authority::get).await?;
        if !sealed.is_empty() || authority.is_some() {
            bail!(
                "{} is missing, and secrets are sealed with it: put it back (servers that share a \
                 database share this file). If it is lost for good, `insula master-key new` makes \
                 another; secrets have to be set again then",
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
