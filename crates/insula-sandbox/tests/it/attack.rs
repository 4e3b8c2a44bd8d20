//! What hostile code tries, one test per attack, from inside a real sandbox.

use std::fs;
use std::process::Command;

use crate::bed::{Bed, needs_python, needs_root, read_line};

/// Makes raw system calls by number and prints the error's name, or `ok`.
const CALL: &str = "
import ctypes, errno, os, socket, platform
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(name, *args):
    ctypes.set_errno(0)
    result = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    error = ctypes.get_errno()
    print(name, 'ok' if result >= 0 else errno.errorcode[error], flush=True)
";

fn python(bed: &Bed, script: &str) -> String {
    let outcome = bed.run_python(&format!("{CALL}\n{script}"));
    assert_eq!(outcome.code(), Some(0), "{}", outcome.err);
    outcome.out
}

#[test]
fn files_of_the_host_cannot_be_seen() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let secret = bed.dir.path().join("master.key");
    fs::write(&secret, "key").unwrap();
    let data = bed.dir.path().display();
    let outcome = bed.run_shell(&format!(
        "ls -a /; for f in /root /home /etc/shadow /etc/ssl/private /boot /sys /mnt /opt /var/lib \
         {data} {data}/run /proc/1/root /proc/1/cwd /etc/machine-id /var/log; do \
         [ -e $f ] && echo seen $f; done; ls /usr/local /usr/src; true"
    ));
    let top = ". .. .insula app bin dev etc lib lib32 lib64 libx32 proc run sbin tmp usr var";
    let listed: Vec<&str> = outcome.out.lines().collect();
    let (names, rest): (Vec<&str>, Vec<&str>) =
        listed.into_iter().partition(|line| top.split(' ').any(|name| name == *line));
    assert!(names.len() > 8, "{names:?}");
    assert_eq!(rest, ["/usr/local:", "", "/usr/src:"], "{}", outcome.err);
}

#[test]
fn nothing_but_the_own_places_can_be_written() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let outcome = bed.run_shell(
        "for f in / /usr /usr/bin /etc /etc/ssl/certs /usr/local /bin /dev /var /.insula /proc /proc/sys \
         /etc/passwd /etc/resolv.conf /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/vm/overcommit_memory \
         /proc/sys/kernel/hostname /proc/sys/net/ipv4/ip_unprivileged_port_start; do \
         [ -w $f ] && echo writable $f; done; \
         echo '|/bin/sh' 2>/dev/null > /proc/sys/kernel/core_pattern && echo core; \
         rm -f /etc/passwd 2>/dev/null && echo removed; \
         true",
    );
    assert_eq!(outcome.out, "", "{}", outcome.err);
}

#[test]
fn the_app_has_no_capability_and_gains_none() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let outcome =
        bed.run_shell("grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status");
    let lines: Vec<String> = outcome
        .out
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let none = "0000000000000000";
    let expected = [
        "Uid: 1000 1000 1000 1000".to_owned(),
        "Gid: 1000 1000 1000 1000".to_owned(),
        "Groups:".to_owned(),
        format!("CapInh: {none}"),
        format!("CapPrm: {none}"),
        format!("CapEff: {none}"),
        format!("CapBnd: {none}"),
        format!("CapAmb: {none}"),
        "NoNewPrivs: 1".to_owned(),
        "Seccomp: 2".to_owned(),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn set_user_programs_give_nothing() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let outcome = bed.run_shell(
        "for p in su mount passwd; do $p -c id root </dev/null 2>/dev/null; done; id -u",
    );
    assert!(outcome.out.ends_with("1000\n"), "{}", outcome.out);
    assert!(!outcome.out.contains("uid=0"), "{}", outcome.out);
}

