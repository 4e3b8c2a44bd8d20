//! `insula up`, started for one test, with a data folder, ports and a network of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::host::Traces;
use crate::http::{self, Answer};
use crate::process;

/// How long `up` may take until it greets, on a machine that is busy with other tests.
const UP_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a command may take.
const END_TIME_MAX: Duration = Duration::from_secs(60);
/// Between looks at something that changes by itself.
pub const LOOK: Duration = Duration::from_millis(20);

/// Counts the machines of this process, so that each gets a network of its own.
static MACHINES: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub struct Machine {
    folder: TempDir,
    up: Option<Child>,
    pub api: SocketAddr,
    pub edge: SocketAddr,
    pool: String,
    program: PathBuf,
    /// More of the environment that every command starts in.
    pub environment: Vec<(String, String)>,
    /// More arguments for `up`.
    pub more: Vec<String>,
    log: PathBuf,
    /// Who runs everything, if it is not who runs the test.
    user: Option<u32>,
    greeting: String,
    /// Whether the data folder is a file system of its own.
    small_disk: bool,
}

/// The binary that is tested: `INSULA_BIN`, else the one beside the test.
pub fn program() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("INSULA_BIN") {
        return Ok(given.into());
    }
    let test = std::env::current_exe()?;
    let found = test.ancestors().map(|folder| folder.join("insula")).find(|path| path.is_file());
    found
        .context("find the insula binary; build it with `cargo build -p insula`, or set INSULA_BIN")
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Addresses of the package indexes that this host uses, as far as they are not the internet's:
/// what an operator with an index of her own has to open.
fn indexes() -> Vec<Ipv4Addr> {
    static FOUND: OnceLock<Vec<Ipv4Addr>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let pip = "import pip._internal.models.index as i; print(i.PyPI.url)";
            let asked =
                [("npm", vec!["config", "get", "registry"]), ("/usr/bin/python3", vec!["-c", pip])];
            let urls = asked.iter().filter_map(|(program, args)| {
                let output = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
                String::from_utf8(output.stdout).ok()
            });
            let mut found: Vec<Ipv4Addr> = urls.flat_map(|url| addresses(url.trim())).collect();
            found.retain(|ip| ip.is_private() || ip.is_documentation() || ip.is_link_local());
            found.sort_unstable();
            found.dedup();
            found
        })
        .clone()
}

fn addresses(url: &str) -> Vec<Ipv4Addr> {
    let host = url.split("://").nth(1).and_then(|rest| rest.split(['/', ':']).next());
    let found = host.and_then(|host| (host, 443).to_socket_addrs().ok());
    let v4 = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => Some(*v4.ip()),
        SocketAddr::V6(_) => None,
    };
    found.into_iter().flatten().filter_map(v4).collect()
}

impl Machine {
    pub fn start() -> Result<Self> {
        let mut machine = Self::prepare()?;
        machine.up()?;
        Ok(machine)
    }

