//! A node for one test: a data folder, a server, a keeper, an agent, and the proof that nothing of
//! them is left.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use insula_blobs::{Chunk, Entry, Manifest};
use insula_model::build::{Artifact, BuildPlan, BuildStep};
use insula_model::observed::{BuildPhase, InstancePhase, InstanceReport, NodeReport};
use insula_model::release::ReleaseNumber;
use insula_model::schema;
use insula_model::spec::{ComponentKind, ComponentSpec, Isolation, Runtime};
use insula_model::target::{
    BuildTarget, Command, InstanceIntent, InstanceTarget, NodeTarget, Place,
};
use insula_model::{
    AppId, BuildId, Bytes, DeploymentId, Digest, EnvironmentId, Generation, InstanceId, MilliCpu,
    Millis, NodeId, OrgId, ReleaseId, Timestamp,
};
use insula_wire::node as wire;
use rustix::process::{Pid, Signal, kill_process};

use super::fake::{Server, State};
use super::fleet::Fleet;

/// Far more than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// An ordinary user.
pub const NOBODY: u32 = 65_534;
const ALONE: &str = "INSULA_TEST_ALONE";

/// Runs the test in a network namespace of its own, by starting it again in one.
pub fn alone<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "{name} needs root");
        eprintln!("SKIPPED: {name} needs root");
        return;
    }
    if let Some(witness) = std::env::var_os(ALONE) {
        let up = Process::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.is_ok_and(|up| up.success()), "needs the package iproute2");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(body());
        std::fs::write(witness, "done").unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness");
    let status = Process::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, &witness)
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed in its own network");
    assert!(witness.exists(), "there is no test called {name}");
}

/// Our roles as a program, built beside the tests.
fn program() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let program = exe.parent().and_then(Path::parent).unwrap().join("examples/roles");
    assert!(program.exists(), "build the examples as well: cargo test -p insula-agent");
    program
}

fn start_keeper(data: &Path, user: Option<u32>) -> Child {
    let mut keeper = role_of(user);
    keeper.args(["keeper", "--data"]).arg(data).stdin(Stdio::null()).spawn().unwrap()
}

/// Our roles as a program.
pub fn role() -> Process {
    role_of(None)
}

/// A program of ours, as this user.
fn role_of(user: Option<u32>) -> Process {
    let Some(user) = user else { return Process::new(program()) };
    let mut process = Process::new("setpriv");
    process.arg(format!("--reuid={user}")).arg(format!("--regid={user}"));
    process.arg("--clear-groups").arg(program());
    process
}

pub struct World {
    folder: tempfile::TempDir,
    pub tag: String,
    /// Where the agent looks for a server.
    pub at: String,
    pub state: State,
    pub server: Option<Server>,
    keeper: Child,
    user: Option<u32>,
    agent: Option<Child>,
    pub environment: BTreeMap<String, String>,
    node: NodeId,
    generation: u64,
    pub instances: Vec<InstanceTarget>,
    pub builds: Vec<BuildTarget>,
    secrets: Vec<wire::SecretBundle>,
}

impl World {
    pub async fn new() -> Self {
        Self::with(BTreeMap::new(), None).await
    }

    /// Of an operator who has set these in the agent's environment.
    pub async fn with_environment(environment: BTreeMap<String, String>) -> Self {
        Self::with(environment, None).await
    }

    /// A node in development mode.
    pub async fn of_ordinary_user() -> Self {
        Self::with(BTreeMap::new(), Some(NOBODY)).await
    }

    /// A node of a fleet, with a token to join it.
    pub async fn of_fleet(fleet: &Fleet) -> Self {
        Self::of_fleet_with_clock(fleet, 0).await
    }

    /// Likewise, on a machine whose clock is so far ahead of everybody's; negative: behind.
    pub async fn of_fleet_with_clock(fleet: &Fleet, ahead_ms: i64) -> Self {
        let state = State::new();
        let server = Server::start_in(fleet, state.clone(), 0).await;
        fleet.name_server(server.address.unwrap());
        let environment = BTreeMap::from([
            ("TOKEN".into(), fleet.token(1)),
            ("CLOCK_AHEAD_MS".into(), ahead_ms.to_string()),
        ]);
        Self::against(environment, None, state, Some(server)).await
    }

    async fn with(environment: BTreeMap<String, String>, user: Option<u32>) -> Self {
        Self::against(environment, user, State::new(), None).await
    }

