//! Decides what the inside of a sandbox looks like: a list of steps, nothing is done here.
//!
//! The steps run in the new mount namespace, in a working directory that becomes the root; paths
//! are relative to it. `step` does them. Facts about the host are arguments, so the whole list can
//! be looked at in a test.

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::spec::{APP_DIR, APP_UID, BIN_DIR, Mode, Network, SandboxSpec, Upper};
use crate::step::Step;
use crate::sys::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};

/// The root itself holds some folders, links and small files.
const ROOT_BYTES: u64 = 1 << 20;
/// Space for pid files and sockets.
const RUN_BYTES: u64 = 1 << 20;
/// Files in memory have no size limit on their own number; one per 4 KiB is what a disk gives.
const BYTES_PER_INODE: u64 = 4_096;
/// A writable layer of a few KiB still has to hold some folders.
const INODES_MIN: u64 = 64;

/// Where layers wait while the overlay is mounted; gone before the app starts.
const STAGE: &str = ".insula/stage";

const SAFE: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
const READ_ONLY: u64 = SAFE | MOUNT_ATTR_RDONLY;

/// Files and folders of `/etc` that programs need and that tell nothing about the machine.
pub(crate) const ETC_SHARED: &[&str] = &[
    "alternatives",
    "ca-certificates",
    "debian_version",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "magic",
    "mime.types",
    "networks",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "protocols",
    "rpc",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
];

/// Names in `/etc` that begin so hold the settings of a runtime in `/usr`.
pub(crate) const ETC_RUNTIMES: &[&str] = &["java-", "python", "php", "ruby", "perl"];

/// Devices that every program may have.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// Files of `/proc` about the host as a whole: emptied.
pub(crate) const PROC_MASKED: &[&str] = &[
    "config.gz",
    "interrupts",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "latency_stats",
    "modules",
    "partitions",
    "sched_debug",
    "timer_list",
    "timer_stats",
];
/// Folders of `/proc` about the host's hardware and its load: emptied. Everybody may write to
/// `pressure`, and each line written there keeps a worker of the kernel busy.
pub(crate) const PROC_EMPTIED: &[&str] = &["acpi", "asound", "driver", "pressure", "scsi"];
/// Parts of `/proc` that can be changed: read-only.
pub(crate) const PROC_READ_ONLY: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// What was found on the host.
#[derive(Debug, Default)]
pub(crate) struct HostFacts {
    /// `bin`, `lib`, … and, where it is a link into `/usr`, its target.
    pub top: Vec<(String, Option<PathBuf>)>,
    /// Entries of `ETC_SHARED` and `ETC_RUNTIMES` that exist; true for a folder.
    pub etc: Vec<(String, bool)>,
    pub proc_present: Vec<&'static str>,
    /// Folders below `/usr` that exist and are masked unless opened.
    pub usr_private: Vec<&'static str>,
    /// Commands that the host lacks under this name, and what stands in.
    pub aliases: Vec<(&'static str, PathBuf)>,
    pub resolv_conf: String,
    /// One per bind of the request: is it a folder?
    pub bind_is_dir: Vec<bool>,
}

/// Mounts that were made outside, by their place in the launcher's list.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// One per layer. Empty in user mode, where paths are bound inside instead.
    pub lower: Vec<usize>,
    /// The parent of an upper folder on disk, or that folder itself when there are no layers.
    pub upper: Option<usize>,
    pub binds: Vec<usize>,
    /// False when the file system of a layer cannot map owners: they are changed inside instead.
    pub owners_mapped: bool,
}

pub(crate) struct Root<'a> {
    pub spec: &'a SandboxSpec,
    pub mode: Mode,
    pub facts: &'a HostFacts,
    pub prepared: &'a Prepared,
    /// Where the new root is mounted, in the new namespace only.
    pub at: &'a Path,
}

