//! A node, as a process.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use insula_agent::{AgentConfig, Endpoint, HostAccess, Names, Offered};
use insula_model::{Bytes, MilliCpu, NodeName, limits};
use insula_sandbox::net::NetConfig;
use tokio::sync::watch;

use super::LogFormatArg;
use crate::data::Data;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data folder [default: /var/lib/insula as root, else the XDG data folder]
    #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// A server of the fleet, HOST:PORT; more with commas. Others are learnt from it [default: the
    /// one on this machine]
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    server: Vec<String>,
    /// What `insula nodes token` printed: needed once, to join
    #[arg(long, env = "INSULA_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// What this node is called [default: the host's name; of a server's own machine: local]
    #[arg(long, value_name = "NAME")]
    name: Option<NodeName>,
    /// Where other nodes and gateways reach what runs here [default: port 7444 of the address with
    /// which this machine reaches the server; beside a server nowhere]
    #[arg(long, value_name = "ADDR")]
    relay: Option<SocketAddr>,
    /// The address to tell them instead, if they reach this machine by another, behind NAT say
    #[arg(long, requires = "relay", value_name = "ADDR")]
    advertise: Option<SocketAddr>,
    /// The network that instances get addresses from
    #[arg(long, default_value = "10.87.0.0/16", value_name = "CIDR")]
    pool: String,
    /// A private range that apps may reach (may be given again)
    #[arg(long, value_name = "CIDR")]
    open: Vec<String>,
    /// Show apps the host's /usr/local and /usr/src
    #[arg(long)]
    open_usr_local: bool,
    /// Cores to offer, if not all
    #[arg(long, value_parser = cores, value_name = "CORES")]
    cpu: Option<MilliCpu>,
    /// Memory to offer, if not all but a little
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// Disk to offer to instances, if it shall be counted; their layers are memory
    #[arg(long, value_name = "SIZE")]
    disk: Option<Bytes>,
    /// Instances to take at most
    #[arg(long, value_name = "N")]
    instances: Option<u32>,
    /// How to log
    #[arg(long, value_enum, default_value = "auto")]
    log_format: LogFormatArg,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::begin("agent", args.log_format)?;
    let data = Data::choose(args.data)?;
    let _lock = super::hold(&data, "agent")?;
    // Mostly waiting: one thread, with blocking work on threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (names, published) = watch::channel(Names::default());
    let host = if rustix::process::geteuid().is_root() {
        HostAccess::Full { net: network(&data, &args.pool, &args.open)? }
    } else {
        HostAccess::Development
    };
    let resolver = match &host {
        HostAccess::Full { net } => Some(net.gateway()),
        HostAccess::Development => None,
    };
    let server = endpoint(&data, args.server, args.token.as_deref())?;
    let relay = super::relay::access(&data, args.relay, args.advertise, &server)?;
    if let Some(listen) = relay.listen {
        // Before it joins, which a token is for only once.
        crate::up::refuse_taken(listen, "--relay")?;
    }
    let name = match (args.name, &server) {
        (Some(name), _) => name,
        (None, Endpoint::Unix(_)) => "local".parse()?,
        (None, Endpoint::Fleet { .. }) => name_of_host(),
    };
    let config = AgentConfig {
        data: data.root().to_owned(),
        server,
        name,
        site: None,
        relay,
        host,
        program: own_program(&data)?,
        offer: Offered {
            cpu: args.cpu,
            memory: args.memory,
            instances: args.instances,
            disk: args.disk,
        },
        failover_lease: limits::FAILOVER_LEASE,
        build: super::build_env::settings(std::env::vars()),
        open_usr_local: args.open_usr_local,
        names,
    };
    super::run_until_asked(&runtime, |shutdown| async move {
        let names = resolver.map(|address| {
            tokio::spawn(super::resolver::run(address, published, shutdown.clone()))
        });
        insula_agent::run(config, shutdown).await.context("run the agent")?;
        if let Some(names) = names {
            names.await?;
        }
        Ok(())
    })
}

/// A server beside us, unless another is named or this node has joined a fleet.
fn endpoint(data: &Data, servers: Vec<String>, token: Option<&str>) -> anyhow::Result<Endpoint> {
    // Whoever supervises us runs the server as well.
    let supervised = std::env::var_os(crate::SUPERVISOR).is_some();
    // A server beside us gives certificates as well, so one alone does not mean that it is elsewhere.
    let elsewhere = insula_agent::has_joined(data.root()) && !data.node_socket().exists();
    if supervised || (servers.is_empty() && token.is_none() && !elsewhere) {
        return Ok(Endpoint::Unix(data.node_socket()));
    }
    let token = token.map(str::parse).transpose();
    let token =
        token.context("--token is not what `insula nodes token` printed; copy all of it")?;
    Ok(Endpoint::Fleet { servers, token })
}

/// The host's own name, as far as a node may have it.
fn name_of_host() -> NodeName {
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let first = host.split('.').next().unwrap_or_default();
    let fit: String =
        first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let parsed = fit.trim_matches('-').parse();
    parsed.unwrap_or_else(|_| "node".parse().expect("a name"))
}

/// As a spec writes them: `2`, `0.5`.
fn cores(text: &str) -> Result<MilliCpu, String> {
    let cores: f64 = text.parse().map_err(|_| "expected a number of cores".to_owned())?;
    let milli = (cores * 1_000.0).round();
    if (1.0..=f64::from(u32::MAX)).contains(&milli) {
        Ok(MilliCpu(milli as u32))
    } else {
        Err("expected more than nothing".to_owned())
    }
}

/// What `--pool` and `--open` ask for, or what is wrong with it.
pub fn network(data: &Data, pool: &str, open: &[String]) -> anyhow::Result<NetConfig> {
    let tag = data.tag().parse().context("name our part of the network")?;
    let pool = pool.parse().with_context(|| format!("--pool {pool}"))?;
    let parse = |range: &String| range.parse().with_context(|| format!("--open {range}"));
    Ok(NetConfig::new(tag, pool, open.iter().map(parse).collect::<anyhow::Result<_>>()?)?)
}

/// Our own program, kept where an upgrade does not take it away: static instances show it inside
/// their sandbox, and a file that was replaced cannot be shown any more.
fn own_program(data: &Data) -> anyhow::Result<PathBuf> {
    let folder = data.program();
    std::fs::create_dir_all(&folder)?;
    let running = std::fs::metadata("/proc/self/exe").context("look at our own program")?;
    let name = format!("insula-{}-{}", running.size(), running.mtime_nsec() ^ running.mtime());
    let kept = folder.join(&name);
    if !kept.exists() {
        let unfinished = folder.join(format!(".{name}-{}", std::process::id()));
        let linked = std::env::current_exe().and_then(|path| std::fs::hard_link(path, &unfinished));
        if linked.is_err() {
            std::fs::copy("/proc/self/exe", &unfinished).context("keep our own program")?;
        }
        std::fs::File::open(&unfinished)?.sync_all().context("keep our own program")?;
        std::fs::rename(&unfinished, &kept).context("keep our own program")?;
        insula_kit::files::sync_folder(&folder)?;
    }
    // Those of earlier versions stay open in the sandboxes that show them.
    for entry in std::fs::read_dir(&folder)?.flatten() {
        if entry.file_name() != name.as_str() {
            std::fs::remove_file(entry.path())
                .context("remove the program of an earlier version")?;
        }
    }
    Ok(kept)
}