/// What a build writes lies on the host's disk afterwards, as root's.
#[test]
fn a_build_leaves_no_set_user_program_on_the_host() {
    if !needs_root() || !needs_python() {
        return;
    }
    let bed = Bed::new();
    let (upper, work) = (bed.dir.path().join("b/upper"), bed.dir.path().join("b/work"));
    let layer = bed.artifact(&[("x", "y")]);
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir_all(&work).unwrap();
    let script = "
import os, errno
def attempt(name, f, *args):
    try: f(*args); print(name, 'ok')
    except OSError as e: print(name, errno.errorcode[e.errno])
open('p', 'w').close()
attempt('chmod', os.chmod, 'p', 0o4755)
attempt('group', os.chmod, 'p', 0o2755)
attempt('open', os.open, 'q', os.O_CREAT | os.O_WRONLY, 0o4755)
attempt('mknod', os.mknod, 'r', 0o104755)
attempt('mkdir', os.mkdir, 'd', 0o6755)
attempt('plain', os.chmod, 'p', 0o1755)
try: f = os.open('.', os.O_TMPFILE | os.O_RDWR, 0o755)
except OSError: f = os.open('t', os.O_CREAT | os.O_RDWR, 0o755) # overlayfs before Linux 6.3
attempt('fchmod', os.fchmod, f, 0o6755)
";
    let mut spec = bed.spec("test", &["python3", "-c", script]);
    spec.app.lower = vec![layer];
    spec.app.upper = insula_sandbox::Upper::Directory { upper: upper.clone(), work };
    let outcome = bed.run(&spec);
    let refused = "chmod EPERM\ngroup EPERM\nopen EPERM\nmknod EPERM\n";
    assert_eq!(
        outcome.out,
        format!("{refused}mkdir ok\nplain ok\nfchmod EPERM\n"),
        "{}",
        outcome.err
    );
    for entry in fs::read_dir(&upper).unwrap() {
        use std::os::unix::fs::MetadataExt;
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().mode() & 0o6000, 0, "{:?}", entry.path());
    }
}

#[test]
fn dangerous_system_calls_are_refused() {
    if !needs_root() || !needs_python() {
        return;
    }
    if std::env::consts::ARCH != "x86_64" {
        crate::bed::skip("the numbers in this test are those of x86_64");
        return;
    }
    let bed = Bed::new();
    let out = python(
        &bed,
        "
call('mount', 165, b'none', b'/tmp', b'tmpfs', 0, None)
call('umount2', 166, b'/proc', 2)
call('pivot_root', 155, b'.', b'.')
call('chroot', 161, b'/tmp')
call('unshare_user', 272, 0x10000000)
call('unshare_net', 272, 0x40000000)
call('setns', 308, 0, 0)
call('clone_newuser', 56, 0x10000000 | 17, 0, 0, 0, 0)
call('clone_newtime', 56, 0x80 | 17, 0, 0, 0, 0)
call('clone3', 435, 0, 0)
call('openat2', 437, -100, b'/', 0, 0)
call('fsopen', 430, b'tmpfs', 0)
call('open_tree', 428, -100, b'/', 1)
call('move_mount', 429, 0, b'', -100, b'/', 0)
call('mount_setattr', 442, -100, b'/', 0, 0, 0)
call('bpf', 321, 0, 0, 0)
call('io_uring_setup', 425, 8, 0)
call('io_setup', 206, 1000, b'\\0' * 8)
call('io_destroy', 207, 0)
call('io_submit', 209, 0, 0, 0)
call('io_pgetevents', 333, 0, 0, 0, 0, 0, 0)
call('userfaultfd', 323, 0)
call('perf_event_open', 298, 0, 0, 0, 0, 0)
call('keyctl', 250, 0, 0)
call('add_key', 248, b'user', b'x', b'y', 1, -4)
call('request_key', 249, b'user', b'x', 0, 0)
call('init_module', 175, 0, 0, b'')
call('finit_module', 313, 0, b'', 0)
call('kexec_load', 246, 0, 0, 0, 0)
call('reboot', 169, 0xfee1dead, 672274793, 0x1234567, 0)
call('swapon', 167, b'/app/x', 0)
call('settimeofday', 164, 0, 0)
call('sethostname', 170, b'x', 1)
call('syslog', 103, 3, 0, 0)
call('open_by_handle_at', 304, -100, 0, 0)
call('pidfd_getfd', 438, 0, 0, 0)
call('acct', 163, 0)
call('quotactl', 179, 0, 0, 0, 0)
call('iopl', 172, 3)
call('ioperm', 173, 0, 1, 1)
call('mbind', 237, 0, 0, 0, 0, 0, 0)
call('personality', 135, 0x0400000)
call('newer', 480)
call('x32', 0x40000000 + 39)
call('getpid', 39)
",
    );
    let missing = [
        "clone3",
        "openat2",
        "io_uring_setup",
        // They would take the host's `fs.aio-max-nr`, which all of the machine shares.
        "io_setup",
        "io_destroy",
        "io_submit",
        "io_pgetevents",
        "newer",
    ];
    for line in out.lines() {
        let (name, result) = line.split_once(' ').unwrap();
        let expected = match name {
            name if missing.contains(&name) => "ENOSYS",
            "getpid" => "ok",
            _ => "EPERM",
        };
        assert_eq!(result, expected, "{name}");
    }
    assert_eq!(out.lines().count(), 45, "{out}");
}

