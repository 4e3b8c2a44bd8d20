//! Whatever happens to a launch or a sandbox, nothing of it is left.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use insula_sandbox::{HIDDEN_ARGUMENT, Mode, Runtime, RuntimeConfig};

use crate::bed::{Bed, eventually, needs_root};

#[test]
fn a_hundred_launches_leave_nothing() {
    if !needs_root() || !alone("remains::a_hundred_launches_leave_nothing") {
        return;
    }
    let bed = Bed::new();
    let before = (descriptors(), mounts());
    for number in 0..100 {
        let record = bed.runtime.launch(&bed.spec(&format!("n{number}"), &["true"])).unwrap();
        bed.await_end(&record);
        bed.runtime.destroy(&record).unwrap();
    }
    assert_eq!(bed.remains(), Vec::<String>::new());
    assert_eq!((descriptors(), mounts()), before);
}

/// True in a process that has this test only; elsewhere starts one and answers false. Descriptors
/// are counted per process, and tests beside this one open some.
fn alone(test: &str) -> bool {
    const VARIABLE: &str = "INSULA_TEST_ALONE";
    if std::env::var_os(VARIABLE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(VARIABLE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    false
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

#[test]
fn many_launches_at_once_from_a_busy_program() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let bed = &bed;
            scope.spawn(move || {
                for number in 0..5 {
                    let spec = bed.shell(&format!("t{thread}-{number}"), "echo hi");
                    let record = bed.runtime.launch(&spec).unwrap();
                    assert_eq!(bed.finish(&record).out, "hi\n");
                    bed.runtime.destroy(&record).unwrap();
                }
            });
        }
    });
    assert_eq!(bed.remains(), Vec::<String>::new());
}

/// Each removes the groups' parent whenever it was alone, and the others' next groups need it, with its
/// controllers.
#[test]
fn the_last_to_go_is_not_in_the_way_of_the_next() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let bed = &bed;
            scope.spawn(move || {
                for number in 0..30 {
                    let spec = bed.spec(&format!("t{thread}-{number}"), &["true"]);
                    let record = bed.runtime.launch(&spec).unwrap();
                    bed.await_end(&record);
                    bed.runtime.destroy(&record).unwrap();
                }
            });
        }
    });
}

const KILLS: u64 = 60;

/// Kills a launcher after each of many delays, spread over the whole time a launch takes.
#[test]
fn a_launcher_killed_at_any_moment_leaves_nothing() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let run_dir = bed.dir.path().join("run");
    let whole_usec;
    let groups: Vec<serde_json::Value> = {
        // A real launch tells where the groups go, and how long one takes here.
        let start = Instant::now();
        let record = bed.runtime.launch(&bed.spec("model", &["true"])).unwrap();
        whole_usec = start.elapsed().as_micros() as u64;
        bed.await_end(&record);
        bed.runtime.destroy(&record).unwrap();
        serde_json::from_value(serde_json::to_value(&record.cgroups).unwrap()).unwrap()
    };
    let mut unfinished = 0;
    let step_usec = 150.max(whole_usec / KILLS);
    for step in 0..KILLS {
        let id = format!("k{step}");
        let spec = bed.spec(&id, &["sleep", "1000"]);
        let cgroups: Vec<_> = groups
            .iter()
            .map(|group| {
                let mut group = group.clone();
                let path = group["path"].as_str().unwrap().replace("/model", &format!("/{id}"));
                group["path"] = path.into();
                group
            })
            .collect();
        let plan = serde_json::json!({
            "launch": {"run_dir": run_dir, "mode": "root", "cgroups": cgroups, "spec": spec}
        });
        let mut launcher = Command::new("/proc/self/exe")
            .arg(HIDDEN_ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        launcher.stdin.take().unwrap().write_all(plan.to_string().as_bytes()).unwrap();
        spin(step * step_usec);
        launcher.kill().unwrap();
        launcher.wait().unwrap();
        let spec_id = spec.id.clone();
        eventually("the half-made sandbox ends by itself", || {
            let swept = bed.runtime.sweep().unwrap();
            assert!(swept.failed.is_empty(), "{:?}", swept.failed);
            unfinished += swept.removed.len();
            match bed.runtime.load(&spec_id).unwrap() {
                Some(record) => {
                    bed.runtime.destroy(&record).unwrap();
                    true
                }
                None => !bed.runtime.dir(&spec_id).path().exists(),
            }
        });
        assert_eq!(bed.remains(), Vec::<String>::new(), "after {} µs", step * step_usec);
    }
    assert!(unfinished > 0, "some launch was cut off before its record");
}

/// Busy for so many microseconds: a sleep would be too coarse to hit the middle of a launch.
fn spin(usec: u64) {
    let end = Instant::now() + Duration::from_micros(usec);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

#[test]
fn a_sweep_lets_the_living_alone() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let record = bed.runtime.launch(&bed.spec("alive", &["sleep", "100"])).unwrap();
    fs::create_dir(bed.runtime.dir(&"half".to_owned().try_into().unwrap()).path()).unwrap();
    let swept = bed.runtime.sweep().unwrap();
    let names: Vec<_> = swept.removed.iter().map(|id| id.as_str()).collect();
    assert_eq!(names, ["half"]);
    assert!(bed.runtime.is_alive(&record).unwrap());
    bed.runtime.destroy(&record).unwrap();
}

#[test]
fn launches_and_sweeps_do_not_meet() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let swept = bed.runtime.sweep().unwrap();
                assert!(swept.removed.is_empty() && swept.failed.is_empty(), "{swept:?}");
            }
        });
        let launches = scope.spawn(|| {
            for number in 0..30 {
                let spec = bed.spec(&format!("n{number}"), &["true"]);
                let record = bed.runtime.launch(&spec).unwrap();
                bed.await_end(&record);
                bed.runtime.destroy(&record).unwrap();
            }
        });
        let outcome = launches.join();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn a_sandbox_outlives_the_program_that_started_it() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let record = bed.runtime.launch(&bed.spec("test", &["sleep", "100"])).unwrap();
    let config = RuntimeConfig::new(Mode::Root, bed.dir.path().join("run"), bed.parent.clone());
    let other = Runtime::open(config).unwrap();
    let found = other.list().unwrap();
    assert_eq!(found.len(), 1);
    assert!(other.is_alive(&found[0]).unwrap());
    other.destroy(&found[0]).unwrap();
    assert!(!bed.runtime.is_alive(&record).unwrap());
}
