//! A sandbox starts, says something, takes signals and ends; its files tell how.

use std::fs;
use std::os::unix::fs::MetadataExt;

use insula_sandbox::{ExitCause, Fate, LaunchError, Record, Signal, Upper};

use crate::bed::{Bed, eventually, needs_python, needs_root, read_line};

#[test]
fn an_app_speaks_and_ends_with_its_code() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let outcome = bed.run_shell("echo out; echo err >&2; exit 7");
    assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("out\n", "err\n"));
    assert_eq!(outcome.code(), Some(7));
}

#[test]
fn a_command_that_is_not_there_is_told_with_its_errno() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let outcome = bed.run(&bed.spec("test", &["no-such-command"]));
    let Fate::Ended(exit) = outcome.fate else { panic!("{:?}", outcome.fate) };
    assert_eq!(
        exit.cause,
        ExitCause::ExecFailed { errno: rustix::io::Errno::NOENT.raw_os_error() }
    );
}

#[test]
fn a_missing_working_directory_is_told_and_leaves_nothing() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let mut spec = bed.shell("test", "true");
    spec.cwd = "/app/nowhere".into();
    let error = bed.runtime.launch(&spec).expect_err("refused").to_string();
    assert!(error.contains("enter the working directory: No such file"), "{error}");
    assert_eq!(bed.remains(), Vec::<String>::new());
}

#[test]
fn one_id_is_one_sandbox() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let record = bed.runtime.launch(&bed.shell("test", "exec sleep 100")).unwrap();
    let second = bed.runtime.launch(&bed.shell("test", "true"));
    assert!(matches!(second, Err(LaunchError::Exists(_))), "{second:?}");
    assert!(bed.runtime.is_alive(&record).unwrap(), "the first one was let alone");
    bed.runtime.destroy(&record).unwrap();
    bed.runtime.destroy(&record).expect("again is fine");
}

#[test]
fn the_app_is_not_the_first_process_and_gets_its_signals() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let script = "trap 'echo bye; exit 3' TERM; echo $$; while :; do sleep 0.05; done";
    let record = bed.runtime.launch(&bed.shell("test", script)).unwrap();
    let mut out = bed.reader(&bed.runtime.dir(&record.id).out());
    assert_ne!(read_line(&mut out), "1");
    bed.runtime.signal(&record, Signal::TERM).unwrap();
    assert_eq!(read_line(&mut out), "bye");
    bed.await_end(&record);
    let Fate::Ended(exit) = bed.runtime.fate(&record).unwrap() else { panic!("ended") };
    assert_eq!(exit.cause, ExitCause::Exited { code: 3 });
    bed.runtime.destroy(&record).unwrap();
}

/// `python3 main.py` in a Procfile is a shell with a child, and shells pass nothing on.
#[test]
fn an_app_behind_a_shell_may_finish_too() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let app = "trap 'sleep 0.2; echo finished; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let record = bed.runtime.launch(&bed.shell("test", &format!("sh -c \"{app}\"; true"))).unwrap();
    let mut out = bed.reader(&bed.runtime.dir(&record.id).out());
    assert_eq!(read_line(&mut out), "up");
    bed.runtime.signal(&record, Signal::TERM).unwrap();
    assert_eq!(read_line(&mut out), "finished");
    bed.await_end(&record);
    let Fate::Ended(exit) = bed.runtime.fate(&record).unwrap() else { panic!("ended") };
    assert_eq!(exit.cause, ExitCause::Signaled { signal: Signal::TERM.as_raw() });
    bed.runtime.destroy(&record).unwrap();
}

#[test]
fn an_app_without_a_handler_dies_of_term() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let record = bed.runtime.launch(&bed.spec("test", &["sleep", "100"])).unwrap();
    bed.runtime.signal(&record, Signal::TERM).unwrap();
    bed.await_end(&record);
    let Fate::Ended(exit) = bed.runtime.fate(&record).unwrap() else { panic!("ended") };
    assert_eq!(exit.cause, ExitCause::Signaled { signal: Signal::TERM.as_raw() });
    bed.runtime.destroy(&record).unwrap();
}