    async fn against(
        environment: BTreeMap<String, String>,
        user: Option<u32>,
        state: State,
        server: Option<Server>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tag = format!("t{:05x}", std::process::id() & 0xf_ffff);
        std::fs::create_dir_all(folder.path().join("run")).unwrap();
        let at = match server.as_ref().and_then(|server| server.address) {
            Some(address) => format!("fleet:{address}"),
            None => folder.path().join("run/server.sock").display().to_string(),
        };
        let server = match server {
            Some(server) => server,
            None => Server::start(state.clone(), &folder.path().join("run/server.sock")).await,
        };
        if let Some(user) = user {
            for path in ["", "run", "run/server.sock"] {
                let path = folder.path().join(path);
                std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
            }
        }
        let keeper = start_keeper(folder.path(), user);
        let mut world = Self {
            folder,
            tag,
            at,
            state,
            server: Some(server),
            keeper,
            user,
            agent: None,
            environment,
            node: NodeId::from_parts(Timestamp::from_millis(1), [1; 10]),
            generation: 0,
            instances: vec![],
            builds: vec![],
            secrets: vec![],
        };
        let data = world.data().to_owned();
        eventually("the keeper", || insula_agent::keeper::is_running(&data).unwrap()).await;
        world.start_agent();
        world
    }

    pub fn data(&self) -> &Path {
        self.folder.path()
    }

    pub fn start_agent(&mut self) {
        let mut agent = role_of(self.user);
        agent.arg("agent").arg(self.data()).arg(&self.at);
        agent.arg(if self.user.is_some() { "-" } else { &self.tag });
        agent.envs(&self.environment);
        self.agent = Some(agent.stdin(Stdio::null()).spawn().unwrap());
    }

    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub fn signal_agent(&self, signal: Signal) {
        kill_process(Pid::from_child(self.agent.as_ref().unwrap()), signal).unwrap();
    }

