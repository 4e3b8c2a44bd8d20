//! etcd beside it: how many writes a second it acknowledges on the same disk, with its defaults.
//!
//! Over its own protocol (gRPC), many requests at a time on a few connections. The values are as
//! long as an instance's row as a document. Once as single puts, which is how an instance at a time
//! is stored in it, and once as transactions of as many puts as it allows by default.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

/// Where Debian keeps it.
const PACKAGES: [&str; 2] = ["etcd-server", "etcd-client"];
const SPAN: Duration = Duration::from_secs(10);
/// Requests at a time: more than enough to fill its groups.
const AT_ONCE: usize = 512;
const CONNECTIONS: usize = 8;
/// etcd's own default of `--max-txn-ops`.
const PUTS_PER_TRANSACTION: usize = 128;
/// As long as an instance is as a document, without what it shares with others of its component.
const VALUE_LEN: usize = 320;
const START_TIME_MAX: Duration = Duration::from_secs(20);

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, prost::Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestOp {
    #[prost(message, optional, tag = "2")]
    put: Option<PutRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxnResponse {
    #[prost(bool, tag = "2")]
    succeeded: bool,
}

pub fn beside(folder: &Path, ours_per_second: f64) -> Result<()> {
    let folder = folder.join("etcd");
    std::fs::create_dir(&folder)?;
    // What was not measured must not look as if it had been.
    let program = program(&folder)?;
    let program = program.with_context(|| {
        format!("etcd is missing, and apt cannot fetch {}", PACKAGES.join(", "))
    })?;
    let mut server = Server::start(&program, &folder)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let connections = server.connect().await?;
        let single = load(&connections, 1).await?;
        let grouped = load(&connections, PUTS_PER_TRANSACTION).await?;
        anyhow::Ok((single, grouped))
    });
    drop(server);
    let (single, grouped) = outcome?;
    println!("beside it, {}:", version(&program)?);
    let times = |theirs: f64| ours_per_second / theirs.max(1e-9);
    println!(
        "  single puts acknowledged      {single:>9.0}/s   ours: {:.1} times as many",
        times(single)
    );
    println!(
        "  in transactions of {PUTS_PER_TRANSACTION}        {grouped:>9.0}/s   ours: {:.1} times as many",
        times(grouped)
    );
    Ok(())
}

/// Of the path, or else of the distribution's package, unpacked in our folder and not installed.
fn program(folder: &Path) -> Result<Option<PathBuf>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|folder| folder.join("etcd"));
    if let Some(found) = installed.into_iter().find(|file| file.is_file()) {
        return Ok(Some(found));
    }
    let quiet = |command: &mut Command| {
        let command = command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !quiet(Command::new("apt-get").arg("download").args(PACKAGES)) {
        return Ok(None);
    }
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.path();
        if file.extension().is_some_and(|it| it == "deb") {
            quiet(Command::new("dpkg").arg("-x").arg(&file).arg("unpacked"));
        }
    }
    let found = folder.join("unpacked/usr/bin/etcd");
    Ok(found.is_file().then_some(found))
}

fn version(program: &Path) -> Result<String> {
    let said = Command::new(program).arg("--version").output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    Ok(said.lines().next().unwrap_or("etcd of an unknown version").to_owned())
}

struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(program: &Path, folder: &Path) -> Result<Self> {
        let (client, peer) = (free_url()?, free_url()?);
        let process = Command::new(program)
            .args(["--name", "beside", "--log-level", "error"])
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("beside={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self { process, url: client })
    }

    /// Once it answers.
    async fn connect(&mut self) -> Result<Vec<Channel>> {
        let begun = Instant::now();
        let endpoint = Endpoint::from_shared(self.url.clone())?;
        loop {
            if let Some(ended) = self.process.try_wait()? {
                anyhow::bail!("etcd ended with {ended}");
            }
            if let Ok(channel) = endpoint.connect().await
                && put(&mut client(&channel), "begin".into()).await.is_ok()
            {
                break;
            }
            ensure!(begun.elapsed() < START_TIME_MAX, "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(endpoint.connect().await?);
        }
        Ok(channels)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // By its own id; it may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Free a moment ago, which is all that a program that wants a number can be given.
fn free_url() -> Result<String> {
    Ok(format!("http://{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?))
}

type Client = tonic::client::Grpc<Channel>;

fn client(channel: &Channel) -> Client {
    tonic::client::Grpc::new(channel.clone())
}

fn put_of(key: String) -> PutRequest {
    PutRequest { key: key.into_bytes(), value: vec![b'x'; VALUE_LEN] }
}

async fn put(client: &mut Client, key: String) -> Result<()> {
    client.ready().await?;
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
    let codec = tonic_prost::ProstCodec::<PutRequest, PutResponse>::default();
    client.unary(tonic::Request::new(put_of(key)), path, codec).await?;
    Ok(())
}

async fn transaction(client: &mut Client, keys: Vec<String>) -> Result<()> {
    client.ready().await?;
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Txn");
    let codec = tonic_prost::ProstCodec::<TxnRequest, TxnResponse>::default();
    let success = keys.into_iter().map(|key| RequestOp { put: Some(put_of(key)) }).collect();
    let answer = client.unary(tonic::Request::new(TxnRequest { success }), path, codec).await?;
    ensure!(answer.into_inner().succeeded, "a transaction without conditions failed");
    Ok(())
}

/// Puts that were acknowledged in a second.
async fn load(connections: &[Channel], per_request: usize) -> Result<f64> {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let workers: Vec<_> = (0..AT_ONCE)
        .map(|worker| {
            let mut client = client(&connections[worker % connections.len()]);
            let acknowledged = Arc::clone(&acknowledged);
            tokio::spawn(async move {
                let mut turn = 0_u64;
                while begun.elapsed() < SPAN {
                    let key = |nth: usize| format!("/instances/{worker}-{turn}-{nth}");
                    match per_request {
                        1 => put(&mut client, key(0)).await?,
                        many => transaction(&mut client, (0..many).map(key).collect()).await?,
                    }
                    acknowledged.fetch_add(per_request as u64, Ordering::Relaxed);
                    turn += 1;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok(acknowledged.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64())
}