impl Root<'_> {
    /// The app's user as the mounting process sees it.
    fn app_uid(&self) -> u32 {
        match self.mode {
            Mode::Root => self.spec.uid_base + APP_UID,
            Mode::User => APP_UID,
        }
    }

    pub fn steps(&self) -> Vec<Step> {
        let mut steps = vec![
            Step::Enter { path: path(self.at), options: options(ROOT_BYTES, 0o755, None) },
            dir(".insula"),
            dir(BIN_DIR),
        ];
        self.usr(&mut steps);
        self.etc(&mut steps);
        self.dev(&mut steps);
        self.writable(&mut steps);
        self.proc(&mut steps);
        self.binds(&mut steps);
        self.app(&mut steps);
        steps.push(Step::Pivot);
        steps.push(Step::SealRoot);
        steps
    }

    fn usr(&self, steps: &mut Vec<Step>) {
        steps.push(dir("usr"));
        steps.push(self.bind_host("/usr", "usr"));
        if !self.spec.open_usr_local {
            for private in &self.facts.usr_private {
                steps.push(empty_dir(&format!("usr/{private}")));
            }
        }
        for (name, link) in &self.facts.top {
            match link {
                Some(target) => steps.push(link_to(name, target)),
                None => {
                    steps.push(dir(name));
                    steps.push(self.bind_host(&format!("/{name}"), name));
                }
            }
        }
        for (name, target) in &self.facts.aliases {
            steps.push(link_to(&format!("{BIN_DIR}/{name}"), target));
        }
    }

    fn etc(&self, steps: &mut Vec<Step>) {
        steps.push(dir("etc"));
        for (name, is_dir) in &self.facts.etc {
            let target = format!("etc/{name}");
            for (at, _) in name.match_indices('/') {
                steps.push(dir(&format!("etc/{}", &name[..at])));
            }
            steps.push(if *is_dir { dir(&target) } else { file(&target, "") });
            steps.push(self.bind_host(&format!("/etc/{name}"), &target));
        }
        let host = &self.spec.hostname;
        let mut hosts = format!(
            "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{} {host}\n",
            match &self.spec.network {
                Network::Own(attachment) => attachment.address.to_string(),
                Network::Host | Network::None => "127.0.1.1".into(),
            }
        );
        for (name, address) in &self.spec.extra_hosts {
            let _ = writeln!(hosts, "{address} {name}");
        }
        let resolv = match (self.spec.resolver, &self.spec.network) {
            (Some(address), _) => format!("nameserver {address}\noptions timeout:2 attempts:3\n"),
            (None, Network::Host) => self.facts.resolv_conf.clone(),
            (None, Network::Own(_) | Network::None) => String::new(),
        };
        steps.push(file(
            "etc/passwd",
            "root:x:0:0:root:/root:/usr/sbin/nologin\n\
             app:x:1000:1000:app:/app:/bin/sh\n\
             nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        ));
        steps.push(file("etc/group", "root:x:0:\napp:x:1000:\nnogroup:x:65534:\n"));
        steps.push(file("etc/hosts", &hosts));
        steps.push(file("etc/hostname", &format!("{host}\n")));
        steps.push(file("etc/resolv.conf", &resolv));
        steps.push(file(
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
        ));
        steps.push(link_to("etc/os-release", Path::new("../usr/lib/os-release")));
        steps.push(link_to("etc/mtab", Path::new("../proc/self/mounts")));
    }

    fn dev(&self, steps: &mut Vec<Step>) {
        steps.push(dir("dev"));
        for device in DEVICES {
            let target = format!("dev/{device}");
            steps.push(file(&target, ""));
            steps.push(Step::Bind {
                source: text(&format!("/dev/{device}")),
                target: text(&target),
                attributes: MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
                recursive: false,
            });
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ] {
            steps.push(link_to(&format!("dev/{name}"), Path::new(target)));
        }
        steps.push(dir("dev/shm"));
        steps.push(tmpfs("dev/shm", options(self.spec.limits.shm_bytes, 0o1777, None)));
    }

    fn writable(&self, steps: &mut Vec<Step>) {
        steps.push(dir("tmp"));
        steps.push(tmpfs("tmp", options(self.spec.limits.tmp_bytes, 0o1777, None)));
        steps.push(dir("run"));
        steps.push(tmpfs("run", options(RUN_BYTES, 0o755, Some(self.app_uid()))));
        steps.push(dir("var"));
        steps.push(link_to("var/run", Path::new("/run")));
        steps.push(link_to("var/tmp", Path::new("/tmp")));
    }

    fn proc(&self, steps: &mut Vec<Step>) {
        steps.push(dir("proc"));
        steps.push(Step::Proc { target: text("proc") });
        if self.mode == Mode::Root {
            // Its own network namespace, so this is about nobody else: an app that insists on
            // port 80 needs no privilege.
            steps.push(Step::Setting {
                path: text("proc/sys/net/ipv4/ip_unprivileged_port_start"),
                value: b"0".to_vec(),
            });
            // Runtimes size their heaps by this file, which would show the memory of the host.
            steps.push(file(".insula/meminfo", &meminfo(self.spec.limits.memory_bytes)));
            steps.push(Step::Bind {
                source: text(".insula/meminfo"),
                target: text("proc/meminfo"),
                attributes: READ_ONLY | MOUNT_ATTR_NOEXEC,
                recursive: false,
            });
        }
        let present = |name: &&&str| self.facts.proc_present.contains(*name);
        for name in PROC_MASKED.iter().filter(present) {
            steps.push(Step::Bind {
                source: text("dev/null"),
                target: text(&format!("proc/{name}")),
                // A device, so that reading finds the end at once and is no error.
                attributes: MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
                recursive: false,
            });
        }
        for name in PROC_EMPTIED.iter().filter(present) {
            steps.push(empty_dir(&format!("proc/{name}")));
        }
        for name in PROC_READ_ONLY.iter().filter(present) {
            let target = format!("proc/{name}");
            steps.push(Step::Bind {
                source: text(&target),
                target: text(&target),
                attributes: READ_ONLY | MOUNT_ATTR_NOEXEC,
                recursive: true,
            });
        }
    }

    fn binds(&self, steps: &mut Vec<Step>) {
        for (index, bind) in self.spec.binds.iter().enumerate() {
            let inside = inside(&bind.target);
            let mut above = PathBuf::new();
            let parents = inside.parent().into_iter().flat_map(Path::components);
            for part in parents {
                above.push(part);
                steps.push(Step::Dir { path: path(&above), mode: 0o755, owner: None });
            }
            steps.push(if self.facts.bind_is_dir[index] {
                Step::Dir { path: path(&inside), mode: 0o755, owner: None }
            } else {
                Step::File { path: path(&inside), contents: vec![] }
            });
            steps.push(match self.prepared.binds.get(index) {
                Some(mount) => Step::Attach { mount: *mount, target: path(&inside) },
                None => Step::Bind {
                    source: path(&bind.source),
                    target: path(&inside),
                    attributes: if bind.read_only { READ_ONLY } else { SAFE },
                    recursive: true,
                },
            });
        }
    }

    fn app(&self, steps: &mut Vec<Step>) {
        let app = inside(Path::new(APP_DIR));
        let owner = Some(self.app_uid());
        steps.push(Step::Dir { path: path(&app), mode: 0o755, owner });
        if self.spec.app.lower.is_empty() {
            steps.push(match &self.spec.app.upper {
                Upper::Memory { bytes } => Step::Tmpfs {
                    target: path(&app),
                    options: options(*bytes, 0o755, owner),
                    read_only: false,
                },
                Upper::Directory { upper, .. } => self.attach(self.prepared.upper, upper, &app),
            });
            return;
        }
        steps.push(dir(STAGE));
        let mut lower = String::new();
        for (index, layer) in self.spec.app.lower.iter().enumerate() {
            let at = format!("{STAGE}/{index}");
            steps.push(dir(&at));
            let prepared = self.prepared.lower.get(index).copied();
            steps.push(match prepared {
                Some(mount) => Step::Attach { mount, target: text(&at) },
                None => Step::Bind {
                    source: path(layer),
                    target: text(&at),
                    attributes: READ_ONLY,
                    recursive: false,
                },
            });
            let _ = write!(lower, "{}{at}", if index == 0 { "" } else { ":" });
        }
        let stage = format!("{STAGE}/upper");
        steps.push(dir(&stage));
        let (upper, work) = match &self.spec.app.upper {
            Upper::Memory { bytes } => {
                steps.push(tmpfs(&stage, options(*bytes, 0o755, owner)));
                for (name, mode) in [("upper", 0o755), ("work", 0o700)] {
                    let folder = text(&format!("{stage}/{name}"));
                    steps.push(Step::Dir { path: folder, mode, owner });
                }
                ("upper".into(), "work".into())
            }
            Upper::Directory { upper, work } => {
                let parent = upper.parent().unwrap_or(Path::new("/"));
                steps.push(self.attach(self.prepared.upper, parent, Path::new(&stage)));
                let name =
                    |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (name(upper), name(work))
            }
        };
        steps.push(Step::Overlay {
            target: path(&app),
            options: text(&format!(
                "lowerdir={lower},upperdir={stage}/{upper},workdir={stage}/{work},index=off{}",
                self.overlay_options()
            )),
        });
        if !self.owners_mapped() {
            steps.push(Step::OwnTree { path: path(&app), owner: self.app_uid() });
        }
        // The overlay keeps its own hold on the layers; nobody else shall reach them.
        for index in 0..self.spec.app.lower.len() {
            steps.push(Step::Leave { path: text(&format!("{STAGE}/{index}")) });
        }
        steps.push(Step::Leave { path: text(&stage) });
        steps.push(Step::RemoveDir { path: text(STAGE) });
    }

    /// Said in full, for the defaults are the kernel builder's. A layer that is kept must hold whole
    /// files and folders, never a reference to what another layer had under that name.
    fn overlay_options(&self) -> &'static str {
        match (self.mode, &self.spec.app.upper) {
            (Mode::User, _) => ",redirect_dir=nofollow,userxattr",
            // All files change their owner; without their contents that costs little.
            (Mode::Root, Upper::Memory { .. }) if !self.owners_mapped() => ",metacopy=on",
            (Mode::Root, _) => ",redirect_dir=nofollow,metacopy=off",
        }
    }

    fn owners_mapped(&self) -> bool {
        // Without root the files already belong to the one user there is.
        self.mode == Mode::User || self.prepared.owners_mapped
    }

    fn attach(&self, prepared: Option<usize>, source: &Path, target: &Path) -> Step {
        match prepared {
            Some(mount) => Step::Attach { mount, target: path(target) },
            None => Step::Bind {
                source: path(source),
                target: path(target),
                attributes: SAFE,
                recursive: false,
            },
        }
    }

    fn bind_host(&self, source: &str, target: &str) -> Step {
        Step::Bind {
            source: text(source),
            target: text(target),
            attributes: READ_ONLY,
            // A user namespace may not show what another mount covers, so it takes those along.
            recursive: self.mode == Mode::User,
        }
    }
}