/// The moment right after a launch, again and again: neither the init nor the app may lose the signal.
#[test]
fn no_signal_is_too_early() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    for number in 0..30 {
        let spec = bed.spec(&format!("n{number}"), &["sleep", "100"]);
        let record = bed.runtime.launch(&spec).unwrap();
        bed.runtime.signal(&record, Signal::TERM).unwrap();
        bed.await_end(&record);
        bed.runtime.destroy(&record).unwrap();
    }
}

#[test]
fn an_app_that_ignores_term_is_killed() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let script = "trap '' TERM INT HUP; echo ready; while :; do sleep 0.05; done";
    let record = bed.runtime.launch(&bed.shell("test", script)).unwrap();
    let mut out = bed.reader(&bed.runtime.dir(&record.id).out());
    assert_eq!(read_line(&mut out), "ready");
    bed.runtime.signal(&record, Signal::TERM).unwrap();
    assert_eq!(bed.runtime.fate(&record).unwrap(), Fate::Running);
    bed.runtime.kill(&record).unwrap();
    assert_eq!(bed.runtime.fate(&record).unwrap(), Fate::Lost);
    bed.runtime.destroy(&record).unwrap();
}

#[test]
fn orphans_are_reaped_and_end_with_the_app() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let script =
        "(sh -c 'sleep 0 & exit' ); (sleep 1000 &) ; echo ready; read x < /dev/zero & wait";
    let record = bed.runtime.launch(&bed.shell("test", script)).unwrap();
    let mut out = bed.reader(&bed.runtime.dir(&record.id).out());
    assert_eq!(read_line(&mut out), "ready");
    let zombies = || {
        let processes = bed.runtime.processes(&record).unwrap();
        processes.iter().filter(|p| is_zombie(p.pid)).count()
    };
    eventually("no zombies", || zombies() == 0);
    let pids: Vec<u32> = bed.runtime.processes(&record).unwrap().iter().map(|p| p.pid).collect();
    bed.runtime.kill(&record).unwrap();
    for pid in pids {
        eventually("gone", || !alive_outside(pid));
    }
    bed.runtime.destroy(&record).unwrap();
}

fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

fn alive_outside(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists() && !is_zombie(pid)
}

#[test]
fn the_record_finds_the_sandbox_again() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let record = bed.runtime.launch(&bed.spec("test", &["sleep", "100"])).unwrap();
    let found = Record::load(&bed.dir.path().join("run"), &record.id).unwrap().unwrap();
    assert!(bed.runtime.is_alive(&found).unwrap());
    let mut forged = found.clone();
    forged.init.as_mut().unwrap().start_ticks += 1;
    assert!(!bed.runtime.is_alive(&forged).unwrap(), "a number alone is nobody");
    bed.runtime.signal(&forged, Signal::TERM).unwrap();
    assert!(bed.runtime.is_alive(&found).unwrap(), "and is never signalled");
    bed.runtime.destroy(&found).unwrap();
}

#[test]
fn the_artifact_is_the_apps_own_and_stays_as_it_was() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let artifact = bed.artifact(&[("main.py", "print(1)"), ("sub/data", "old")]);
    let mut spec = bed.shell(
        "test",
        "stat -c %U main.py sub; echo new > sub/data; rm main.py; mkdir fresh; touch fresh/x; \
         cat sub/data; ls; ls -a /.insula",
    );
    spec.app.lower = vec![artifact.clone()];
    let outcome = bed.run(&spec);
    assert_eq!(outcome.out, "app\napp\nnew\nfresh\nsub\n.\n..\nbin\nmeminfo\n", "{}", outcome.err);
    assert_eq!(fs::read_to_string(artifact.join("sub/data")).unwrap(), "old");
    assert!(artifact.join("main.py").exists());
}

