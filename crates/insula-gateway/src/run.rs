//! The gateway as a whole: binds, starts its threads, holds the session, ends in order.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use insula_kit::clock::{Clock, SystemClock};
use insula_kit::metrics::Metrics;
use insula_kit::pki::Invitation;
use insula_kit::random::{Random, SystemRandom};
use insula_kit::shutdown::Shutdown;
use insula_kit::tls::Credentials;
use insula_member::{Beside, Dial, Files, Fleet, JoinError, Joining, Renewal, Uplink};
use insula_model::GatewayId;
use insula_model::fleet::Member;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::doors::Doors;
use crate::endpoint::Ledger;
use crate::keep::{Folder, KeepError};
use crate::limits::Limits;
use crate::session::Session;
use crate::traffic::Traffic;
use crate::way::{Ground, Surroundings};
use crate::worker::{self, Common, Worker};

/// Beside those of connections: the session, the listeners, the runtimes, the log.
const DESCRIPTORS_OURS: u64 = 64;
/// A visitor's and an app's.
const DESCRIPTORS_PER_CONNECTION: u64 = 2;

#[derive(Debug, Clone)]
pub struct GatewayConfig {
    pub server: Server,
    /// The gateway's own folder.
    pub folder: PathBuf,
    /// Which instances are on this machine.
    pub ground: Ground,
}

/// Where the server is.
#[derive(Debug, Clone)]
pub enum Server {
    /// On this machine: the socket of its `Edge` service.
    Unix(PathBuf),
    /// Elsewhere: `host:port` of every server that is known, and the token of who has not joined.
    Fleet { servers: Vec<String>, token: Option<Invitation> },
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub limits: Limits,
    /// Proxies of the operator's own in front of the gateway: what they say of a visitor
    /// (`X-Forwarded-*`) is passed on. Nobody is trusted unless named, loopback neither.
    pub trusted_proxies: Vec<IpAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the gateway has no address to listen on")]
    NoAddress,
    #[error("open the gateway's folder")]
    Folder(#[source] KeepError),
    #[error("start a thread of the gateway")]
    Thread(#[source] io::Error),
    #[error("join the fleet")]
    Join(#[source] Box<JoinError>),
    #[error("listen to signals")]
    Signals(#[source] io::Error),
}

/// Serves until SIGTERM or SIGINT, then lets visitors finish, within bounds.
pub fn run(doors: Doors, config: GatewayConfig) -> Result<(), GatewayError> {
    run_with(doors, config, Options::default())
}

pub fn run_with(doors: Doors, config: GatewayConfig, options: Options) -> Result<(), GatewayError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(GatewayError::Thread)?;
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        shutdown.listen_to_signals().map_err(GatewayError::Signals)?;
        let gateway = Gateway::start(doors, config, options).await?;
        shutdown.requested().await;
        tokio::select! {
            () = gateway.end() => {}
            () = shutdown.insisted() => warn!("told twice: cut off every connection"),
        }
        Ok(())
    })
}

/// A gateway at work in this process.
#[derive(Debug)]
pub struct Gateway {
    addresses: Vec<SocketAddr>,
    ending: watch::Sender<bool>,
    threads: Vec<thread::JoinHandle<()>>,
    session: tokio::task::JoinHandle<()>,
    /// Keeps the certificate good.
    renewing: tokio::task::JoinHandle<()>,
}

impl Gateway {
    /// Serves what was kept at once, and what the server says from then on. The session runs on
    /// the runtime that this is called on.
    pub async fn start(
        doors: Doors,
        config: GatewayConfig,
        options: Options,
    ) -> Result<Self, GatewayError> {
        let folder = Folder::open(&config.folder).map_err(GatewayError::Folder)?;
        let random = SystemRandom::new();
        let mut gateway = folder.identity(&SystemClock, &random).map_err(GatewayError::Folder)?;
        let random: Arc<dyn Random> = Arc::new(random);
        let connected = match connect(&config, gateway, Arc::clone(&random)).await {
            Err(JoinError::Removed { member }) => {
                let files = Files::in_folder(&config.folder);
                files.forget().map_err(|error| GatewayError::Folder(error.into()))?;
                let anew = folder.new_identity(&SystemClock, &*random);
                gateway = anew.map_err(GatewayError::Folder)?;
                warn!(%member, %gateway, "it was removed from the fleet: joining as a new one");
                connect(&config, gateway, Arc::clone(&random)).await
            }
            connected => connected,
        };
        let (uplink, credentials, renewing) =
            connected.map_err(|error| GatewayError::Join(Box::new(error)))?;
        let held = folder.routes().unwrap_or_else(|error| {
            // The server has them all; until it comes there is nothing to serve.
            warn!(error = &error as &dyn std::error::Error, "begin without the kept routes");
            None
        });
        let held = held.map(Arc::new);
        let count = doors.threads();
        let mut limits = options.limits;
        bound_by_descriptors(&mut limits, count);
        let common = Arc::new(Common {
            limits: Arc::new(limits),
            trusted_proxies: options.trusted_proxies.into(),
            ledger: Ledger::default(),
            traffic: Traffic::default(),
            surroundings: Arc::new(Surroundings::new(config.ground)),
            credentials,
            metrics: Metrics::new(),
        });
        if let Some(table) = &held {
            common.ledger.adopt(table);
        }
        let addresses = doors.addresses().to_vec();
        let listeners = doors.open()?;
        let (ending, ended) = watch::channel(false);
        let workers: Vec<Worker> = listeners
            .into_iter()
            .enumerate()
            .map(|(number, listeners)| {
                worker::start(number, listeners, Arc::clone(&common), held.clone(), ended.clone())
            })
            .collect::<Result<_, _>>()
            .map_err(GatewayError::Thread)?;
        let generation = held.as_ref().map(|table| table.generation.0);
        info!(%gateway, ?addresses, threads = count, ?generation, "the gateway serves");
        let (tables, threads) =
            workers.into_iter().map(|worker| (worker.tables, worker.thread)).unzip();
        let session = Session { uplink, gateway, folder, threads: tables, common, random, held };
        let session = tokio::spawn(session.run());
        Ok(Self { addresses, ending, threads, session, renewing })
    }

