//! The mode for an ordinary user: the same root, no limits, the host's network.
//!
//! As root each test starts itself again as `nobody`; that second run does the work.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use insula_sandbox::{Bind, ControlError, ExitCause, Fate, Mode, Signal, SpecError, Upper};

use crate::bed::{Bed, needs_python, read_line, skip};

/// True in a process of an ordinary user that can make namespaces. As root, runs the test again
/// as one and answers false.
fn as_ordinary_user(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        let bed = Bed::in_mode(Mode::User);
        let lines = bed.runtime.probe();
        return match lines.iter().find(|line| line.required && !line.enforced) {
            Some(line) => {
                skip(&format!("{}: {} ({})", line.name, line.detail, line.fix));
                false
            }
            None => true,
        };
    }
    // A place that the other user can reach, wherever the build folder is.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("it");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .args([test, "--exact", "--nocapture"])
        .current_dir("/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    eprint!("{said}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let passed = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(passed, "the second run found the test");
    false
}

/// Since Linux 6.6, as the release says.
fn memory_has_user_attributes() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap(), parts.next().unwrap()) >= (6, 6)
}

#[test]
fn an_app_runs_without_root() {
    if !as_ordinary_user("user::an_app_runs_without_root") {
        return;
    }
    let bed = Bed::in_mode(Mode::User);
    let artifact = bed.artifact(&[("main", "x"), ("sub/data", "old"), ("sub/more", "m")]);
    let removed = if memory_has_user_attributes() { "rm -r sub; mkdir sub" } else { "rm sub/*" };
    let script = format!(
        "id -u; echo new > sub/data; cat sub/data; rm main; {removed}; ls -A sub; ls; \
         touch ~/x /tmp/x /dev/shm/x; echo err >&2; exit 4",
    );
    let mut spec = bed.shell("test", &script);
    spec.app.lower = vec![artifact.clone()];
    let outcome = bed.run(&spec);
    assert_eq!(outcome.out, "1000\nnew\nsub\n");
    assert_eq!(outcome.err, "err\n");
    assert_eq!(outcome.code(), Some(4));
    assert_eq!(std::fs::read_to_string(artifact.join("sub/data")).unwrap(), "old");
    assert_eq!(bed.remains(), Vec::<String>::new());
}

