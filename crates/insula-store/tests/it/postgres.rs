//! A PostgreSQL of the test's own, and the whole suite on it.
//!
//! The server is the distribution's, in a folder that goes with the test, on a socket that nobody
//! else finds, with `fsync` on. A store in it is a schema. The suite runs as this same binary
//! again, told where the server is: every test that makes its store by `Fixture` runs on both.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use insula_store::{PostgresUrl, StoreConfig};
use tempfile::TempDir;

/// Two servers of the suite have this much together, with their logs.
const DATA_MAX: u64 = 2 << 30;
/// Set in the second run: where the server is.
const AT: &str = "INSULA_STORE_TEST_POSTGRES";
/// About SQLite's file, or about the server's own life; this module begins the second run.
const NOT_AGAIN: &[&str] = &[
    "disk::",
    "open::",
    "upgrade::",
    "golden::",
    "postgres::",
    "outage::",
    "both::",
    "shared::",
    "tls::",
];

/// As long as all the others together.
const HISTORIES: &str = "history::";

/// In the second run, a schema of its own for each store.
pub fn place() -> Option<StoreConfig> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let at = std::env::var(AT).ok()?;
    let schema = format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    Some(StoreConfig::postgres(format!("{at}&schema={schema}").parse().unwrap()))
}

/// A running server, ended with its folder.
pub struct Server {
    folder: TempDir,
    program: PathBuf,
    /// What it is told besides, when it is started.
    settings: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Nothing, said loudly, where PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        let Some(bin) = installed() else {
            assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "postgresql is not installed");
            eprintln!("SKIPPED: the store on PostgreSQL: apt-get install postgresql");
            return None;
        };
        let folder =
            tempfile::Builder::new().prefix("insula-pg-").tempdir_in(place_of_data()).unwrap();
        if is_root() {
            // It refuses to run as root.
            done(Command::new("chown").arg("postgres:postgres").arg(folder.path()));
        }
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let mut initdb = as_postgres(&bin.join("initdb"));
        initdb.args(["--no-sync", "--auth=trust", "--username=insula", "--wal-segsize=1"]);
        // Not the order of bytes: ours must not depend on the database's.
        initdb.args(["--encoding=UTF8", "--locale-provider=icu", "--icu-locale=en-US"]);
        initdb.args(["--locale=C.UTF-8"]);
        done(initdb.arg("--pgdata").arg(folder.path().join("data")));
        let program = bin.join("postgres");
        let mut server = Self { folder, program, settings: Vec::new(), child: None };
        server.run();
        Some(server)
    }

    /// Starts it again, with TLS and on TCP, in the name of `localhost`; its port.
    pub fn run_with_tls(&mut self, certificate: &str, key: &str) -> u16 {
        self.stop();
        let file = |name: &str, text: &str| {
            let path = self.folder.path().join("data").join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            self.give(&path);
        };
        file("server.crt", certificate);
        file("server.key", key);
        // One that is free now; nobody else on this machine asks for one by its number.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        self.settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={free}"),
            "ssl=on".to_owned(),
        ];
        self.run();
        free
    }

    /// Starts it again, in the clear.
    pub fn without_tls(&mut self) {
        self.stop();
        self.settings.retain(|setting| setting != "ssl=on");
        self.run();
    }

    /// Starts it (again) and waits until it takes connections.
    pub fn run(&mut self) {
        let mut postgres = as_postgres(&self.program);
        postgres.arg("-D").arg(self.folder.path().join("data"));
        postgres.arg("-k").arg(self.folder.path());
        postgres.args(["-c", "listen_addresses=", "-c", "shared_buffers=32MB", "-c", "fsync=on"]);
        postgres.args(["-c", "max_connections=200", "-c", "log_min_messages=log"]);
        // After a kill it syncs every file of its folder, one by one, unless told this.
        postgres.args(["-c", "recovery_init_sync_method=syncfs"]);
        postgres.args(self.settings.iter().flat_map(|setting| ["-c", setting]));
        let mut child = postgres.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut before = Vec::new();
        loop {
            let line = said.next().unwrap_or_else(|| panic!("{}", before.join("\n"))).unwrap();
            if line.contains("ready to accept connections") {
                break;
            }
            before.push(line);
        }
        // Whoever writes into a pipe that nobody reads stops one day.
        std::thread::spawn(move || said.for_each(drop));
        self.child = Some(child);
    }

    /// Up to the schema, which the caller adds.
    pub fn url(&self) -> String {
        format!("postgres:///postgres?host={}&user=insula", self.folder.path().display())
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the file or folder the server's own.
    pub fn give(&self, path: &Path) {
        if is_root() {
            done(Command::new("chown").arg("postgres:postgres").arg(path));
        }
    }

    pub fn config(&self, schema: &str) -> StoreConfig {
        StoreConfig::postgres(self.url_of(schema))
    }

    pub fn url_of(&self, schema: &str) -> PostgresUrl {
        format!("{}&schema={schema}", self.url()).parse().unwrap()
    }

    /// As an operator would, with the words of `psql`: one line for each row.
    pub fn sql(&self, sql: &str) -> Vec<String> {
        let mut psql = Command::new(self.program.with_file_name("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "insula"]);
        psql.arg("-h").arg(self.folder.path());
        if let Some(port) = self.settings.iter().find_map(|told| told.strip_prefix("port=")) {
            psql.args(["-p", port]);
        }
        let out = psql.args(["-d", "postgres", "-c", sql]);
        let out = out.output().unwrap();
        assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn signal(&self, name: &str, pid: u32) {
        let told = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
        assert!(told.success(), "kill -s {name} {pid}");
    }

    /// As an operator would, who does not wait for its clients.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        self.signal("INT", child.id());
        assert!(child.wait().unwrap().success());
    }

    /// `kill -9` of the server itself; what it had begun dies with it.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        let children = children_of(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        // They notice by themselves; the next one must not meet them.
        for pid in children {
            while Path::new("/proc").join(pid.to_string()).exists() {
                std::thread::yield_now();
            }
        }
    }

    /// Stops every process of it, as a machine that hangs does. They go on when it is dropped.
    pub fn freeze(&self) -> Frozen<'_> {
        let main = self.child.as_ref().unwrap().id();
        let mut pids = vec![main];
        self.signal("STOP", main);
        pids.extend(children_of(main));
        pids[1..].iter().for_each(|pid| self.signal("STOP", *pid));
        Frozen { server: self, pids }
    }
}