#[test]
fn only_ordinary_sockets_can_be_made() {
    if !needs_root() || !needs_python() {
        return;
    }
    let bed = Bed::new();
    let out = python(
        &bed,
        "
def make(name, *args, make=socket.socket):
    try:
        make(*args); print(name, 'ok')
    except OSError as e:
        print(name, errno.errorcode[e.errno])
make('unix', 1, 1); make('inet', 2, 1); make('inet6', 10, 2); make('route', 16, 3, 0)
make('vsock', 40, 1); make('packet', 17, 3); make('alg', 38, 5); make('netfilter', 16, 3, 12)
make('raw', 2, 3, 1); make('bluetooth', 31, 3); make('can', 29, 3); make('xdp', 44, 3); make('tipc', 30, 1)
make('tcp', 2, 1, 6); make('udp', 10, 2, 17); make('mptcp', 2, 1, 262); make('mptcp6', 10, 1, 262)
make('udplite', 2, 2, 136); make('sctp', 2, 1, 132); make('sctp_default', 2, 5); make('dccp_default', 2, 6)
make('pair', 1, 1, make=socket.socketpair); make('tipc_pair', 30, 1, make=socket.socketpair)
",
    );
    let expected = "unix ok\ninet ok\ninet6 ok\nroute ok\nvsock EPERM\npacket EPERM\nalg EPERM\n\
                    netfilter EPERM\nraw EPERM\nbluetooth EPERM\ncan EPERM\nxdp EPERM\ntipc EPERM\n\
                    tcp ok\nudp ok\nmptcp EPERM\nmptcp6 EPERM\nudplite EPERM\nsctp EPERM\n\
                    sctp_default EPERM\ndccp_default EPERM\npair ok\ntipc_pair EPERM\n";
    assert_eq!(out, expected);
}

#[test]
fn the_init_cannot_be_read_traced_or_killed() {
    if !needs_root() || !needs_python() {
        return;
    }
    let bed = Bed::new();
    let out = python(
        &bed,
        "
call('ptrace', 101, 16, 1, 0, 0)
import signal
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV):
    os.kill(1, number)
for path in ('mem', 'maps', 'environ', 'fd', 'fd/5', 'fd/3', 'exe', 'root', 'cwd', 'ns/pid'):
    try:
        os.listdir('/proc/1/fd') if path == 'fd' else os.readlink('/proc/1/' + path) if path not in ('mem', 'maps', 'environ') else open('/proc/1/' + path).read(1)
        print(path, 'ok')
    except OSError as e:
        print(path, errno.errorcode[e.errno])
print('alive', os.path.exists('/proc/1'))
",
    );
    let expected = "ptrace EPERM\nmem EACCES\nmaps EACCES\nenviron EACCES\nfd EACCES\nfd/5 EACCES\n\
                    fd/3 EACCES\nexe EACCES\nroot EACCES\ncwd EACCES\nns/pid EACCES\nalive True\n";
    assert_eq!(out, expected);
}

