//! Under systemd: sandboxes are no part of the unit that starts them, and keep their limits while
//! the service manager does its work.
//!
//! The test starts itself again as a unit of its own, which goes with it.

use std::fs;
use std::path::Path;
use std::process::Command;

use insula_sandbox::{Mode, Runtime, RuntimeConfig, Version};

use crate::bed::{Bed, eventually, needs_root};

const TEST: &str = "service::a_sandbox_outlives_its_unit_and_keeps_its_limits";
/// In the unit: where the test waits for a sandbox, and below which group.
const DIR_VARIABLE: &str = "INSULA_TEST_SERVICE_DIR";
const PARENT_VARIABLE: &str = "INSULA_TEST_SERVICE_PARENT";

#[test]
fn a_sandbox_outlives_its_unit_and_keeps_its_limits() {
    if !needs_root() {
        return;
    }
    if let (Ok(dir), Ok(parent)) = (std::env::var(DIR_VARIABLE), std::env::var(PARENT_VARIABLE)) {
        be_the_service(Path::new(&dir), &parent);
    }
    if !Path::new("/run/systemd/system").exists() {
        // No package would change it, so this is no failure even where all else must run;
        // `cargo xtask soak cgroup-v2` starts a machine that has it.
        eprintln!("SKIPPED: systemd does not run this machine");
        return;
    }
    let bed = Bed::new();
    let unit = Unit::start(
        &["--property=KillMode=control-group", "--property=TasksMax=200"],
        &[(DIR_VARIABLE, &bed.dir.path().display().to_string()), (PARENT_VARIABLE, &bed.parent)],
        &[&std::env::current_exe().unwrap().display().to_string(), TEST, "--exact"],
    );
    let ready = bed.dir.path().join("ready");
    eventually("the unit has its sandbox", || ready.exists());
    let record = bed.runtime.list().unwrap().remove(0);
    let place = format!("/proc/{}/cgroup", record.init.as_ref().unwrap().pid);
    let before = fs::read_to_string(&place).unwrap();
    assert!(!before.contains(".slice/"), "outside of every unit: {before}");
    let limits = |file: &str| {
        let two = record.cgroups.iter().find(|group| group.version == Version::V2);
        two.map(|group| fs::read_to_string(group.path.join(file)).unwrap_or_default())
    };
    let limited = [limits("memory.max"), limits("cpu.max"), limits("pids.max")];

    // The harshest end that a unit has, then work that makes systemd set controllers anew.
    unit.stop();
    system("systemctl", &["daemon-reload"]);
    Unit::start(&["--property=CPUWeight=50", "--property=IOWeight=50"], &[], &["true"]).stop();
    system("systemctl", &["daemon-reload"]);

    assert!(bed.runtime.is_alive(&record).unwrap());
    assert_eq!(fs::read_to_string(&place).unwrap(), before);
    assert_eq!([limits("memory.max"), limits("cpu.max"), limits("pids.max")], limited);
    bed.runtime.usage(&record).expect("every counter is still there");
    bed.runtime.freeze(&record).unwrap();
    bed.runtime.thaw(&record).unwrap();
    bed.runtime.destroy(&record).unwrap();
}

/// Starts a sandbox for the test that waits outside, and stays until systemd ends it.
fn be_the_service(dir: &Path, parent: &str) -> ! {
    let bed = Bed::new();
    let config = RuntimeConfig::new(Mode::Root, dir.join("run"), parent);
    let runtime = Runtime::open(config).unwrap();
    runtime.launch(&bed.spec("kept", &["sleep", "1000"])).unwrap();
    drop(bed);
    fs::write(dir.join("ready"), "").unwrap();
    loop {
        std::thread::park();
    }
}

/// A transient unit, stopped at the latest with this.
struct Unit {
    name: String,
}

impl Unit {
    fn start(properties: &[&str], env: &[(&str, &str)], argv: &[&str]) -> Self {
        let name = format!("insula-test-{}-{}", std::process::id(), properties.len() + env.len());
        let mut command = Command::new("systemd-run");
        command.args(["--quiet", "--collect", "--unit", &name]).args(properties);
        for (key, value) in env {
            command.arg(format!("--setenv={key}={value}"));
        }
        assert!(command.arg("--").args(argv).status().unwrap().success(), "the unit starts");
        Self { name }
    }

    fn stop(self) {}
}

impl Drop for Unit {
    fn drop(&mut self) {
        // A unit that has ended by itself is not known any more.
        let _ = Command::new("systemctl").args(["--quiet", "stop", &self.name]).output();
    }
}

fn system(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program}");
}
