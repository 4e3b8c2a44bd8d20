//! The roles of the platform's binary that an agent needs, for this crate's own tests: they start,
//! kill and replace agents and keepers as processes. The real thing is the crate `insula`.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use insula_agent::keeper::{self, KeeperConfig, NODE_BOUND};
use insula_agent::{AgentConfig, BuildSettings, Endpoint, HostAccess, Names, Offered, RelayAccess};
use insula_kit::clock::{Clock, SystemClock};
use insula_kit::shutdown::Shutdown;
use insula_kit::telemetry::{LogFormat, Telemetry};
use insula_model::{Millis, limits};
use insula_sandbox::net::NetConfig;
use tokio::sync::watch;

fn main() -> ExitCode {
    if let Some(code) = insula_sandbox::dispatch_hidden() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["keeper", "--data", data] => {
            let config = KeeperConfig { data: data.into(), node_bound: NODE_BOUND };
            keeper::run(config).expect("the keeper runs")
        }
        ["agent", data, server, tag] => agent(data.into(), server, tag),
        ["static-server", "--root", root, "--port", port] => serve(root, port),
        _ => panic!("no such role: {arguments:?}"),
    }
}

/// Of a machine whose clock is off.
#[derive(Debug)]
struct ShiftedClock {
    ahead_ms: i64,
}

impl Clock for ShiftedClock {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms() + self.ahead_ms
    }
}

fn agent(data: PathBuf, server: &str, tag: &str) -> ExitCode {
    log();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let host = match tag {
        "-" => HostAccess::Development,
        tag => {
            let tag = tag.parse().expect("a tag");
            let net = NetConfig::new(tag, NetConfig::default_pool(), vec![]);
            HostAccess::Full { net: net.expect("a network") }
        }
    };
    let (names, _) = watch::channel(Names::default());
    let inherited =
        |(name, value): (String, String)| Some((name.strip_prefix("BUILD_")?.to_owned(), value));
    let failover_lease_ms = std::env::var("FAILOVER_LEASE_MS").ok();
    let failover_lease_ms =
        failover_lease_ms.map_or(limits::FAILOVER_LEASE.0, |it| it.parse().expect("milliseconds"));
    let clock_ahead_ms = std::env::var("CLOCK_AHEAD_MS").ok();
    let clock =
        ShiftedClock { ahead_ms: clock_ahead_ms.map_or(0, |it| it.parse().expect("milliseconds")) };
    // A path for a socket on this machine, addresses for a fleet.
    let server = match server.strip_prefix("fleet:") {
        None => Endpoint::Unix(server.into()),
        Some(servers) => Endpoint::Fleet {
            servers: servers.split(',').map(ToOwned::to_owned).collect(),
            token: std::env::var("TOKEN").ok().map(|it| it.parse().expect("a token")),
        },
    };
    let config = AgentConfig {
        data,
        server,
        name: "test".parse().expect("a name"),
        site: None,
        relay: RelayAccess::default(),
        host,
        program: "/proc/self/exe".into(),
        offer: Offered::default(),
        failover_lease: Millis(failover_lease_ms),
        build: BuildSettings {
            env: std::env::vars().filter_map(inherited).collect(),
            read_only: std::env::var_os("READ_ONLY")
                .iter()
                .flat_map(std::env::split_paths)
                .collect(),
        },
        open_usr_local: false,
        names,
    };
    runtime.expect("a runtime").block_on(async {
        let shutdown = Shutdown::new();
        shutdown.listen_to_signals().expect("signals");
        match insula_agent::run_by(Arc::new(clock), config, shutdown).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}: {}", error.source().map_or(String::new(), |it| it.to_string()));
                ExitCode::FAILURE
            }
        }
    })
}

/// Answers every request with `index.html`: enough to see that it was started as agreed.
fn serve(root: &str, port: &str) -> ExitCode {
    let port: u16 = port.parse().expect("a port");
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free");
    for stream in listener.incoming() {
        let mut stream = stream.expect("a connection");
        let _ = stream.read(&mut [0; 1_024]);
        let page = std::fs::read(Path::new(root).join("index.html")).unwrap_or_default();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", page.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&page));
    }
    ExitCode::SUCCESS
}

/// What the agent has to say, for whoever wonders why a test fails.
fn log() {
    if std::env::var_os("INSULA_TEST_LOG").is_some() {
        let filter = Some("info,insula_agent=debug".to_owned());
        let telemetry = Telemetry { role: "agent", format: LogFormat::Human, filter };
        telemetry.start().expect("a log");
    }
}
