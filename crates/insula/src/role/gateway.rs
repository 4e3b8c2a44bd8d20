//! The edge, as a process: an ordinary user's, with one folder and one way to the server.
//!
//! Root may start it, to have a port below 1024, and is given up as soon as it has it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use insula_gateway::{Doors, GatewayConfig, Ground, Server};
use insula_member::Files;

use super::{LogFormatArg, unprivileged};
use crate::data::Data;

/// User and group of the gateway when root starts it, or `up` as root: no account's, and nobody else's either, so
/// that it owns nothing but its folder. Documented for those who give ids out themselves.
pub const GATEWAY_USER: (u32, u32) = (61_870, 61_870);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data folder [default: /var/lib/insula as root, else the XDG data folder]
    #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where visitors come in
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    listen: SocketAddr,
    /// A server of the fleet, HOST:PORT; more with commas. Others are learnt from it [default: those
    /// of the fleet that it has joined, else the one on this machine]
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    server: Vec<String>,
    /// What `insula nodes token --for gateway` printed: needed once, to join
    #[arg(long, env = "INSULA_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// How to log
    #[arg(long, value_enum, default_value = "auto")]
    log_format: LogFormatArg,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::begin("gateway", args.log_format)?;
    let data = Data::choose(args.data)?;
    let server = server(&data, args.server, args.token.as_deref())?;
    // First of all: for this one may have to be root, and without it nothing else is worth doing.
    let doors = Doors::take(&[args.listen], None)?;
    let is_root = rustix::process::geteuid().is_root();
    let _lock = if is_root {
        data.prepare()?;
        data.refuse_closed_parents()?;
        unprivileged::give(&data.gateway(), GATEWAY_USER)?;
        unprivileged::become_user(GATEWAY_USER)?;
        tracing::info!(user = GATEWAY_USER.0, "gave up root");
        super::take_place(&data, "gateway")?
    } else {
        super::hold(&data, "gateway")?
    };
    let ground = Ground::Beside(data.node_id());
    insula_gateway::run(doors, GatewayConfig { server, folder: data.gateway(), ground })?;
    Ok(ExitCode::SUCCESS)
}

/// A server beside us, unless another is named or this gateway has joined a fleet.
fn server(data: &Data, servers: Vec<String>, token: Option<&str>) -> anyhow::Result<Server> {
    let supervised = std::env::var_os(crate::SUPERVISOR).is_some();
    // A server beside us gives certificates as well, so one alone does not mean that it is elsewhere.
    let has_joined = Files::in_folder(&data.gateway()).has_joined();
    let elsewhere = has_joined && !data.edge_socket().exists();
    if supervised || (servers.is_empty() && token.is_none() && !elsewhere) {
        return Ok(Server::Unix(data.edge_socket()));
    }
    if let Some(odd) = servers.iter().find(|one| !insula_member::is_address(one)) {
        bail!("--server {odd}: write HOST:PORT, as in 10.0.0.1:7443");
    }
    let token = token.map(str::parse).transpose().context("--token")?;
    Ok(Server::Fleet { servers, token })
}
