//! Puts the parts together, and takes them apart in the right order.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use insula_kit::clock::{Clock, SystemClock};
use insula_kit::files::FileError;
use insula_kit::metrics::Metrics;
use insula_kit::random::{Random, SystemRandom};
use insula_kit::seal::Key;
use insula_kit::shutdown::{Cause, Shutdown};
use insula_kit::tls::Credentials;
use insula_member::{Beside, Dial, Fleet, JoinError, Joining, Renewal, Uplink};
use insula_model::Bytes;
use insula_model::fleet::Member;
use insula_model::names::excerpt;
use insula_model::node::Site;
use insula_sandbox::SandboxId;
use insula_sandbox::net::{NetConfig, NetError};
use insula_wire::facts::NodeFacts;
use insula_wire::node as wire;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::artifact::Artifacts;
use crate::board::Board;
use crate::config::{AgentConfig, Endpoint, HostAccess};
use crate::contact::{Contact, KernelTicks};
use crate::down::open_sandboxes;
use crate::error::chain;
use crate::health::{Health, NodeMeter, Vitals};
use crate::identity::{Identity, IdentityError};
use crate::instance::InstanceRecord;
use crate::kept::{self, Secrets};
use crate::layout::Layout;
use crate::log::LogRoot;
use crate::names::NameBoard;
use crate::node::Node;
use crate::places::Places;
use crate::sandbox::{SandboxError, Sandboxes};
use crate::server::Server;
use crate::session::{Mailbox, Session};
use crate::shared::{Measured, Shared};
use crate::{facts, host, keeper, relay, tree};

