//! The edge, as a process: an ordinary user's, with one folder and one socket to the server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use insula_gateway::GatewayConfig;

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
    /// How to log
    #[arg(long, value_enum, default_value = "auto")]
    log_format: LogFormatArg,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::begin("gateway", args.log_format)?;
    let data = Data::choose(args.data)?;
    let _lock = super::hold(&data, "gateway")?;
    insula_gateway::run(GatewayConfig {
        listen: vec![args.listen],
        server: data.edge_socket(),
        folder: data.gateway(),
        threads: None,
    })?;
    Ok(ExitCode::SUCCESS)
}
