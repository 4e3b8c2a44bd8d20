//! The roles of the platform's binary that an agent needs, for this crate's own tests: they start,
//! kill and replace agents and keepers as processes. The real thing is the crate `insula`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use insula_agent::keeper::{self, KeeperConfig, NODE_BOUND};
use insula_agent::{AgentConfig, BuildSettings, Endpoint, HostAccess, Names};
use insula_kit::shutdown::Shutdown;
use insula_kit::telemetry::{LogFormat, Telemetry};
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
        ["agent", data, socket, tag] => agent(data.into(), socket.into(), tag),
        ["static-server", "--root", root, "--port", port] => serve(root, port),
        _ => panic!("no such role: {arguments:?}"),
    }
}

fn agent(data: PathBuf, socket: PathBuf, tag: &str) -> ExitCode {
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
    let config = AgentConfig {
        data,
        server: Endpoint::Unix(socket),
        name: "test".parse().expect("a name"),
        host,
        program: "/proc/self/exe".into(),
        capacity: None,
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
        insula_agent::run(config, shutdown).await.expect("the agent runs");
    });
    ExitCode::SUCCESS
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