fn inside(target: &Path) -> PathBuf {
    target.strip_prefix("/").unwrap_or(target).to_path_buf()
}

/// Mount data for a file system in memory; every file has its price.
fn options(bytes: u64, mode: u32, owner: Option<u32>) -> CString {
    let inodes = (bytes / BYTES_PER_INODE).max(INODES_MIN);
    let owner = owner.map(|id| format!(",uid={id},gid={id}")).unwrap_or_default();
    text(&format!("size={bytes},nr_inodes={inodes},mode={mode:o}{owner}"))
}

fn meminfo(bytes: u64) -> String {
    let mut lines = String::new();
    for (name, kib) in [
        ("MemTotal", bytes / 1024),
        ("MemFree", bytes / 1024),
        ("MemAvailable", bytes / 1024),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Shmem", 0),
        ("SReclaimable", 0),
    ] {
        let _ = writeln!(lines, "{:<15} {kib:>8} kB", format!("{name}:"));
    }
    lines
}

fn text(plain: &str) -> CString {
    path(Path::new(plain))
}

/// Steps hold relative names as the kernel takes them. A NUL was refused with the request.
fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

fn dir(at: &str) -> Step {
    Step::Dir { path: text(at.trim_start_matches('/')), mode: 0o755, owner: None }
}