pub struct Frozen<'s> {
    server: &'s Server,
    pids: Vec<u32>,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.pids.iter().for_each(|pid| self.server.signal("CONT", *pid));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // At once, and its children with it.
            self.signal("QUIT", child.id());
            let _ = child.wait();
        }
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    listed.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn installed() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists() && bin.join("postgres").exists())
        .collect();
    found.sort();
    found.pop()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What survives a kill need not be on a disk, and each store is a hundred files to sync.
pub fn place_of_data() -> PathBuf {
    let memory = rustix::fs::statvfs("/dev/shm").ok();
    let free = memory.map_or(0, |memory| memory.f_bavail * memory.f_frsize);
    if free >= DATA_MAX { "/dev/shm".into() } else { std::env::temp_dir() }
}

/// It ends with the thread that started it, however that ends.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg("--").arg(program).stdout(Stdio::null()).current_dir("/");
    command
}

fn done(command: &mut Command) {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Runs this binary again with a PostgreSQL under it.
fn again(only: &[&str], at_least: usize) {
    if std::env::var_os(AT).is_some() {
        return;
    }
    let Some(server) = Server::start() else { return };
    let mut again = Command::new(std::env::current_exe().unwrap());
    let out = again.args(only).env(AT, server.url()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}\n{}", String::from_utf8_lossy(&out.stderr));
    eprintln!("{}", said.lines().last().unwrap_or_default());
    let count = said.lines().filter(|line| line.ends_with("... ok")).count();
    assert!(count >= at_least, "only {count} tests ran:\n{said}");
}

#[test]
fn the_whole_suite_passes_on_postgresql() {
    let skip = NOT_AGAIN.iter().chain([&HISTORIES]).flat_map(|module| ["--skip", module]);
    again(&skip.collect::<Vec<_>>(), 50);
}

#[test]
fn any_history_at_all_is_told_on_postgresql() {
    again(&[HISTORIES], 1);
}
