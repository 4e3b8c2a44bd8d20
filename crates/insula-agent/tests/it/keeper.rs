//! What apps, operators and full disks can expect of the keeper.

use std::time::Instant;

use insula_agent::keeper::{self, Exit, KeeperConfig};
use insula_agent::log::{Bound, Follower, LogQuery, LogRoot, LogWatch, Stream, query, tail_lines};

use crate::stage::{
    KEEPER_DATA, Keeper, Sandbox, UNLIMITED, WIDE, app, eventually, everything, text_of,
};

/// Not a test by itself: the others start this binary with the variable set to have a keeper that
/// they can kill.
#[test]
fn plays_the_keeper_when_asked() {
    let Some(data) = std::env::var_os(KEEPER_DATA) else { return };
    let config = KeeperConfig { data: data.into(), node_bound: keeper::NODE_BOUND };
    keeper::run(config).unwrap();
}

#[test]
fn out_err_the_last_words_and_the_end_are_kept() {
    let data = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(data.path());
    let sandbox = Sandbox::start(data.path(), 1, UNLIMITED, UNLIMITED, WIDE);
    sandbox.run("echo hello; printf '\\377\\376 bytes\\n'; printf 'no newline'");
    let kept = sandbox.end(3);
    assert_eq!(kept.exit, Some(Exit::Code(3)));
    assert_eq!((kept.over_rate_bytes, kept.disk_full_bytes), (0, 0));
    assert_eq!(
        text_of(&everything(data.path())),
        [
            "out hello",
            "out \u{fffd}\u{fffd} bytes",
            "out no newline",
            "platform exited with code 3"
        ]
    );
    keeper.kill();
}

#[test]
fn a_sandbox_that_ended_while_no_keeper_was_there_is_finished_by_the_next() {
    let data = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(data.path(), 1, UNLIMITED, UNLIMITED, WIDE);
    sandbox.run("echo one; echo two >&2");
    let data_path = data.path().to_owned();
    let late = std::thread::spawn(move || Keeper::start(&data_path));
    let kept = sandbox.end(0);
    assert_eq!(kept.exit, Some(Exit::Code(0)));
    let mut lines = text_of(&everything(data.path()));
    lines.sort();
    assert_eq!(lines, ["err two", "out one", "platform exited with code 0"]);
    late.join().unwrap().kill();
}

#[test]
fn kill_minus_nine_at_any_moment_loses_nothing_and_repeats_nothing() {
    const LINES: u64 = 400_000;
    const KILLS: u64 = 40;
    let data = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(data.path(), 1, UNLIMITED, UNLIMITED, WIDE);
    let mut writer = sandbox.app(&format!("seq -f 'line %.0f' 1 {LINES}; seq 1 5 >&2"));
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut kills = 0;
    while kills < KILLS && writer.try_wait().unwrap().is_none() {
        let keeper = Keeper::start(data.path());
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Not to wait for something: to hit a moment.
        std::thread::sleep(std::time::Duration::from_micros(2_000 + random % 18_000));
        keeper.kill();
        kills += 1;
    }
    let keeper = Keeper::start(data.path());
    let status = writer.wait().unwrap();
    assert!(status.success(), "the app got a signal or an error: {status}");
    let kept = sandbox.end(0);
    assert_eq!((kept.over_rate_bytes, kept.disk_full_bytes), (0, 0));
    let entries = everything(data.path());
    let out: Vec<&str> =
        entries.iter().filter(|e| e.stream == Stream::Out).map(|e| e.text.as_str()).collect();
    assert_eq!(out.len() as u64, LINES, "after {kills} kills");
    for (n, line) in (1..).zip(out) {
        assert_eq!(line, format!("line {n}"), "after {kills} kills");
    }
    assert_eq!(entries.iter().filter(|e| e.stream == Stream::Err).count(), 5);
    assert!(entries.iter().map(|e| e.seq).eq(1..=entries.len() as u64), "numbers have gaps");
    assert!(kills >= 3, "the app was done after {kills} kills: nothing was tried");
    keeper.kill();
}

#[test]
fn a_new_keeper_replaces_the_old_one_without_a_gap() {
    const LINES: u64 = 100_000;
    let data = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(data.path(), 1, UNLIMITED, UNLIMITED, WIDE);
    let mut writer = sandbox.app(&format!("seq 1 {LINES}"));
    let mut keeper = Keeper::start(data.path());
    for _ in 0..5 {
        // Of two that start together either may be the last.
        keeper.holds_the_lock(data.path());
        let next = Keeper::start(data.path());
        assert!(keeper.wait().success(), "the old keeper left in order");
        keeper = next;
    }
    assert!(writer.wait().unwrap().success());
    sandbox.end(0);
    let lines = everything(data.path());
    let out: Vec<&str> =
        lines.iter().filter(|e| e.stream == Stream::Out).map(|e| e.text.as_str()).collect();
    assert!(out.iter().map(|l| l.parse::<u64>().unwrap()).eq(1..=LINES));
    keeper.holds_the_lock(data.path());
    assert!(keeper::is_running(data.path()).unwrap());
    keeper::stop(data.path()).unwrap();
    assert!(!keeper::is_running(data.path()).unwrap());
    assert!(keeper.wait().success());
}