    /// Asks the agent to end and waits until it has.
    pub async fn end_agent(&mut self, signal: Signal) {
        let mut agent = self.agent.take().unwrap();
        kill_process(Pid::from_child(&agent), signal).unwrap();
        let status = tokio::task::spawn_blocking(move || agent.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
    }

    pub fn kill_keeper(&mut self) {
        self.keeper.kill().unwrap();
        self.keeper.wait().unwrap();
    }

    /// Another keeper after `down`.
    pub async fn restart_keeper(&mut self) {
        let _ = self.keeper.wait();
        self.keeper = start_keeper(self.data(), self.user);
        let data = self.data().to_owned();
        eventually("the keeper", || insula_agent::keeper::is_running(&data).unwrap()).await;
    }

    /// Where the first instance answers, as the agent wrote it down for the next one.
    pub async fn endpoint_on_disk(&self) -> SocketAddr {
        let path = self.data().join(format!("agent/state/{}.json", self.instances[0].id));
        let read = || -> Option<serde_json::Value> {
            let record: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
            let ready = record["life"]["stage"]["health"]["health"] == "ready";
            ready.then(|| record["place"]["attachment"]["address"].clone())
        };
        eventually("an instance that is ready", || read().is_some()).await;
        let address: std::net::IpAddr = serde_json::from_value(read().unwrap()).unwrap();
        (address, 8080).into()
    }

    /// How often the first instance was started again.
    pub fn restarts_on_disk(&self) -> u64 {
        let path = self.data().join(format!("agent/state/{}.json", self.instances[0].id));
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        record["life"]["restarts"].as_u64().unwrap()
    }

    /// Where the first instance is, ready or not.
    pub fn address_on_disk(&self) -> SocketAddr {
        let path = self.data().join(format!("agent/state/{}.json", self.instances[0].id));
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let address = record["place"]["attachment"]["address"].as_str().unwrap_or("0.0.0.0");
        (address.parse::<std::net::IpAddr>().unwrap(), 8080).into()
    }

    pub async fn start_server(&mut self) {
        let socket = self.data().join("run/server.sock");
        self.server = Some(Server::start(self.state.clone(), &socket).await);
    }

    /// A source of these files. Names that end in `.sh` or have no dot can be executed.
    pub fn source(&self, files: &[(&str, &str)]) -> Digest {
        let entries = files.iter().map(|(path, content)| {
            let size = Bytes(content.len() as u64);
            let digest = self.state.put("chunk", content.as_bytes().to_vec());
            let chunks = if content.is_empty() { vec![] } else { vec![Chunk { digest, size }] };
            let executable = path.ends_with(".sh") || !path.contains('.');
            let node = insula_blobs::Node::File { executable, chunks };
            Entry { path: (*path).to_owned(), node }
        });
        let manifest = Manifest::new(entries.collect()).unwrap();
        self.state.put("manifest", manifest.encode())
    }

    pub fn place(&self) -> Place {
        let at = Timestamp::from_millis(1_700_000_000_000);
        Place {
            org: OrgId::from_parts(at, [1; 10]),
            org_name: "acme".parse().unwrap(),
            project_name: "default".parse().unwrap(),
            environment: EnvironmentId::from_parts(at, [1; 10]),
            environment_name: "production".parse().unwrap(),
            app: AppId::from_parts(at, [1; 10]),
            app_name: "shop".parse().unwrap(),
        }
    }

    /// An instance of a service that runs this shell line over this source.
    pub fn instance(&self, number: u8, source: Digest, line: &str) -> InstanceTarget {
        let at = Timestamp::from_millis(1_700_000_000_000);
        let component = ComponentSpec::of_kind(ComponentKind::Service);
        let mut stop = component.stop;
        stop.grace = Millis::secs(5);
        InstanceTarget {
            id: InstanceId::from_parts(at, [number; 10]),
            place: self.place(),
            component: "web".parse().unwrap(),
            kind: component.kind,
            runtime: Runtime::Python,
            release: ReleaseId::from_parts(at, [1; 10]),
            release_number: ReleaseNumber(1),
            deployment: DeploymentId::from_parts(at, [1; 10]),
            run: None,
            artifact: Artifact { source, built: None, size: Bytes(0) },
            command: Command::Shell { line: line.into() },
            root: String::new(),
            port: Some(8080),
            variables: BTreeMap::new(),
            secrets: vec![],
            cpu: MilliCpu(1_000),
            memory: Bytes::mib(128),
            pids: 50,
            disk: Bytes::mib(16),
            health: component.health,
            liveness: None,
            isolation: Isolation::Standard,
            stop,
            log_rate: Bytes::mib(1),
            intent: InstanceIntent::Run,
            routed: true,
            failover: insula_model::spec::Failover::Never,
            trace: String::new(),
        }
    }

    pub fn build(&self, number: u8, source: Digest, steps: &[&str]) -> BuildTarget {
        let at = Timestamp::from_millis(1_700_000_000_000);
        let step = |line: &&str| BuildStep {
            name: (*line).split(' ').next().unwrap().to_owned(),
            runtime: Runtime::Host,
            argv: vec!["/bin/sh".into(), "-c".into(), (*line).to_owned()],
            env: BTreeMap::new(),
            dir: String::new(),
        };
        BuildTarget {
            id: BuildId::from_parts(at, [number; 10]),
            place: self.place(),
            deployment: DeploymentId::from_parts(at, [1; 10]),
            source,
            plan: BuildPlan { steps: steps.iter().map(step).collect(), warnings: vec![] },
            variables: BTreeMap::new(),
            secrets: vec![],
            time_limit: Millis::secs(60),
            memory: Bytes::mib(512),
            cpu: MilliCpu(1_000),
            pids: 100,
            output_max: Bytes::mib(64),
            attempt: 1,
            trace: String::new(),
        }
    }

    pub fn secret(&mut self, subject: impl ToString, name: &str, value: &str) {
        self.secrets.push(wire::SecretBundle {
            subject: subject.to_string(),
            values: [(name.to_owned(), value.to_owned())].into(),
        });
    }

    /// Sends what `instances` and `builds` say now.
    pub fn send(&mut self) {
        self.generation += 1;
        let target = NodeTarget {
            node: self.node,
            generation: Generation(self.generation),
            instances: self.instances.clone(),
            builds: self.builds.clone(),
            fleet: Default::default(),
        };
        self.state.target.send_replace(Some(wire::Target {
            generation: self.generation,
            document: schema::encode(&target).unwrap(),
            secrets: self.secrets.clone(),
        }));
    }

    /// Waits for a report of the present generation of which this is true.
    pub async fn until(&self, what: &str, is_so: impl Fn(&NodeReport) -> bool) -> NodeReport {
        let mut reports = self.state.report.subscribe();
        let generation = Generation(self.generation);
        let waiting = reports.wait_for(|report| {
            report.as_ref().is_some_and(|it| it.generation == generation && is_so(it))
        });
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(report) => report.unwrap().clone().unwrap(),
            Err(_) => panic!("no {what} in {:#?}", *self.state.report.borrow()),
        }
    }