fn file(at: &str, contents: &str) -> Step {
    Step::File { path: text(at), contents: contents.as_bytes().to_vec() }
}

fn link_to(at: &str, target: &Path) -> Step {
    Step::Link { path: text(at.trim_start_matches('/')), target: path(target) }
}

fn tmpfs(at: &str, options: CString) -> Step {
    Step::Tmpfs { target: text(at), options, read_only: false }
}

fn empty_dir(at: &str) -> Step {
    Step::Tmpfs { target: text(at), options: options(4_096, 0o755, None), read_only: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SandboxId;
    use crate::spec::{AppLayer, Bind, Limits};

    fn spec() -> SandboxSpec {
        SandboxSpec {
            id: SandboxId::new("a").unwrap(),
            argv: vec!["true".into()],
            env: vec![],
            cwd: "/app".into(),
            app: AppLayer {
                lower: vec!["/data/one".into(), "/data/two".into()],
                upper: Upper::Memory { bytes: 1 << 20 },
            },
            binds: vec![Bind {
                source: "/data/cache".into(),
                target: "/cache/npm".into(),
                read_only: false,
            }],
            limits: Limits {
                memory_bytes: 64 << 20,
                cpu_milli: 500,
                pids: 10,
                nofile: 1024,
                tmp_bytes: 1 << 20,
                shm_bytes: 1 << 20,
            },
            network: Network::None,
            uid_base: 1 << 20,
            hostname: "web-1".into(),
            resolver: Some([10, 87, 0, 1].into()),
            open_usr_local: false,
            extra_hosts: vec![("db".into(), [10, 87, 0, 9].into())],
        }
    }

    fn steps(spec: &SandboxSpec, mode: Mode, prepared: &Prepared) -> Vec<Step> {
        let facts = HostFacts {
            top: vec![("bin".into(), Some("usr/bin".into())), ("opt".into(), None)],
            etc: vec![("localtime".into(), false), ("ssl/certs".into(), true)],
            proc_present: vec!["kcore", "acpi", "sys"],
            usr_private: vec!["local"],
            aliases: vec![("python", "/usr/bin/python3".into())],
            resolv_conf: "nameserver 192.0.2.1\n".into(),
            bind_is_dir: vec![true],
        };
        let at = Path::new("/run/insula/a/root");
        Root { spec, mode, facts: &facts, prepared, at }.steps()
    }

    fn story(steps: &[Step]) -> String {
        steps.iter().map(|step| format!("{step}\n")).collect()
    }

    #[test]
    fn the_app_is_mounted_last_and_the_root_closed_after_it() {
        let prepared =
            Prepared { lower: vec![0, 1], upper: None, binds: vec![2], owners_mapped: true };
        let story = story(&steps(&spec(), Mode::Root, &prepared));
        let tail = "\
make the folder cache
make the folder cache/npm
attach cache/npm
make the folder app
make the folder .insula/stage
make the folder .insula/stage/0
attach .insula/stage/0
make the folder .insula/stage/1
attach .insula/stage/1
make the folder .insula/stage/upper
mount memory at .insula/stage/upper
make the folder .insula/stage/upper/upper
make the folder .insula/stage/upper/work
mount the layers (lowerdir=.insula/stage/0:.insula/stage/1,\
upperdir=.insula/stage/upper/upper,workdir=.insula/stage/upper/work,index=off,redirect_dir=nofollow,metacopy=off) at app
unmount .insula/stage/0
unmount .insula/stage/1
unmount .insula/stage/upper
remove .insula/stage
change the root
make the root read-only
";
        assert!(story.ends_with(tail), "{story}");
        assert!(story.starts_with("mount the new root at /run/insula/a/root\n"), "{story}");
    }

    #[test]
    fn owners_that_cannot_be_mapped_are_changed_before_the_app_sees_them() {
        let prepared =
            Prepared { lower: vec![0, 1], upper: None, binds: vec![2], owners_mapped: false };
        let steps = steps(&spec(), Mode::Root, &prepared);
        let owner = (1 << 20) + APP_UID;
        let own = Step::OwnTree { path: c"app".into(), owner };
        let place = steps.iter().position(|step| *step == own).expect("it is given away");
        let pivot = steps.iter().position(|step| *step == Step::Pivot).unwrap();
        assert!(place < pivot);
        assert!(story(&steps).contains("metacopy=on"));
        let kept = SandboxSpec {
            app: AppLayer {
                upper: Upper::Directory { upper: "/b/upper".into(), work: "/b/work".into() },
                ..spec().app
            },
            ..spec()
        };
        let prepared = Prepared { upper: Some(2), binds: vec![3], ..prepared };
        let story = story(&self::steps(&kept, Mode::Root, &prepared));
        assert!(story.contains("metacopy=off"), "what is kept holds its contents: {story}");
    }

    #[test]
    fn without_root_everything_is_bound_by_path() {
        let story = story(&steps(&spec(), Mode::User, &Prepared::default()));
        assert!(story.contains("bind /data/one at .insula/stage/0\n"), "{story}");
        assert!(story.contains("bind /data/cache at cache/npm\n"), "{story}");
        assert!(story.contains(",userxattr) at app\n"), "{story}");
        assert!(!story.contains("attach"), "{story}");
    }

    #[test]
    fn what_is_generated_names_the_sandbox_and_nobody_else() {
        let steps = steps(&spec(), Mode::Root, &Prepared::default());
        let contents = |name: &str| {
            steps
                .iter()
                .find_map(|step| match step {
                    Step::File { path, contents } if path.to_str() == Ok(name) => {
                        Some(String::from_utf8_lossy(contents).into_owned())
                    }
                    _ => None,
                })
                .unwrap_or_else(|| panic!("{name} is written"))
        };
        assert_eq!(
            contents("etc/hosts"),
            "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 web-1\n\
             10.87.0.9 db\n"
        );
        assert_eq!(
            contents("etc/resolv.conf"),
            "nameserver 10.87.0.1\noptions timeout:2 attempts:3\n"
        );
        assert!(contents(".insula/meminfo").starts_with("MemTotal:          65536 kB\n"));
    }

    #[test]
    fn private_parts_of_usr_are_shown_only_when_opened() {
        let masked = story(&steps(&spec(), Mode::Root, &Prepared::default()));
        assert!(masked.contains("mount memory at usr/local\n"), "{masked}");
        let opened = SandboxSpec { open_usr_local: true, ..spec() };
        let opened = story(&steps(&opened, Mode::Root, &Prepared::default()));
        assert!(!opened.contains("usr/local"), "{opened}");
    }
}