#[test]
fn a_gigabyte_of_spam_is_bounded_counted_and_quick() {
    const RATE: u64 = 1 << 20;
    const BURST: u64 = 4 << 20;
    let data = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(data.path());
    let loud = Sandbox::start(data.path(), 1, RATE, BURST, WIDE);
    let quiet = Sandbox::start(data.path(), 2, RATE, BURST, WIDE);
    let began = Instant::now();
    let mut spam =
        loud.app("yes 'all work and no play makes jack a dull boy' | head -c 1073741824");
    quiet.run("echo still heard");
    eventually("the neighbour's line", || {
        let mut question = LogQuery::of(app());
        question.instance = Some(quiet.instance);
        let page = query(&LogRoot::of(data.path()), &question).unwrap();
        page.entries.iter().any(|e| e.text == "still heard").then_some(())
    });
    assert!(spam.wait().unwrap().success());
    let took = began.elapsed();
    let kept = loud.end(0);
    let stored = (1 << 30) - kept.over_rate_bytes;
    let allowed = BURST + RATE * (took.as_secs() + 2);
    assert!(stored <= allowed, "{stored} bytes stored, {allowed} allowed");
    assert_eq!(kept.disk_full_bytes, 0);
    let entries = everything(data.path());
    let told: u64 = entries
        .iter()
        .filter(|e| e.stream == Stream::Platform)
        .filter_map(|e| e.text.strip_prefix("… ")?.strip_suffix(" bytes dropped (over 1MiB/s)"))
        .map(|n| n.parse::<u64>().unwrap())
        .sum();
    assert_eq!(told, kept.over_rate_bytes, "what was dropped is said in the log");
    let whole = "all work and no play makes jack a dull boy";
    assert!(
        entries.iter().all(|e| e.stream != Stream::Out
            || e.text == whole
            || (e.cut && whole.starts_with(&e.text))
            || e.text == "still heard"),
        "a line whose start was dropped is not shown"
    );
    assert!(took.as_secs() < 30, "a gigabyte took {took:?}");
    quiet.end(0);
    keeper.kill();
}

#[test]
fn an_idle_keeper_sleeps_and_is_small() {
    let data = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(data.path());
    let sandboxes: Vec<Sandbox> =
        (1..=5).map(|n| Sandbox::start(data.path(), n, UNLIMITED, UNLIMITED, WIDE)).collect();
    for sandbox in &sandboxes {
        sandbox.run("echo ready");
    }
    eventually("all lines", || (everything(data.path()).len() == 5).then_some(()));
    let switches = || {
        // The main thread of a test binary only waits; the keeper is the other one.
        let tasks = std::fs::read_dir(format!("/proc/{}/task", keeper.pid())).unwrap();
        let text: String = tasks
            .map(|t| std::fs::read_to_string(t.unwrap().path().join("status")).unwrap())
            .collect();
        text.lines()
            .filter_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))
            .map(|n| n.trim().parse::<u64>().unwrap())
            .sum::<u64>()
    };
    // Until it is still: seals and marks may be due.
    let mut last = switches();
    eventually("a still second", || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let now = switches();
        let still = now == last;
        last = now;
        still.then_some(())
    });
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", keeper.pid())).unwrap();
    let private_kib: u64 = smaps
        .lines()
        .filter_map(|l| l.strip_prefix("Private_Dirty:"))
        .map(|l| l.trim().trim_end_matches(" kB").parse::<u64>().unwrap())
        .sum();
    eprintln!("private and dirty, with five instances: {private_kib} KiB");
    assert!(private_kib < 3 << 10, "{private_kib} KiB");
    keeper.kill();
}