#[test]
fn no_descriptor_leaks_in() {
    if !needs_root() {
        return;
    }
    // Something of ours that stays open over exec, as a careless library might leave it.
    let careless =
        rustix::fs::open("/etc/hostname", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    let bed = Bed::new();
    let outcome = bed.run(&bed.spec("test", &["ls", "-l", "/proc/self/fd"]));
    drop(careless);
    // 3 is the folder that `ls` is reading.
    let names: Vec<&str> = outcome
        .out
        .lines()
        .filter_map(|line| Some(line.split_once(" -> ")?.0.rsplit(' ').next().unwrap_or_default()))
        .collect();
    assert_eq!(names, ["0", "1", "2", "3"], "{}", outcome.out);
}

#[test]
fn a_neighbour_cannot_be_seen_or_signalled() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let neighbour = bed.runtime.launch(&bed.spec("neighbour", &["sleep", "1000"])).unwrap();
    let pid = neighbour.init.as_ref().unwrap().pid;
    let script = format!(
        "ls -d /proc/[0-9]* | wc -l; ls /proc/{pid} 2>&1 | grep -c 'No such'; kill -9 {pid} 2>&1 | grep -ci 'no such'; \
         ipcs -m | grep -c 0x; true"
    );
    let mut spec = bed.shell("test", &script);
    spec.uid_base += 65_536;
    let outcome = bed.run(&spec);
    let lines: Vec<&str> = outcome.out.lines().collect();
    assert!(lines[0].parse::<u32>().unwrap() <= 5, "{}", outcome.out);
    assert_eq!(&lines[1..], ["1", "1", "0"], "{} {}", outcome.out, outcome.err);
    assert!(bed.runtime.is_alive(&neighbour).unwrap());
    bed.runtime.destroy(&neighbour).unwrap();
}

#[test]
fn proc_tells_nothing_about_the_host() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let outcome = bed.run_shell(
        "for f in kcore keys timer_list sched_debug kallsyms modules partitions key-users interrupts; do \
         [ -e /proc/$f ] && wc -c < /proc/$f; done 2>/dev/null | sort -u; \
         ls /proc/acpi /proc/scsi 2>/dev/null | grep -v : ; \
         cat /proc/self/cgroup | cut -d: -f3 | sort -u; readlink /proc/self/ns/net",
    );
    let lines: Vec<&str> = outcome.out.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(&lines[..2], ["0", "/"], "{}", outcome.out);
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(lines[2], host.to_str().unwrap(), "a network namespace of its own");
}

#[test]
fn no_file_about_the_machine_can_be_written() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let outcome = bed.run_shell(
        "for f in cpu io memory; do \
         echo some 150000 2000000 2>/dev/null 1<>/proc/pressure/$f && echo trigger $f; done; \
         ls /proc/pressure 2>/dev/null; \
         find /proc -maxdepth 3 ! -path '/proc/[1-9]*' -writable 2>/dev/null | while read f; do \
         [ -c $f ] || echo writable $f; done; echo end",
    );
    assert_eq!(outcome.out, "end\n", "{}", outcome.err);
}

#[test]
fn a_link_in_the_artifact_leads_nowhere_outside() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let artifact = bed.artifact(&[("x", "")]);
    std::os::unix::fs::symlink("/etc", artifact.join("etc")).unwrap();
    std::os::unix::fs::symlink("../../../../../../root", artifact.join("root")).unwrap();
    std::os::unix::fs::symlink(bed.dir.path(), artifact.join("data")).unwrap();
    let mut spec = bed.shell("test", "ls etc/shadow root/ data/ 2>&1 | grep -c 'No such'");
    spec.app.lower = vec![artifact];
    assert_eq!(bed.run(&spec).out, "3\n");
}

#[test]
fn the_network_is_its_own() {
    if !needs_root() || !needs_python() {
        return;
    }
    let bed = Bed::new();
    let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    let out = python(
        &bed,
        &format!(
            "
print(sorted(os.listdir('/sys/class/net')) if os.path.exists('/sys') else [n for _, n in socket.if_nameindex()])
s = socket.socket(); print(errno.errorcode[s.connect_ex(('127.0.0.1', {port}))])
a = socket.create_server(('127.0.0.1', 80)); b = socket.create_connection(('127.0.0.1', 80)); print('own loopback')
"
        ),
    );
    assert!(out.ends_with("ECONNREFUSED\nown loopback\n"), "{out}");
}