#[test]
fn a_build_leaves_its_product_on_disk() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let source = bed.artifact(&[("in.txt", "source"), ("old/data", "moved along")]);
    let (upper, work) = (bed.dir.path().join("b/upper"), bed.dir.path().join("b/work"));
    let cache = bed.dir.path().join("cache");
    for folder in [&upper, &work, &cache] {
        fs::create_dir_all(folder).unwrap();
    }
    let mut spec = bed.shell("test", "cp in.txt out.txt && mv old new && echo kept > /cache/x");
    spec.app.lower = vec![source];
    spec.app.upper = Upper::Directory { upper: upper.clone(), work };
    spec.binds = vec![insula_sandbox::Bind {
        source: cache.clone(),
        target: "/cache".into(),
        read_only: false,
    }];
    let outcome = bed.run(&spec);
    assert_eq!(outcome.code(), Some(0), "{}", outcome.err);
    assert_eq!(fs::read_to_string(upper.join("out.txt")).unwrap(), "source");
    assert_eq!(fs::read_to_string(cache.join("x")).unwrap(), "kept\n");
    let moved = fs::read_to_string(upper.join("new/data")).unwrap();
    assert_eq!(moved, "moved along", "a layer that is kept refers to no other");
    assert_eq!(fs::metadata(upper.join("out.txt")).unwrap().uid(), 0, "owned as on any disk");
    // Another sandbox with other host ids takes both over.
    let mut next = bed.shell("next", "cat out.txt /cache/x && echo more >> /cache/x && rm out.txt");
    next.uid_base += 65_536;
    next.app.lower = vec![upper];
    next.binds = spec.binds.clone();
    let outcome = bed.run(&next);
    assert_eq!(
        (outcome.out.as_str(), outcome.code()),
        ("sourcekept\n", Some(0)),
        "{}",
        outcome.err
    );
}

#[test]
fn runtimes_find_what_they_expect() {
    if !needs_root() || !needs_python() {
        return;
    }
    let bed = Bed::new();
    let outcome = bed.run_shell(
        "python -c 'import ssl, sqlite3, os, pwd; print(pwd.getpwuid(os.getuid()).pw_name)' && \
         echo hi > /dev/stdout && echo $HOME && touch ~/.cache && touch /dev/shm/x /tmp/x /run/x && \
         hostname && cat /etc/hostname && grep MemTotal /proc/meminfo && id -u && id -G && \
         getent hosts web-1",
    );
    let expected = "app\nhi\n/app\nweb-1\nweb-1\nMemTotal:         131072 kB\n1000\n1000\n\
                    127.0.1.1       web-1\n";
    assert_eq!(outcome.out, expected, "{}", outcome.err);
}

#[test]
fn node_runs_within_its_memory() {
    if !needs_root() {
        return;
    }
    if !std::path::Path::new("/usr/bin/node").exists() {
        crate::bed::skip("needs the package nodejs");
        return;
    }
    let bed = Bed::new();
    let script = "
const http = require('http'), v8 = require('v8');
const server = http.createServer((_, res) => res.end('hi')).listen(8080, async () => {
  const text = await new Promise(done => http.get('http://127.0.0.1:8080/', r => r.on('data', d => done(d.toString()))));
  console.log(text, require('os').totalmem() >> 20, v8.getHeapStatistics().heap_size_limit < 300 << 20);
  server.close();
});";
    let mut spec = bed.spec("test", &["node", "-e", script]);
    spec.limits.memory_bytes = 256 << 20;
    let outcome = bed.run(&spec);
    assert_eq!(outcome.out, "hi 256 true\n", "{}", outcome.err);
}