#[test]
fn a_full_disk_blocks_nobody_is_counted_and_heals() {
    let data = tempfile::tempdir().unwrap();
    let logs = data.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let Some(mount) = TinyDisk::mount(&logs) else { return };
    let keeper = Keeper::start(data.path());
    let sandbox = Sandbox::start(data.path(), 1, UNLIMITED, UNLIMITED, WIDE);
    sandbox.run("echo before");
    eventually("the first line", || {
        (text_of(&everything(data.path())) == ["out before"]).then_some(())
    });
    std::fs::write(logs.join("ballast"), vec![7u8; TinyDisk::BYTES]).unwrap_err();
    sandbox.run("seq 1 500000");
    std::fs::remove_file(logs.join("ballast")).unwrap();
    let told = eventually("the mark of what was lost", || {
        everything(data.path()).into_iter().find(|e| e.text.ends_with("bytes dropped (disk full)"))
    });
    assert_eq!(told.stream, Stream::Platform);
    sandbox.run("echo after");
    let kept = sandbox.end(0);
    assert!(kept.disk_full_bytes > 3_000_000, "{kept:?}");
    let lines = text_of(&everything(data.path()));
    assert!(lines.contains(&"out after".to_owned()), "{:?}", lines.last());
    keeper.kill();
    drop(mount);
}

/// A file system of a megabyte.
struct TinyDisk<'a>(&'a std::path::Path);

impl<'a> TinyDisk<'a> {
    const BYTES: usize = 1 << 20;

    fn mount(at: &'a std::path::Path) -> Option<Self> {
        let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
        match rustix::mount::mount("none", at, "tmpfs", flags, c"size=1m") {
            Ok(()) => Some(Self(at)),
            Err(error) => {
                assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "mount a tmpfs: {error}");
                eprintln!("SKIPPED: a tmpfs cannot be mounted here ({error}); run as root");
                None
            }
        }
    }
}

impl Drop for TinyDisk<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn old_segments_make_room_across_redeploys() {
    let keep = Bound { bytes: 3 << 20, segments: 4 };
    let data = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(data.path());
    let old = Sandbox::start(data.path(), 1, UNLIMITED, UNLIMITED, keep);
    old.run("seq 1 300000");
    let old_id = old.instance;
    old.end(0);
    let of = |id| {
        let mut question = LogQuery::of(app());
        question.instance = Some(id);
        question.tail = Some(3);
        query(&LogRoot::of(data.path()), &question).unwrap().entries
    };
    assert_eq!(text_of(&of(old_id))[2], "platform exited with code 0", "it outlives its sandbox");
    let new = Sandbox::start(data.path(), 2, UNLIMITED, UNLIMITED, keep);
    let new_id = new.instance;
    new.run("seq 1 600000");
    new.end(0);
    eventually("the old instance to be pushed out", || of(old_id).is_empty().then_some(()));
    let folder = LogRoot::of(data.path()).instance(app(), &"web".parse().unwrap(), new_id);
    let last = tail_lines(&folder, 2).unwrap();
    assert_eq!(text_of(&last), ["out 600000", "platform exited with code 0"]);
    let segments = std::fs::read_dir(&folder).unwrap().count();
    assert!(segments <= 4, "{segments} segments");
    keeper.kill();
}

#[tokio::test]
async fn following_crosses_segments_new_instances_and_a_dead_keeper() {
    const LINES: u64 = 150_000;
    let data = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(data.path());
    let first = Sandbox::start(data.path(), 1, UNLIMITED, UNLIMITED, WIDE);
    first.run("echo old; echo last");
    eventually("both lines", || (everything(data.path()).len() == 2).then_some(()));
    let watch = LogWatch::start().unwrap();
    let mut question = LogQuery::of(app());
    question.tail = Some(1);
    let mut follower = Follower::new(&watch, LogRoot::of(data.path()), question);
    assert_eq!(text_of(&follower.next().await.unwrap().entries), ["out last"]);

    // Several segments' worth, with the keeper killed and replaced in the middle.
    let mut writer = first.app(&format!("seq 1 {LINES}"));
    let mut seen = Vec::new();
    let mut keeper = keeper;
    let mut killed = false;
    while seen.len() < LINES as usize {
        let page = follower.next().await.unwrap();
        seen.extend(page.entries.into_iter().map(|e| e.text.parse::<u64>().unwrap()));
        if !killed {
            keeper.kill();
            keeper = Keeper::start(data.path());
            killed = true;
        }
    }
    assert!(seen.into_iter().eq(1..=LINES));
    assert!(writer.wait().unwrap().success());

    // A cursor leads on, in a new reader, to what a new instance writes.
    let cursor = {
        let second = Sandbox::start(data.path(), 2, UNLIMITED, UNLIMITED, WIDE);
        second.run("echo from the second");
        let page = follower.next().await.unwrap();
        assert_eq!(text_of(&page.entries), ["out from the second"]);
        second.end(0);
        page.cursor
    };
    let mut question = LogQuery::of(app());
    question.after = Some(cursor.to_string().parse().unwrap());
    let mut again = Follower::new(&watch, LogRoot::of(data.path()), question);
    let page = again.next().await.unwrap();
    assert_eq!(text_of(&page.entries), ["platform exited with code 0"]);
    first.end(0);
    keeper.kill();
}
