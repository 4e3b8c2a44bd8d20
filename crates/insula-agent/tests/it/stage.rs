//! A data folder with a keeper process and sandboxes whose inits are played by us.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use insula_agent::keeper::{KeptRecord, LOG_SCHEMA, LogSpec};
use insula_agent::log::{Bound, Entry, LogQuery, LogRoot, query};
use insula_model::{AppId, InstanceId, OrgId, ReleaseId, Timestamp};

/// Far more than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub const KEEPER_DATA: &str = "INSULA_TEST_KEEPER_DATA";
pub const KEEPER_TEST: &str = "keeper::plays_the_keeper_when_asked";

/// A keeper in a process of its own: this test binary, told to play one.
pub struct Keeper(Child);

impl Keeper {
    pub fn start(data: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", KEEPER_TEST, "--nocapture"])
            .env(KEEPER_DATA, data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }

    /// Waits until it is the one.
    pub fn holds_the_lock(&self, data: &Path) {
        eventually("the keeper to hold the lock", || {
            let holder = std::fs::read_to_string(data.join("run/keeper.lock")).ok()?;
            (holder.trim() == self.pid().to_string()).then_some(())
        });
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A sandbox as its init leaves it: FIFOs held open for reading and writing, and a process.
pub struct Sandbox {
    pub dir: PathBuf,
    pub instance: InstanceId,
    init: Child,
    _held: [File; 2],
}

pub fn app() -> AppId {
    AppId::from_parts(Timestamp::from_millis(1), [1; 10])
}

pub const WIDE: Bound = Bound { bytes: 1 << 40, segments: 1 << 20 };
/// So much that nothing is ever over it.
pub const UNLIMITED: u64 = 1 << 40;

impl Sandbox {
    pub fn start(data: &Path, n: u8, rate: u64, burst: u64, keep: Bound) -> Self {
        let instance = InstanceId::from_parts(Timestamp::from_millis(i64::from(n)), [n; 10]);
        let dir = data.join("run").join(instance.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        let held = ["out", "err"].map(|name| {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mkfifoat(rustix::fs::CWD, dir.join(name), mode).unwrap();
            OpenOptions::new().read(true).write(true).open(dir.join(name)).unwrap()
        });
        let init = Command::new("sleep").arg("1000").spawn().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", init.id())).unwrap();
        let ticks: u64 =
            stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let record = serde_json::json!({
            "schema": 1,
            "init": { "pid": init.id(), "start_ticks": ticks, "boot_id": boot.trim() },
        });
        std::fs::write(dir.join("record.json.new"), record.to_string()).unwrap();
        std::fs::rename(dir.join("record.json.new"), dir.join("record.json")).unwrap();
        let spec = LogSpec {
            schema: LOG_SCHEMA,
            org: OrgId::from_parts(Timestamp::from_millis(1), [1; 10]),
            app: app(),
            component: "web".parse().unwrap(),
            release: ReleaseId::from_parts(Timestamp::from_millis(1), [1; 10]),
            instance,
            rate_bytes_per_s: rate,
            burst_bytes: burst,
            keep,
            lease_grace_ms: None,
        };
        spec.store(&dir).unwrap();
        Self { dir, instance, init, _held: held }
    }

    /// Runs a shell line as the app. It fails if it got a signal, SIGPIPE say.
    pub fn app(&self, line: &str) -> Child {
        Command::new("sh")
            .args(["-c", line])
            .stdin(Stdio::null())
            .stdout(OpenOptions::new().write(true).open(self.dir.join("out")).unwrap())
            .stderr(OpenOptions::new().write(true).open(self.dir.join("err")).unwrap())
            .spawn()
            .unwrap()
    }

    pub fn run(&self, line: &str) {
        let status = self.app(line).wait().unwrap();
        assert!(status.success(), "{line}: {status}");
    }

    /// Ends the sandbox as the init does, but keeps the pipes until the keeper is done.
    pub fn end(mut self, code: i32) -> KeptRecord {
        let mut exit = [0u8; 64];
        exit[..8].copy_from_slice(b"INSULAEX");
        exit[8] = 1;
        exit[9] = 1;
        exit[12..16].copy_from_slice(&code.to_le_bytes());
        std::fs::write(self.dir.join("exit"), exit).unwrap();
        self.init.kill().unwrap();
        self.init.wait().unwrap();
        eventually("the record of the end", || KeptRecord::load(&self.dir).unwrap())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(it) = look() {
            return it;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Everything that is in the log, page by page.
pub fn everything(data: &Path) -> Vec<Entry> {
    let mut question = LogQuery::of(app());
    let mut all = Vec::new();
    loop {
        let page = query(&LogRoot::of(data), &question).unwrap();
        all.extend(page.entries);
        if !page.more {
            return all;
        }
        question.after = Some(page.cursor);
    }
}

pub fn text_of(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|e| format!("{} {}", e.stream.as_str(), e.text)).collect()
}