    /// As bound: a port of 0 was replaced by one that was free.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Accepts nobody any more; ready when the last request is answered or the time is up. The
    /// server hears of what comes to rest until then.
    pub async fn end(self) {
        self.ending.send_replace(true);
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    warn!("a thread of the gateway had panicked");
                }
            }
        });
        let _ = joined.await;
        self.session.abort();
        self.renewing.abort();
    }
}

type Connected = (Uplink, watch::Receiver<Option<Arc<Credentials>>>, tokio::task::JoinHandle<()>);

/// The way to the server, and a certificate: at once for who joined from elsewhere, and for who is
/// beside a server as soon as that has a fleet.
async fn connect(
    config: &GatewayConfig,
    gateway: GatewayId,
    random: Arc<dyn Random>,
) -> Result<Connected, JoinError> {
    let member = Member::Gateway(gateway);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let files = Files::in_folder(&config.folder);
    let (servers, token) = match &config.server {
        Server::Unix(path) => {
            let uplink = Uplink::new(Dial::Unix(path.clone()));
            let beside =
                Beside { files, member, name: None, uplink: uplink.clone(), clock, random };
            let (told, credentials) = watch::channel(None);
            let renewing = tokio::spawn(beside.keep(told, Shutdown::new()));
            return Ok((uplink, credentials, renewing));
        }
        Server::Fleet { servers, token } => (servers, token),
    };
    let joining = Joining {
        files: &files,
        member,
        name: None,
        servers,
        token: token.as_ref(),
        clock: Arc::clone(&clock),
    };
    let membership = joining.settle().await?;
    let credentials = membership.credentials;
    let fleet = Fleet::new(membership.servers, &credentials);
    let uplink = Uplink::new(Dial::Fleet(fleet));
    let renewal = Renewal {
        credentials: Arc::clone(&credentials),
        file: files.credentials,
        uplink: uplink.clone(),
        clock,
        random,
    };
    let renewing = tokio::spawn(renewal.keep(Shutdown::new()));
    Ok((uplink, watch::channel(Some(credentials)).1, renewing))
}

/// Raises the limit as far as an ordinary user may, and stays below it.
fn bound_by_descriptors(limits: &mut Limits, threads: usize) {
    let mut files = getrlimit(Resource::Nofile);
    if files.current != files.maximum {
        let raised = rustix::process::Rlimit { current: files.maximum, ..files };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => files = raised,
            Err(error) => warn!(%error, "cannot raise the limit of open files"),
        }
    }
    let Some(files) = files.current else { return };
    let each =
        files.saturating_sub(DESCRIPTORS_OURS) / (DESCRIPTORS_PER_CONNECTION * threads as u64);
    let each = usize::try_from(each).unwrap_or(usize::MAX).max(1);
    limits.connections_per_thread_max = limits.connections_per_thread_max.min(each);
}
