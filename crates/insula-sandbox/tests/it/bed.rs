//! A place for the sandboxes of one test, and the proof that nothing of them is left.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use insula_sandbox::{
    AppLayer, ExitCause, Fate, Limits, Mode, Network, Record, Runtime, RuntimeConfig, SandboxId,
    SandboxSpec, Upper,
};

/// Nothing in these tests takes a second; beyond this it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const PATH: &str = "/.insula/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Says loudly that a test cannot run here; with `INSULA_TEST_ALL=1` that is a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "cannot run: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// True when the test can go on.
pub fn needs_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

pub fn needs_python() -> bool {
    let there = Path::new("/usr/bin/python3").exists();
    if !there {
        skip("needs the package python3");
    }
    there
}

pub struct Bed {
    pub runtime: Runtime,
    pub dir: tempfile::TempDir,
    pub parent: String,
    uid_base: u32,
}

/// What an app said and how it ended.
pub struct Outcome {
    pub out: String,
    pub err: String,
    pub fate: Fate,
}

impl Outcome {
    pub fn code(&self) -> Option<u8> {
        match self.fate {
            Fate::Ended(exit) => match exit.cause {
                ExitCause::Exited { code } => Some(code),
                ExitCause::Signaled { .. } | ExitCause::ExecFailed { .. } => None,
            },
            Fate::Running | Fate::Lost => None,
        }
    }
}

impl Bed {
    pub fn new() -> Self {
        Self::in_mode(Mode::Root)
    }

    pub fn in_mode(mode: Mode) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir().expect("a folder");
        let parent = format!("insula-test-{}-{number}", std::process::id());
        let config = RuntimeConfig::new(mode, dir.path().join("run"), parent.clone());
        let runtime = Runtime::open(config).expect("the runtime opens");
        let uid_base = (100 + std::process::id() % 20_000) * 65_536;
        Self { runtime, dir, parent, uid_base }
    }

    pub fn spec(&self, id: &str, argv: &[&str]) -> SandboxSpec {
        SandboxSpec {
            id: SandboxId::new(id).expect("an id"),
            argv: argv.iter().map(|a| a.to_string()).collect(),
            env: vec![("PATH".into(), PATH.into()), ("HOME".into(), "/app".into())],
            cwd: "/app".into(),
            app: AppLayer { lower: vec![], upper: Upper::Memory { bytes: 8 << 20 } },
            binds: vec![],
            limits: Limits {
                memory_bytes: 128 << 20,
                cpu_milli: 1_000,
                pids: 50,
                nofile: 1_024,
                tmp_bytes: 8 << 20,
                shm_bytes: 8 << 20,
            },
            network: match self.runtime.mode() {
                Mode::Root => Network::None,
                Mode::User => Network::Host,
            },
            uid_base: self.uid_base,
            hostname: "web-1".into(),
            resolver: None,
            open_usr_local: false,
            extra_hosts: vec![],
        }
    }

    pub fn shell(&self, id: &str, script: &str) -> SandboxSpec {
        self.spec(id, &["sh", "-c", script])
    }

    /// Runs to the end, collects what was said, and removes the sandbox.
    pub fn run(&self, spec: &SandboxSpec) -> Outcome {
        let record = self.runtime.launch(spec).expect("the sandbox starts");
        let outcome = self.finish(&record);
        self.runtime.destroy(&record).expect("the sandbox goes");
        outcome
    }

    pub fn run_shell(&self, script: &str) -> Outcome {
        self.run(&self.shell("test", script))
    }

    pub fn run_python(&self, script: &str) -> Outcome {
        self.run(&self.spec("test", &["python3", "-c", script]))
    }

    pub fn finish(&self, record: &Record) -> Outcome {
        let dir = self.runtime.dir(&record.id);
        let err = self.reader(&dir.err());
        let err = std::thread::spawn(move || read_to_end(err));
        let out = read_to_end(self.reader(&dir.out()));
        let err = err.join().expect("the reader ends");
        self.await_end(record);
        Outcome { out, err, fate: self.runtime.fate(record).expect("a fate") }
    }

    pub fn reader(&self, path: &Path) -> File {
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
        options.open(path).expect("the FIFO opens")
    }

    pub fn await_end(&self, record: &Record) {
        if let Some(pidfd) = self.runtime.pidfd(record).expect("a pidfd") {
            assert!(readable(&pidfd), "the sandbox ends");
        }
    }

    /// Every place in which something of this bed could be left.
    pub fn remains(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir.path().join("run")).into_iter().flatten().flatten() {
            found.push(entry.path().display().to_string());
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let group = hierarchy.path().join(&self.parent);
            if group.exists() {
                found.push(group.display().to_string());
            }
        }
        if Path::new("/sys/fs/cgroup").join(&self.parent).exists() {
            found.push(format!("/sys/fs/cgroup/{}", self.parent));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let here = self.dir.path().display().to_string();
        found.extend(mounts.lines().filter(|line| line.contains(&here)).map(str::to_owned));
        found
    }

    pub fn artifact(&self, files: &[(&str, &str)]) -> PathBuf {
        let root = self.dir.path().join("artifact");
        for (name, contents) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, contents).expect("a file");
        }
        root
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for record in self.runtime.list().unwrap_or_default() {
            let _ = self.runtime.destroy(&record);
        }
        let _ = self.runtime.sweep();
        let remains = self.remains();
        if !std::thread::panicking() {
            assert_eq!(remains, Vec::<String>::new(), "nothing is left");
        }
    }
}

/// Waits, within bounds, until there is something to read or the other side is gone.
pub fn readable(fd: &impl std::os::fd::AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).expect("poll") > 0
}

pub fn read_to_end(mut file: File) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut piece = [0; 65_536];
    loop {
        // Reading comes first: a FIFO that never had a writer since it was opened does not poll
        // as ended, but it reads as ended.
        match file.read(&mut piece) {
            Ok(0) => return String::from_utf8_lossy(&bytes).into_owned(),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(readable(&file) && Instant::now() < deadline, "the log ends");
            }
            Err(error) => panic!("read the log: {error}"),
        }
    }
}

/// Reads until a line is there, within bounds.
pub fn read_line(file: &mut File) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        assert!(readable(file), "a line comes");
        let mut byte = [0; 1];
        match file.read(&mut byte) {
            Ok(0) => panic!("the log ended after {:?}", String::from_utf8_lossy(&line)),
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("read the log: {error}"),
        }
    }
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

/// Asks again until the answer is yes, within bounds.
pub fn eventually(what: &str, mut answer: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !answer() {
        assert!(Instant::now() < deadline, "in time: {what}");
        std::thread::yield_now();
    }
}
