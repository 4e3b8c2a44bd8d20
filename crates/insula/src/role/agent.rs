//! A node, as a process.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use insula_agent::{AgentConfig, Endpoint, HostAccess, Names};
use insula_sandbox::net::NetConfig;
use tokio::sync::watch;

use super::LogFormatArg;
use crate::data::Data;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data folder
    #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// What this node is called
    #[arg(long, default_value = "local", value_name = "NAME")]
    name: insula_model::NodeName,
    /// The network that instances get addresses from
    #[arg(long, default_value = "10.87.0.0/16", value_name = "CIDR")]
    pool: String,
    /// A private range that apps may reach (may be given again)
    #[arg(long, value_name = "CIDR")]
    open: Vec<String>,
    /// Show apps the host's /usr/local and /usr/src
    #[arg(long)]
    open_usr_local: bool,
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
    let config = AgentConfig {
        data: data.root().to_owned(),
        server: Endpoint::Unix(data.node_socket()),
        name: args.name,
        host,
        program: own_program(&data)?,
        capacity: None,
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