    /// Waits until the instance is in such a phase.
    pub async fn until_phase(&self, number: usize, phase: &str) -> InstanceReport {
        let id = self.instances[number].id;
        let is_so = |it: &InstanceReport| it.id == id && it.phase.as_str() == phase;
        let report = self.until(phase, |report| report.instances.iter().any(is_so)).await;
        report.instances.into_iter().find(|it| it.id == id).unwrap()
    }

    pub async fn until_ready(&self, number: usize) -> SocketAddr {
        let report = self.until_phase(number, InstancePhase::Ready.as_str()).await;
        report.endpoint.expect("what is ready has an endpoint")
    }

    pub async fn until_built(&self, number: usize) -> BuildPhase {
        let id = self.builds[number].id;
        let over = |phase: &BuildPhase| {
            matches!(phase, BuildPhase::Done { .. } | BuildPhase::Failed { .. })
        };
        let report = self
            .until("build that is over", |it| {
                it.builds.iter().any(|b| b.id == id && over(&b.phase))
            })
            .await;
        report.builds.into_iter().find(|build| build.id == id).unwrap().phase
    }

    /// All lines of the app, or of the build.
    pub async fn log(&self, request: wire::LogRequest) -> Vec<String> {
        self.log_until(request, |_| false).await
    }

    /// The lines up to one of which this is true, or all.
    pub async fn log_until(
        &self,
        request: wire::LogRequest,
        is_last: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut chunks = self.state.logs.subscribe();
        let stream = request.stream;
        let ask = wire::server_message::Message::LogRequest(request);
        self.state.requests.send(ask).unwrap();
        let mut lines = Vec::new();
        let reading = async {
            loop {
                let chunk = chunks.recv().await.unwrap();
                if chunk.stream != stream {
                    continue;
                }
                assert_eq!(chunk.error, "");
                let texts = chunk.entries.iter().map(|entry| String::from_utf8_lossy(&entry.line));
                lines.extend(texts.map(std::borrow::Cow::into_owned));
                if chunk.end || lines.iter().any(|line| is_last(line)) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("the log ends");
        let cancel = wire::LogCancel { stream };
        let _ = self.state.requests.send(wire::server_message::Message::LogCancel(cancel));
        lines
    }

    pub fn app_log(&self) -> wire::LogRequest {
        wire::LogRequest { stream: 7, app: self.place().app.to_string(), ..Default::default() }
    }

    /// Names of the folders of sandboxes.
    pub fn sandboxes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.data().join("run")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                found.push(entry.file_name().into_string().unwrap());
            }
        }
        found
    }

    /// Nothing of this node is in the kernel or in its run folder.
    pub async fn assert_nothing_is_left(&self) {
        assert_eq!(self.sandboxes(), Vec::<String>::new());
        let links = Process::new("ip").args(["-o", "link"]).output().unwrap();
        let links = String::from_utf8_lossy(&links.stdout).into_owned();
        assert!(!links.contains(&format!("ins-{}", self.tag)), "{links}");
        let groups = format!("insula-{}", self.tag);
        let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
        for _ in 0..2 {
            let below = folders.iter().filter_map(|it| std::fs::read_dir(it).ok()).flatten();
            let below: Vec<PathBuf> = below.flatten().map(|entry| entry.path()).collect();
            assert!(!below.iter().any(|path| path.ends_with(&groups)), "{groups} is still there");
            folders = below;
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let data = self.data().display().to_string();
        assert!(!mounts.contains(&data), "{mounts}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let data = self.data().to_owned();
        // Also after a failed test; on a thread, because there may be a runtime on this one.
        let down = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(insula_agent::down(&data))
        });
        let down = down.join();
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        if !std::thread::panicking() {
            down.expect("down ends").expect("down works");
        }
    }
}

pub async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The body of an answer.
pub async fn get(address: SocketAddr, path: &str) -> Result<String, std::io::Error> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    })
    .await
    .unwrap()
}
