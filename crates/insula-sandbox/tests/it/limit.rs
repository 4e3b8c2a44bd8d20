//! Each limit is reached on purpose: the one who goes over it is told, and nobody else notices.

use insula_sandbox::{ExitCause, Fate, Upper};

use crate::bed::{Bed, eventually, needs_python, needs_root, read_line};

#[test]
fn a_fork_bomb_stays_small_and_is_counted() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let mut spec =
        bed.shell("test", "echo ready; bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 100");
    spec.limits.pids = 30;
    let record = bed.runtime.launch(&spec).unwrap();
    let mut out = bed.reader(&bed.runtime.dir(&record.id).out());
    assert_eq!(read_line(&mut out), "ready");
    eventually("a fork is refused", || bed.runtime.usage(&record).unwrap().pids_refused > 0);
    let usage = bed.runtime.usage(&record).unwrap();
    assert!(usage.pids <= 31, "{usage:?}");
    bed.runtime.destroy(&record).unwrap();
}

#[test]
fn the_memory_hog_is_killed_and_counted() {
    if !needs_root() || !needs_python() {
        return;
    }
    let bed = Bed::new();
    let mut spec = bed.spec("test", &["python3", "-c", "x = bytearray(200 << 20); print('never')"]);
    spec.limits.memory_bytes = 64 << 20;
    let record = bed.runtime.launch(&spec).unwrap();
    let outcome = bed.finish(&record);
    assert_eq!(outcome.out, "");
    match outcome.fate {
        Fate::Ended(exit) => assert_eq!(exit.cause, ExitCause::Signaled { signal: 9 }),
        // Version 2 ends the group as one, the init with it.
        Fate::Lost => {}
        Fate::Running => panic!("still running"),
    }
    assert!(bed.runtime.usage(&record).unwrap().oom_kills >= 1);
    bed.runtime.destroy(&record).unwrap();
}

#[test]
fn the_writable_layer_is_full_when_it_is_full() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let script = "dd if=/dev/zero of=/app/big bs=64k 2>&1 | grep -o 'No space left.*'; \
                  stat -c %s /app/big; dd if=/dev/zero of=/tmp/big bs=64k 2>&1 | grep -o 'No space left.*'; \
                  dd if=/dev/zero of=/dev/shm/big bs=64k 2>&1 | grep -o 'No space left.*'; \
                  rm /app/big; i=0; while true > /app/f$i; do i=$((i+1)); done 2>/dev/null; [ $i -lt 3000 ] && echo few";
    let full = "No space left on device\n";
    for lower in [vec![], vec![bed.artifact(&[("x", "y")])]] {
        let mut spec = bed.shell("test", script);
        spec.app.upper = Upper::Memory { bytes: 1 << 20 };
        spec.limits.tmp_bytes = 1 << 20;
        spec.limits.shm_bytes = 1 << 20;
        spec.app.lower = lower;
        let outcome = bed.run(&spec);
        assert_eq!(outcome.out, format!("{full}1048576\n{full}{full}few\n"), "{}", outcome.err);
    }
}

#[test]
fn files_in_memory_count_as_memory() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let mut spec = bed.shell(
        "test",
        "dd if=/dev/zero of=/app/big bs=1M count=20 2>/dev/null; echo done; exec sleep 100",
    );
    spec.app.upper = Upper::Memory { bytes: 32 << 20 };
    let record = bed.runtime.launch(&spec).unwrap();
    assert_eq!(read_line(&mut bed.reader(&bed.runtime.dir(&record.id).out())), "done");
    let usage = bed.runtime.usage(&record).unwrap();
    assert!(usage.memory_bytes >= 20 << 20, "{usage:?}");
    assert!(usage.rss_bytes < 16 << 20, "{usage:?}");
    assert!(usage.cpu_usec > 0 && usage.pids == 2, "{usage:?}");
    bed.runtime.destroy(&record).unwrap();
}

#[test]
fn the_cpu_limit_holds_work_back() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let mut spec = bed.shell("test", "while :; do :; done");
    spec.limits.cpu_milli = 100;
    let record = bed.runtime.launch(&spec).unwrap();
    eventually("it is throttled", || bed.runtime.usage(&record).unwrap().throttled_usec > 0);
    bed.runtime.destroy(&record).unwrap();
}

#[test]
fn open_files_and_core_dumps_are_limited() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let mut spec = bed
        .shell("test", "ulimit -Hn; ulimit -n; ulimit -Hc; ulimit -n 5000 2>/dev/null || echo no");
    spec.limits.nofile = 300;
    assert_eq!(bed.run(&spec).out, "300\n300\n0\nno\n");
}