#[test]
fn listening_ports_are_seen_with_their_reach() {
    if !needs_root() || !needs_python() {
        return;
    }
    let bed = Bed::new();
    let script = "
import socket, time
a = socket.create_server(('0.0.0.0', 80)); b = socket.create_server(('127.0.0.1', 9000))
c = socket.create_server(('::', 9001), family=socket.AF_INET6)
print('ready', flush=True); time.sleep(100)";
    let record = bed.runtime.launch(&bed.spec("test", &["python3", "-c", script])).unwrap();
    let mut out = bed.reader(&bed.runtime.dir(&record.id).out());
    assert_eq!(read_line(&mut out), "ready");
    let ports: Vec<_> = bed
        .runtime
        .listening_ports(&record)
        .unwrap()
        .into_iter()
        .map(|l| format!("{} {} {}", l.address, l.port, l.loopback_only))
        .collect();
    assert_eq!(ports, ["0.0.0.0 80 false", "127.0.0.1 9000 true", ":: 9001 false"]);
    bed.runtime.destroy(&record).unwrap();
}

#[test]
fn a_frozen_sandbox_stands_still_and_goes_on() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let script = "trap 'echo woke' USR1; echo ready; while :; do sleep 0.01; done";
    let record = bed.runtime.launch(&bed.shell("test", script)).unwrap();
    let mut out = bed.reader(&bed.runtime.dir(&record.id).out());
    assert_eq!(read_line(&mut out), "ready");
    bed.runtime.freeze(&record).unwrap();
    let before = bed.runtime.usage(&record).unwrap().cpu_usec;
    bed.runtime.signal(&record, Signal::USR1).unwrap();
    assert_eq!(bed.runtime.usage(&record).unwrap().cpu_usec, before);
    bed.runtime.thaw(&record).unwrap();
    assert_eq!(read_line(&mut out), "woke");
    bed.runtime.freeze(&record).unwrap();
    bed.runtime.destroy(&record).expect("a frozen sandbox can be removed");
}

/// Layers on a file system that cannot map owners, in a mount namespace of the test's own.
#[test]
fn the_artifact_is_the_apps_own_even_where_owners_cannot_be_mapped() {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let layer = bed.artifact(&[]);
    fs::create_dir(&layer).unwrap();
    // SAFETY: only this thread, and the launcher that it starts, sees other mounts.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
    mount("ramfs", &layer, "ramfs", MountFlags::empty(), c"").unwrap();
    fs::create_dir(layer.join("sub")).unwrap();
    fs::write(layer.join("sub/data"), "old").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", layer.join("link")).unwrap();
    let cache = layer.join("cache");
    fs::create_dir(&cache).unwrap();
    let mut spec = bed.shell(
        "test",
        "stat -c '%U %n' sub sub/data link; echo new > sub/data; cat sub/data; echo x > /cache/x; \
         stat -c %U /etc/passwd",
    );
    spec.binds = vec![insula_sandbox::Bind {
        source: cache.clone(),
        target: "/cache".into(),
        read_only: false,
    }];
    spec.app.lower = vec![layer.clone()];
    let outcome = bed.run(&spec);
    let expected = "app sub\napp sub/data\napp link\nnew\nnobody\n";
    assert_eq!(outcome.out, expected, "{}", outcome.err);
    assert_eq!(fs::read_to_string(layer.join("sub/data")).unwrap(), "old");
    assert_eq!(fs::metadata(layer.join("sub/data")).unwrap().uid(), 0, "the artifact is untouched");
    assert_eq!(fs::read_to_string(cache.join("x")).unwrap(), "x\n");
    rustix::mount::unmount(&layer, rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
fn a_program_that_is_no_launcher_is_told_apart() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let mut config = insula_sandbox::RuntimeConfig::new(
        insula_sandbox::Mode::Root,
        bed.dir.path().join("run"),
        bed.parent.clone(),
    );
    config.launcher = "/bin/true".into();
    let runtime = insula_sandbox::Runtime::open(config).unwrap();
    let error = runtime.launch(&bed.shell("test", "true")).unwrap_err();
    assert!(matches!(error, LaunchError::Launcher { .. }), "{error:?}");
    let line = runtime.probe().into_iter().find(|line| line.name == "launcher").unwrap();
    assert!(line.required && !line.enforced);
}

#[test]
fn this_machine_enforces_everything_as_root() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let missing: Vec<_> = bed.runtime.probe().into_iter().filter(|line| !line.enforced).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