#[test]
fn terminals_and_sessions_of_the_host_are_out_of_reach() {
    if !needs_root() || !needs_python() {
        return;
    }
    let bed = Bed::new();
    let out = python(
        &bed,
        "
try: open('/dev/tty')
except OSError as e: print(errno.errorcode[e.errno])
print(os.getsid(0) == os.getpid(), sorted(os.listdir('/dev')))
",
    );
    assert_eq!(
        out,
        "ENXIO\nTrue ['fd', 'full', 'null', 'random', 'shm', 'stderr', 'stdin', 'stdout', 'tty', \
         'urandom', 'zero']\n"
    );
}

#[test]
fn the_outside_sees_the_app_under_ids_of_its_own() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let spec = bed.shell("test", "echo ready; exec sleep 100");
    let record = bed.runtime.launch(&spec).unwrap();
    assert_eq!(read_line(&mut bed.reader(&bed.runtime.dir(&record.id).out())), "ready");
    for process in bed.runtime.processes(&record).unwrap() {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap();
        let expected = (spec.uid_base + 1000).to_string();
        assert!(uid.split('\t').all(|part| part == expected), "{} {uid}", process.name);
    }
    bed.runtime.destroy(&record).unwrap();
}

#[test]
fn other_users_of_the_host_cannot_enter_the_run_folder() {
    if !needs_root() {
        return;
    }
    let bed = Bed::new();
    let record = bed.runtime.launch(&bed.spec("test", &["sleep", "100"])).unwrap();
    let out = bed.runtime.dir(&record.id).out();
    let status = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "test", "-e"])
        .arg(&out)
        .status()
        .unwrap();
    assert!(!status.success());
    bed.runtime.destroy(&record).unwrap();
}

/// Asks for one of each thing that the kernel counts by user; or, with `take`, for all there are.
const STOCKS: &str = "
import ctypes, errno, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
number = signal.SIGRTMIN
signal.pthread_sigmask(signal.SIG_BLOCK, [number])
me = libc.getpid()
timer = ctypes.c_void_p()
def queue():
    name = b'/insula-test-%d' % me
    made = libc.mq_open(name, 0o102, 0o600, None) # to read and write, a new one
    error = ctypes.get_errno()
    libc.mq_unlink(name) # it counts as long as it is open
    ctypes.set_errno(error)
    return made
asks = [
    ('inotify', lambda: libc.inotify_init1(0)),
    ('signal', lambda: libc.sigqueue(me, number, None)),
    ('timer', lambda: libc.timer_create(0, None, ctypes.byref(timer))),
    ('queue', queue),
]
for name, ask in asks:
    while (result := ask()) >= 0 and 'take' in sys.argv: pass
    print(name, 'ok' if result >= 0 else errno.errorcode[ctypes.get_errno()], flush=True)
";

#[test]
fn stocks_of_the_kernel_are_counted_for_each_sandbox_alone() {
    if !needs_root() || !needs_python() {
        return;
    }
    let bed = Bed::new();
    let greedy = format!("{STOCKS}\nsignal.pause()");
    let mut greedy = bed.spec("greedy", &["python3", "-c", &greedy, "take"]);
    // Its own files shall not run out first.
    greedy.limits.nofile = 1 << 20;
    let record = bed.runtime.launch(&greedy).unwrap();
    let mut said = bed.reader(&bed.runtime.dir(&record.id).out());
    for taken in ["inotify EMFILE", "signal EAGAIN", "timer EAGAIN", "queue EMFILE"] {
        assert_eq!(read_line(&mut said), taken);
    }
    let mut neighbour = bed.spec("neighbour", &["python3", "-c", STOCKS]);
    neighbour.uid_base += 65_536;
    let neighbour = bed.run(&neighbour);
    let host = Command::new("python3").args(["-c", STOCKS]).output().unwrap();
    bed.runtime.destroy(&record).unwrap();
    let all = "inotify ok\nsignal ok\ntimer ok\nqueue ok\n";
    assert_eq!(neighbour.out, all, "{}", neighbour.err);
    assert_eq!(String::from_utf8_lossy(&host.stdout), all, "the host's root");
}