    /// Everything but `up`.
    pub fn prepare() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("insula-e2e").tempdir()?;
        let number = MACHINES.fetch_add(1, Ordering::Relaxed);
        // A network for each process and machine; tests of one run do not meet.
        let net = (std::process::id() + number) % 250;
        let log = folder.path().join("up.log");
        Ok(Self {
            folder,
            environment: Vec::new(),
            up: None,
            api: free_port()?,
            edge: free_port()?,
            pool: format!("10.88.{net}.0/24"),
            program: program()?,
            more: indexes()
                .iter()
                .flat_map(|ip| ["--open".to_owned(), format!("{ip}/32")])
                .collect(),
            log,
            user: None,
            greeting: String::new(),
            small_disk: false,
        })
    }

    /// Gives the machine to an ordinary user, before it is started.
    pub fn run_as(&mut self, user: u32) -> Result<()> {
        // A copy, because the program may lie where nobody else may look.
        let copy = self.folder.path().join("insula");
        std::fs::copy(&self.program, &copy)?;
        std::os::unix::fs::chown(self.folder.path(), Some(user), Some(user))?;
        self.program = copy;
        self.user = Some(user);
        self.more.clear();
        Ok(())
    }

    /// Gives the data folder a disk of its own that is this large, before it is started.
    pub fn with_small_disk(&mut self, mib: u64) -> Result<()> {
        std::fs::create_dir_all(self.data())?;
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "insula-e2e"])
            .arg(self.data())
            .status()?;
        if !mounted.success() {
            bail!("mount a small disk: {mounted}");
        }
        self.small_disk = true;
        Ok(())
    }

    /// Why this machine does not let that user make sandboxes, if so.
    pub fn cannot_sandbox_as_user(&self) -> Result<Option<String>> {
        let doctor = self.command().args(["doctor"]).stdin(Stdio::null()).output()?;
        Ok((!doctor.status.success()).then(|| String::from_utf8_lossy(&doctor.stdout).into_owned()))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(user) = self.user {
            command.uid(user).gid(user).env("HOME", self.folder.path());
        }
        command.envs(self.environment.iter().cloned());
        command
    }

    /// What `up` printed when it was ready.
    pub fn greeting(&self) -> &str {
        &self.greeting
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What the platform itself wrote to stderr.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn up(&mut self) -> Result<()> {
        if let Some(mut killed) = self.up.take() {
            // A signal is not an end yet.
            killed.wait()?;
        }
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let mut child = self
            .command()
            .args(["up", "--log-json", "--api", &self.api.to_string()])
            .args(["--edge", &self.edge.to_string(), "--pool", &self.pool])
            .arg("--data")
            .arg(self.data())
            .args(&self.more)
            .env("INSULA_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("start insula up")?;
        let stdout = child.stdout.take().context("stdout of up")?;
        self.up = Some(child);
        let (told, greeted) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody may be listening any more; reading goes on so that `up` never blocks.
                let _ = told.send(line);
            }
        });
        let deadline = Instant::now() + UP_TIME_MAX;
        self.greeting.clear();
        while let Ok(line) =
            greeted.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.greeting += &line;
            self.greeting.push('\n');
            // The last line of what it says.
            if line.trim_start().starts_with("insula deploy") {
                return Ok(());
            }
        }
        bail!("insula up did not greet; it said:\n{}", self.log());
    }

    pub fn up_pid(&self) -> Option<u32> {
        self.up.as_ref().map(Child::id)
    }

    /// The pid of a role that `up` started.
    pub fn role(&self, name: &str) -> Option<u32> {
        let up = self.up_pid()?;
        process::children(up)
            .into_iter()
            .find(|pid| process::arguments(*pid).get(1).is_some_and(|role| role == name))
    }

    /// All processes that belong to this data folder and are not sandboxes, by role.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let data = self.data().display().to_string();
        process::with_argument(&data)
            .into_iter()
            .map(|(pid, args)| (args.get(1).cloned().unwrap_or_default(), pid))
            .collect()
    }

    pub fn keeper(&self) -> Option<u32> {
        self.processes().into_iter().find(|(role, _)| role == "keeper").map(|(_, pid)| pid)
    }

    /// Ends `up` with a signal and waits for it.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        let Some(mut up) = self.up.take() else { return Ok(()) };
        process::signal(up.id(), signal)?;
        let deadline = Instant::now() + END_TIME_MAX;
        while up.try_wait()?.is_none() {
            if Instant::now() > deadline {
                up.kill()?;
                bail!("insula up did not end after {signal:?}; it said:\n{}", self.log());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Kills `up` without a word to anybody.
    pub fn cut_power(&mut self) -> Result<()> {
        if let Some(mut up) = self.up.take() {
            up.kill()?;
            up.wait()?;
        }
        Ok(())
    }

    pub fn down(&self) -> Result<Output> {
        Ok(self.command().arg("down").arg("--data").arg(self.data()).output()?)
    }

    /// The command line, as the operator uses it.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        self.cli_fed(args, "")
    }

    /// The same, with something at its standard input.
    pub fn cli_fed(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut child = self
            .command()
            .args(args)
            .env("INSULA_DATA", self.data())
            .env("HOME", self.folder.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("stdin")?;
        // It may end without reading any of it.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        Ok(child.wait_with_output()?)
    }

    /// A command that goes on until it is ended.
    pub fn follow(&self, args: &[&str]) -> Result<Follow> {
        let file = self.folder.path().join("followed");
        let child = self
            .command()
            .args(args)
            .env("INSULA_DATA", self.data())
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&file)?)
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Follow { child, file })
    }

    /// A command that has to succeed.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.cli(args)?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!(
                "insula {args:?} ended with {}\nstdout: {stdout}\nstderr: {stderr}\nlog:\n{}",
                output.status,
                self.log()
            );
        }
        Ok(stdout)
    }

    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let with_json = [args, &["--json"]].concat();
        let text = self.ok(&with_json)?;
        serde_json::from_str(&text).with_context(|| format!("{args:?} printed {text:?}"))
    }

    /// Deploys a folder and returns the object that `deploy --json` prints.
    pub fn deploy(&self, folder: &Path, app: &str) -> Result<Value> {
        let path = folder.to_str().context("path")?;
        self.json(&["deploy", path, "--app", app])
    }

    /// Deploys something that must not become live; the object tells why.
    pub fn deploy_fails(&self, folder: &Path, app: &str) -> Result<Value> {
        let path = folder.to_str().context("path")?;
        let output = self.cli(&["deploy", path, "--app", app, "--json"])?;
        if output.status.success() {
            bail!("the deployment became live");
        }
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| {
            format!("printed {text:?} and {}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Asks the gateway for a page of an app.
    pub fn visit(&self, url: &str, path: &str) -> Result<Answer> {
        http::get(self.edge, &host_of(url)?, path)
    }

    /// A request to the API with the operator's token.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        self.api_as(&self.operator_token()?, method, path, body)
    }

    pub fn api_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let bearer = format!("Bearer {token}");
        let body = body.map(Value::to_string).unwrap_or_default();
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let host = self.api.to_string();
        http::Connection::open(self.api)?.send(method, &host, path, &headers, body.as_bytes())
    }

    /// A request to the API with a body that is not JSON.
    pub fn api_bytes(
        &self,
        method: &str,
        path: &str,
        media_type: &str,
        body: &[u8],
    ) -> Result<Answer> {
        let bearer = format!("Bearer {}", self.operator_token()?);
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", media_type)];
        let host = self.api.to_string();
        http::Connection::open(self.api)?.send(method, &host, path, &headers, body)
    }

    pub fn operator_token(&self) -> Result<String> {
        let text = std::fs::read_to_string(self.data().join("operator.json"))?;
        let operator: Value = serde_json::from_str(&text)?;
        Ok(operator["token"].as_str().context("token")?.to_owned())
    }

    /// Six characters that stand in the names of what this installation makes in the kernel.
    pub fn tag(&self) -> Result<String> {
        let text = self.ok(&["doctor", "--tag"])?;
        Ok(text.trim().to_owned())
    }

    pub fn traces(&self) -> Result<Traces> {
        Ok(Traces::of(&self.data(), &self.tag()?))
    }
}

/// A command that goes on.
#[derive(Debug)]
pub struct Follow {
    child: Child,
    file: PathBuf,
}

impl Follow {
    /// What it has printed so far.
    pub fn shown(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap_or_default()
    }

    pub fn end(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.end();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.end(Signal::TERM) {
            eprintln!("{error:#}");
        }
        if self.data().exists()
            && let Ok(down) = self.down()
            && !down.status.success()
        {
            eprintln!("insula down: {}", String::from_utf8_lossy(&down.stderr));
        }
        if self.small_disk
            && !Command::new("umount").arg(self.data()).status().is_ok_and(|s| s.success())
        {
            eprintln!("{} could not be unmounted", self.data().display());
        }
        if std::thread::panicking() {
            eprintln!("--- log of insula up ---\n{}", self.log());
        }
    }
}

/// The host and port of `http://host:port/`.
pub fn host_of(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").with_context(|| format!("not a URL: {url}"))?;
    Ok(rest.split('/').next().unwrap_or(rest).to_owned())
}

/// Waits until something is so, and says what was waited for if it never is.
pub fn wait_for(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        if look()? {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {within:?}");
        }
        std::thread::sleep(LOOK);
    }
}