#[test]
fn a_build_leaves_its_product_without_root() {
    if !as_ordinary_user("user::a_build_leaves_its_product_without_root") {
        return;
    }
    let bed = Bed::in_mode(Mode::User);
    let source = bed.artifact(&[("in.txt", "source"), ("old/data", "moved along")]);
    let (upper, work) = (bed.dir.path().join("b/upper"), bed.dir.path().join("b/work"));
    let cache = bed.dir.path().join("cache");
    for folder in [&upper, &work, &cache] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let mut spec =
        bed.shell("test", "cp in.txt out.txt && mv old new && rm in.txt && echo kept > /cache/x");
    spec.app.lower = vec![source];
    spec.app.upper = Upper::Directory { upper: upper.clone(), work: work.clone() };
    spec.binds = vec![Bind { source: cache.clone(), target: "/cache".into(), read_only: false }];
    let outcome = bed.run(&spec);
    // The kernel leaves a folder that nobody may open, not even to remove what is in it.
    std::fs::set_permissions(work.join("work"), PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(outcome.code(), Some(0), "{}", outcome.err);
    assert_eq!(std::fs::read_to_string(upper.join("out.txt")).unwrap(), "source");
    assert_eq!(std::fs::read_to_string(upper.join("new/data")).unwrap(), "moved along");
    assert_eq!(std::fs::read_to_string(cache.join("x")).unwrap(), "kept\n");
}

#[test]
fn walls_stand_without_root() {
    if !as_ordinary_user("user::walls_stand_without_root") {
        return;
    }
    let bed = Bed::in_mode(Mode::User);
    let data = bed.dir.path().display();
    let outcome = bed.run_shell(&format!(
        "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp:)' /proc/self/status | cut -f2; \
         unshare -U true 2>/dev/null && echo namespace; \
         mount -t tmpfs none /tmp 2>/dev/null && echo mounted; \
         for f in /root /home /etc/shadow /sys {data}; do [ -e $f ] && echo seen $f; done; \
         for f in / /etc /usr /etc/passwd /proc/sys; do touch $f/x 2>/dev/null && echo wrote $f; done; \
         ls /proc/1/fd 2>/dev/null; [ $(ls -d /proc/[0-9]* | wc -l) -le 6 ] && echo few; ls -l /proc/self/fd | grep -c '>'"
    ));
    let none = "0000000000000000";
    assert_eq!(outcome.out, format!("{none}\n{none}\n1\n2\nfew\n4\n"), "{}", outcome.err);
}

#[test]
fn signals_and_ends_work_without_root() {
    if !as_ordinary_user("user::signals_and_ends_work_without_root") {
        return;
    }
    let bed = Bed::in_mode(Mode::User);
    let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let record = bed.runtime.launch(&bed.shell("test", script)).unwrap();
    let mut out = bed.reader(&bed.runtime.dir(&record.id).out());
    assert_eq!(read_line(&mut out), "ready");
    let usage = bed.runtime.usage(&record).unwrap();
    assert!(usage.pids >= 2 && usage.rss_bytes > 0, "{usage:?}");
    assert!(matches!(bed.runtime.freeze(&record), Err(ControlError::NoGroup(_))));
    bed.runtime.signal(&record, Signal::TERM).unwrap();
    bed.await_end(&record);
    let Fate::Ended(exit) = bed.runtime.fate(&record).unwrap() else { panic!("ended") };
    assert_eq!(exit.cause, ExitCause::Exited { code: 3 });
    bed.runtime.destroy(&record).unwrap();

    let record =
        bed.runtime.launch(&bed.shell("test", "trap '' TERM; sleep 1000 & wait; wait")).unwrap();
    bed.runtime.destroy(&record).unwrap();
    assert!(!bed.runtime.is_alive(&record).unwrap());
}

#[test]
fn only_own_ports_are_listed_on_the_shared_network() {
    if !as_ordinary_user("user::only_own_ports_are_listed_on_the_shared_network") || !needs_python()
    {
        return;
    }
    let bed = Bed::in_mode(Mode::User);
    let _foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let script = "import socket, time\ns = socket.create_server(('127.0.0.1', 0))\n\
                  print(s.getsockname()[1], flush=True); time.sleep(100)";
    let record = bed.runtime.launch(&bed.spec("test", &["python3", "-c", script])).unwrap();
    let mut out = bed.reader(&bed.runtime.dir(&record.id).out());
    let port: u16 = read_line(&mut out).parse().unwrap();
    let listeners = bed.runtime.listening_ports(&record).unwrap();
    let ports: Vec<u16> = listeners.iter().map(|listener| listener.port).collect();
    assert_eq!(ports, [port]);
    assert!(listeners[0].loopback_only);
    bed.runtime.destroy(&record).unwrap();
}

#[test]
fn what_is_not_enforced_is_said_with_the_fix() {
    if !as_ordinary_user("user::what_is_not_enforced_is_said_with_the_fix") {
        return;
    }
    let bed = Bed::in_mode(Mode::User);
    let lines = bed.runtime.probe();
    let missing: Vec<&str> =
        lines.iter().filter(|line| !line.enforced).map(|line| line.name.as_str()).collect();
    let mut expected = vec!["limits", "network", "users", "pause"];
    if !memory_has_user_attributes() {
        expected.insert(0, "removed folders");
    }
    assert_eq!(missing, expected);
    assert!(lines.iter().all(|line| line.enforced || !line.fix.is_empty()));
    let mut spec = bed.shell("test", "true");
    spec.network = insula_sandbox::Network::None;
    let error = bed.runtime.launch(&spec).unwrap_err();
    let cause = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<SpecError>());
    assert_eq!(cause, Some(&SpecError::UserNetwork));
}
