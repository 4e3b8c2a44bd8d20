//! The edge, as a process: an ordinary user's, with one folder and one way to the server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use insula_gateway::{GatewayConfig, Ground, Server};

use super::LogFormatArg;
use crate::data::Data;

/// User and group of the gateway when root starts it: no account's, and nobody else's either, so
/// that it owns nothing but its folder. Documented for those who give ids out themselves.
pub const GATEWAY_USER: (u32, u32) = (61_870, 61_870);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data folder
    #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where visitors come in
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    listen: SocketAddr,
    /// A server of the fleet, HOST:PORT; more with commas. Others are learnt from it [default: the
    /// one on this machine]
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
    let server = if args.server.is_empty() {
        Server::Unix(data.edge_socket())
    } else {
        if let Some(odd) = args.server.iter().find(|one| !insula_member::is_address(one)) {
            bail!("--server {odd}: write HOST:PORT, as in 10.0.0.1:7443");
        }
        let token = args.token.as_deref().map(str::parse).transpose().context("--token")?;
        Server::Fleet { servers: args.server, token }
    };
    let _lock = super::hold(&data, "gateway")?;
    insula_gateway::run(GatewayConfig {
        listen: vec![args.listen],
        server,
        folder: data.gateway(),
        ground: Ground::Beside(data.node_id()),
        threads: None,
    })?;
    Ok(ExitCode::SUCCESS)
}