/// Of all apps together; each has a bound of its own as well.
const CACHES_MAX: Bytes = Bytes::gib(8);

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("join the fleet")]
    Join(#[from] JoinError),
    #[error("the fleet calls this node `{0}`, which is not a name")]
    Name(String),
    #[error("listen on {at} for other nodes and gateways")]
    Relay {
        at: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("make the agent's folders")]
    Folder(#[from] FileError),
    #[error("make {}", path.display())]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start the sandbox driver")]
    Sandbox(#[from] SandboxError),
    #[error("put up the host's network")]
    Network(#[from] NetError),
    #[error("open the artifacts")]
    Artifacts(#[source] io::Error),
    #[error("read the records of instances")]
    Records(#[source] io::Error),
    #[error("start the keeper")]
    Keeper(#[source] io::Error),
}

/// Runs the agent until the end is asked for. Ctrl-C takes the apps along; any other end leaves them
/// running for the next agent.
pub async fn run(config: AgentConfig, shutdown: Shutdown) -> Result<(), AgentError> {
    run_by(Arc::new(SystemClock), config, shutdown).await
}

/// The same by another clock than the machine's.
pub async fn run_by(
    clock: Arc<dyn Clock>,
    config: AgentConfig,
    shutdown: Shutdown,
) -> Result<(), AgentError> {
    let Some(settled) = Settled::new(clock, config, &shutdown).await? else { return Ok(()) };
    let mut ready = settled.ready().await?;
    let targets = Mailbox::default();
    let mut tasks = ready.begin(&targets, &shutdown).await?;
    let node = &mut ready.node;
    let cause = tokio::select! {
        never = node.run(&targets) => match never {},
        cause = shutdown.requested() => cause,
    };
    match cause {
        Cause::Interrupt => {
            tracing::info!("stopping the apps");
            tokio::select! {
                () = node.stop_all() => {}
                () = shutdown.insisted() => tracing::warn!("not waiting for the apps"),
            }
        }
        Cause::Terminate | Cause::Own => node.leave().await,
    }
    tasks.abort_all();
    Ok(())
}

/// What must hold before anything of a tenant is touched: everything that can refuse, in this order.
struct Settled {
    config: AgentConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    layout: Layout,
    identity: Identity,
    key: Key,
    dialling: Dialling,
    net: Option<NetConfig>,
    sandboxes: Sandboxes,
    records: Vec<InstanceRecord>,
    listener: Option<TcpListener>,
    facts: JoinHandle<NodeFacts>,
}

impl Settled {
    /// Nothing if the end is asked for while it waits for a fleet to let it join.
    async fn new(
        clock: Arc<dyn Clock>,
        config: AgentConfig,
        shutdown: &Shutdown,
    ) -> Result<Option<Self>, AgentError> {
        let random: Arc<dyn Random> = Arc::new(SystemRandom::new());
        let layout = Layout::new(&config.data);
        // Asking interpreters for their versions takes longer than anything else here.
        let facts = tokio::spawn(facts::gather(config.host.mode(), config.offer));
        let (mut identity, key) = Identity::settle(&layout, &config, &*clock, &*random)?;
        identity.publish(&layout)?;
        let dialling = tokio::select! {
            dialling = joined(&layout, &mut identity, &config, &clock, &*random) => dialling?,
            _ = shutdown.requested() => return Ok(None),
        };
        for path in [layout.states(), layout.builds(), layout.run()] {
            insula_kit::files::create_private_folder(&path)?;
        }
        let net = match &config.host {
            HostAccess::Full { net } => Some(net.clone()),
            HostAccess::Development => None,
        };
        if let Some(net) = net.clone() {
            on_thread(move || host::prepare(&net)).await??;
        }
        let sandboxes = open_sandboxes(&layout, &identity)?;
        let data = config.data.clone();
        on_thread(move || keeper::spawn_if_absent(&data)).await?.map_err(AgentError::Keeper)?;
        let records = swept(&layout, &sandboxes).await?;
        let listener = listen(config.relay.listen).await?;
        Ok(Some(Self {
            config,
            clock,
            random,
            layout,
            identity,
            key,
            dialling,
            net,
            sandboxes,
            records,
            listener,
            facts,
        }))
    }

    /// What an earlier agent held is held again when this returns.
    async fn ready(self) -> Result<Ready, AgentError> {
        let Self { config, layout, random, net, .. } = self;
        trim_caches(&layout);
        let server = Server { uplink: Uplink::new(self.dialling.dial) };
        let artifacts = Artifacts::open(&layout, server.clone(), config.host.mode())
            .map_err(AgentError::Artifacts)?;
        let lease = config.failover_lease.as_duration();
        let contact = Contact::open(&layout.contact(), lease, Arc::new(KernelTicks));
        let kept = kept::load(&layout, &self.key).unwrap_or_else(|error| {
            // What runs goes on as it is; the server sends another.
            tracing::error!(error = %chain(&error), "the last Target cannot be read");
            None
        });
        let shared = Arc::new(Shared {
            logs: LogRoot::of(&config.data),
            board: Board::default(),
            names: NameBoard::new(config.names),
            places: Places::new(net.clone(), layout.last_address()),
            sandboxes: self.sandboxes,
            artifacts,
            server,
            clock: self.clock,
            secrets: RwLock::new(Secrets::default()),
            program: config.program,
            open_usr_local: config.open_usr_local,
            build: config.build,
            measured: Measured::default(),
            vitals: Vitals::default(),
            fleet: watch::Sender::default(),
            contact: contact.clone(),
            relay: OnceLock::new(),
            layout,
        });
        let (key, chance) = (Arc::new(self.key), Arc::clone(&random));
        let mut node = Node::new(Arc::clone(&shared), key, chance, contact);
        node.resume(self.records, kept).await;
        Ok(Ready {
            node,
            shared,
            random,
            identity: self.identity,
            credentials: self.dialling.credentials,
            data: config.data,
            site: config.site,
            advertise: config.relay.advertise,
            net,
            listener: self.listener,
            facts: self.facts,
        })
    }
}

/// All parts in place; what they do for ever has not begun.
struct Ready {
    node: Node,
    shared: Arc<Shared>,
    random: Arc<dyn Random>,
    identity: Identity,
    credentials: Option<Arc<Credentials>>,
    data: PathBuf,
    site: Option<Site>,
    advertise: Option<SocketAddr>,
    net: Option<NetConfig>,
    listener: Option<TcpListener>,
    facts: JoinHandle<NodeFacts>,
}

impl Ready {
    /// Everything beside the node itself. The session comes last: what it tells must be there.
    async fn begin(
        &mut self,
        targets: &Mailbox,
        shutdown: &Shutdown,
    ) -> Result<JoinSet<()>, AgentError> {
        let mut tasks = JoinSet::new();
        let member = self.stay_member(&mut tasks, shutdown);
        let listener = self.listener.take();
        let own = listener.as_ref().and_then(|it| it.local_addr().ok());
        let (shared, net) = (&self.shared, self.net.clone());
        tasks.spawn(relay_once_member(Arc::clone(shared), listener, net, member));
        let (contact, leased) = (&shared.contact, self.node.leased());
        let file = shared.layout.contact();
        tasks.spawn(contact.clone().keep(file, leased.clone(), shutdown.clone()));
        tasks.spawn(contact.clone().tell_keeper(shared.layout.run(), leased));
        let health = Health {
            data: shared.layout.agent(),
            cgroup_parent: self.net.is_some().then(|| self.identity.cgroup_parent()),
            vitals: shared.vitals.clone(),
            board: shared.board.clone(),
        };
        tasks.spawn(health.keep(shutdown.clone()));
        let facts = (&mut self.facts).await.map_err(|_| SandboxError::Thread)?;
        let relay = self.advertise.or(own);
        let facts = NodeFacts { site: self.site.clone(), relay, ..facts };
        tasks.spawn(self.session(facts, targets).keep(shutdown.clone()));
        tasks.spawn(host::keep(Arc::clone(&self.shared), self.net.clone(), shutdown.clone()));
        let vitals = self.shared.vitals.clone();
        tasks.spawn(host::keep_keeper(self.data.clone(), vitals, shutdown.clone()));
        Ok(tasks)
    }

    /// Of the fleet, with a certificate that does not end, or once there is one. Tells which.
    fn stay_member(
        &self,
        tasks: &mut JoinSet<()>,
        shutdown: &Shutdown,
    ) -> watch::Receiver<Option<Arc<Credentials>>> {
        let shared = &self.shared;
        let (told, member) = watch::channel(self.credentials.clone());
        match self.credentials.clone() {
            Some(credentials) => {
                let renewal = Renewal {
                    credentials,
                    file: shared.layout.member().credentials,
                    uplink: shared.server.uplink.clone(),
                    clock: Arc::clone(&shared.clock),
                    random: Arc::clone(&self.random),
                };
                tasks.spawn(renewal.keep(shutdown.clone()));
            }
            None => {
                let beside = Beside {
                    files: shared.layout.member(),
                    member: Member::Node(self.identity.node),
                    name: Some(self.identity.name.to_string()),
                    uplink: shared.server.uplink.clone(),
                    clock: Arc::clone(&shared.clock),
                    random: Arc::clone(&self.random),
                };
                tasks.spawn(beside.keep(told, shutdown.clone()));
            }
        }
        member
    }

    fn session(&self, facts: NodeFacts, targets: &Mailbox) -> Session {
        let shared = &self.shared;
        let measured = Arc::clone(shared);
        let meter = Mutex::new(NodeMeter::new(shared.layout.agent()));
        Session {
            node: self.identity.node,
            name: self.identity.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            facts,
            server: shared.server.clone(),
            board: shared.board.clone(),
            logs: shared.logs.clone(),
            targets: targets.clone(),
            contact: shared.contact.clone(),
            vitals: shared.vitals.clone(),
            clock: Arc::clone(&shared.clock),
            usage: Arc::new(move || usage_of(&measured, &meter)),
            random: Arc::clone(&self.random),
        }
    }
}

/// The records of instances, with no sandbox left that none of them speaks for.
async fn swept(layout: &Layout, sandboxes: &Sandboxes) -> Result<Vec<InstanceRecord>, AgentError> {
    let (records, foreign) = InstanceRecord::load_all(layout).map_err(AgentError::Records)?;
    let named = Named { records: &records, foreign: &foreign };
    host::sweep_sandboxes(sandboxes, |id| named.has(id)).await?;
    for path in &foreign {
        tracing::error!(path = %path.display(), "not a record of this version: let alone");
    }
    Ok(records)
}

/// Nobody waits for it.
fn trim_caches(layout: &Layout) {
    let caches = layout.build_caches();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = tree::trim(&caches, CACHES_MAX) {
            tracing::warn!(%error, "trim the caches of builds");
        }
    });
}

async fn listen(at: Option<SocketAddr>) -> Result<Option<TcpListener>, AgentError> {
    let Some(at) = at else { return Ok(None) };
    let listening = TcpListener::bind(at).await;
    listening.map(Some).map_err(|source| AgentError::Relay { at, source })
}

/// Others of the fleet are met once there is a certificate to show them. For ever.
async fn relay_once_member(
    shared: Arc<Shared>,
    listener: Option<TcpListener>,
    net: Option<NetConfig>,
    mut credentials: watch::Receiver<Option<Arc<Credentials>>>,
) {
    if credentials.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let Some(credentials) = credentials.borrow().clone() else { return };
    let _relay = relay::start(relay::Settings {
        listener,
        credentials,
        clock: Arc::clone(&shared.clock),
        names: shared.names.clone(),
        places: Arc::clone(&shared.places),
        net,
        fleet: shared.fleet.subscribe(),
        metrics: shared.relay.get_or_init(Metrics::new).clone(),
    });
    std::future::pending().await
}

/// How to reach a server, and what that takes.
struct Dialling {
    dial: Dial,
    /// Of a member of a fleet.
    credentials: Option<Arc<Credentials>>,
}

/// As who this node is; as somebody new if that one was removed and a token lets it.
async fn joined(
    layout: &Layout,
    identity: &mut Identity,
    config: &AgentConfig,
    clock: &Arc<dyn Clock>,
    random: &dyn Random,
) -> Result<Dialling, AgentError> {
    match dialling(layout, identity, &config.server, clock).await {
        Err(AgentError::Join(JoinError::Removed { member })) => {
            identity.begin_anew(layout, &config.name, &**clock, random)?;
            let node = identity.node;
            tracing::warn!(%member, %node, "it was removed from the fleet: joining as a new node");
            dialling(layout, identity, &config.server, clock).await
        }
        dialling => dialling,
    }
}

async fn dialling(
    layout: &Layout,
    identity: &mut Identity,
    endpoint: &Endpoint,
    clock: &Arc<dyn Clock>,
) -> Result<Dialling, AgentError> {
    let (servers, token) = match endpoint {
        Endpoint::Unix(path) => {
            return Ok(Dialling { dial: Dial::Unix(path.clone()), credentials: None });
        }
        Endpoint::Fleet { servers, token } => (servers, token.as_ref()),
    };
    let joining = Joining {
        files: &layout.member(),
        member: Member::Node(identity.node),
        name: Some(identity.name.as_str()),
        servers,
        token,
        clock: Arc::clone(clock),
    };
    let membership = joining.settle().await?;
    if let Some(name) = membership.name {
        let name = name.parse().map_err(|_| AgentError::Name(excerpt(&name)))?;
        if name != identity.name {
            tracing::warn!(
                wanted = %identity.name,
                %name,
                "the fleet calls this node by another name: its token says so, or another node has \
                 the one that it asked for"
            );
        }
        identity.rename(layout, name)?;
    }
    let credentials = membership.credentials;
    let dial = Dial::Fleet(Fleet::new(membership.servers, &credentials));
    Ok(Dialling { dial, credentials: Some(credentials) })
}

/// The sandboxes that some record speaks for.
struct Named<'a> {
    records: &'a [InstanceRecord],
    /// Records that cannot be read: what they speak for is known by their name alone.
    foreign: &'a [PathBuf],
}

impl Named<'_> {
    fn has(&self, sandbox: &SandboxId) -> bool {
        let is_of = |path: &PathBuf| {
            let instance = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let attempt = sandbox.as_str().strip_prefix(instance);
            attempt.is_some_and(|attempt| attempt.starts_with('-'))
        };
        self.records.iter().any(|it| it.sandbox.as_ref() == Some(sandbox))
            || self.foreign.iter().any(is_of)
    }
}

/// What the machine and each instance use now. Reads a few files of the kernel for each.
fn usage_of(shared: &Shared, meter: &Mutex<NodeMeter>) -> wire::UsageReport {
    let node = meter.lock().unwrap_or_else(PoisonError::into_inner).measure();
    let relay = shared.relay.get().map(relay::usage);
    let mut report = wire::UsageReport { node: Some(node), relay, instances: Vec::new() };
    for (instance, sandbox) in shared.measured.all() {
        let Some(usage) = shared.sandboxes.usage(&sandbox) else { continue };
        report.instances.push(wire::InstanceUsage {
            instance: instance.to_string(),
            memory_bytes: usage.rss_bytes,
            cpu_usec: usage.cpu_usec,
            pids: u32::try_from(usage.pids).unwrap_or(u32::MAX),
            log_dropped_bytes: shared.sandboxes.dropped_bytes(&sandbox),
        });
    }
    report
}

async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SandboxError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| SandboxError::Thread)
}
