//! What a caller asks for when it wants a sandbox, and the rules that a request must keep.
//!
//! Plain values: nothing here touches the machine. Whether a folder exists is found out at launch.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::id::SandboxId;
use crate::net;

/// Where the app's code lies and its home is.
pub const APP_DIR: &str = "/app";
/// A folder for the caller's `PATH` with names that apps expect and the host lacks (`python`).
pub const BIN_DIR: &str = "/.insula/bin";
/// The app's user and group inside the sandbox.
pub const APP_UID: u32 = 1000;
/// How many host ids belong to one sandbox, from its `uid_base` on.
pub const UID_RANGE: u32 = 65_536;
/// Host ids below this belong to the system and its people.
pub const UID_BASE_MIN: u32 = 65_536;
/// A thread pool needs this many processes to be useful at all; below it nothing starts.
pub const PIDS_MIN: u32 = 4;
/// An interpreter does not start in less; the kernel would end it with words that help nobody.
pub const MEMORY_BYTES_MIN: u64 = 4 << 20;
/// The kernel refuses quotas below a millisecond per 100 ms.
pub const CPU_MILLI_MIN: u32 = 10;
/// Strings of one command line; the kernel's own limit is on bytes and depends on the stack.
pub const ARGUMENTS_MAX: usize = 4_096;
/// Layers of `/app`; far above what builds make, below what the kernel stacks.
pub const LAYERS_MAX: usize = 32;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxSpec {
    pub id: SandboxId,
    /// The command; a name without a slash is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// All of the environment; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Working directory inside the sandbox.
    pub cwd: PathBuf,
    pub app: AppLayer,
    pub binds: Vec<Bind>,
    pub limits: Limits,
    pub network: Network,
    /// First of the `UID_RANGE` host ids that belong to this sandbox alone. Not used in user mode.
    pub uid_base: u32,
    pub hostname: String,
    /// The name server written into `resolv.conf`; with the host's network `None` means the host's.
    pub resolver: Option<Ipv4Addr>,
    /// Shows `/usr/local` and `/usr/src` of the host instead of empty folders.
    pub open_usr_local: bool,
    pub extra_hosts: Vec<(String, IpAddr)>,
}

/// `/app`: read-only layers under a writable one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppLayer {
    /// The topmost first. What belongs to 0 on disk belongs to the app's user inside.
    pub lower: Vec<PathBuf>,
    pub upper: Upper,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Upper {
    /// Gone with the sandbox; counts as its memory.
    Memory { bytes: u64 },
    /// Kept on disk: the product of a build. Both folders lie in one parent; files that the app
    /// makes belong to 0 on disk where the file system can map owners.
    Directory { upper: PathBuf, work: PathBuf },
}

/// A file or folder of the host shown inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Everything the sandbox holds: processes, `/tmp`, `/dev/shm` and a writable layer in memory.
    pub memory_bytes: u64,
    /// Thousandths of a core.
    pub cpu_milli: u32,
    /// Processes and threads of the app; the init is not counted.
    pub pids: u32,
    /// Open files of one process; lowered to the host's own limit when that is lower.
    pub nofile: u64,
    pub tmp_bytes: u64,
    pub shm_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A namespace of its own, joined to the host by the attachment.
    Own(net::Attachment),
    /// The host's namespace: development without root.
    Host,
    /// A namespace of its own with loopback only.
    None,
}

/// How much the platform may do on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As root: everything is enforced.
    Root,
    /// As an ordinary user with user namespaces: isolated files and processes, no limits, the
    /// host's network.
    User,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    #[error("the command is empty")]
    NoCommand,
    #[error("the command has {got} arguments, {ARGUMENTS_MAX} are allowed")]
    TooManyArguments { got: usize },
    #[error("{what} holds a NUL byte")]
    Nul { what: &'static str },
    #[error("`{0}` is not a name for an environment variable")]
    EnvName(String),
    #[error("{what} `{path}` must be absolute, without `.` or `..`")]
    Path { what: &'static str, path: PathBuf },
    #[error("nothing can be mounted at `{0}`: the sandbox owns that place")]
    Target(PathBuf),
    #[error("the upper and the work folder must be different folders in one parent")]
    UpperParent,
    #[error(
        "the writable layer's folder name `{0}` must be plain (letters, digits, `-`, `_`, `.`)"
    )]
    UpperName(String),
    #[error("{got} layers, {LAYERS_MAX} are allowed")]
    Layers { got: usize },
    #[error("limit {what} is {got}, the least is {min}")]
    Limit { what: &'static str, got: u64, min: u64 },
    #[error("user ids from {0} on are not free for a sandbox")]
    UidBase(u32),
    #[error("`{0}` is not a host name")]
    Hostname(String),
    #[error("without root a sandbox shares the host's network")]
    UserNetwork,
    #[error("with root a sandbox never shares the host's network")]
    RootNetwork,
}

impl SandboxSpec {
    /// Everything that can be refused without looking at the machine.
    pub fn check(&self, mode: Mode) -> Result<(), SpecError> {
        self.check_command()?;
        self.check_paths()?;
        self.check_limits()?;
        for name in std::iter::once(&self.hostname).chain(self.extra_hosts.iter().map(|h| &h.0)) {
            if !is_hostname(name) {
                return Err(SpecError::Hostname(name.clone()));
            }
        }
        match (mode, &self.network) {
            (Mode::User, Network::Own(_) | Network::None) => Err(SpecError::UserNetwork),
            (Mode::Root, Network::Host) => Err(SpecError::RootNetwork),
            (Mode::Root, Network::Own(_) | Network::None) | (Mode::User, Network::Host) => Ok(()),
        }?;
        let last = self.uid_base.checked_add(UID_RANGE);
        match mode {
            Mode::Root if self.uid_base < UID_BASE_MIN || last.is_none() => {
                Err(SpecError::UidBase(self.uid_base))
            }
            Mode::Root | Mode::User => Ok(()),
        }
    }

    fn check_command(&self) -> Result<(), SpecError> {
        match self.argv.first() {
            None => return Err(SpecError::NoCommand),
            Some(name) if name.is_empty() => return Err(SpecError::NoCommand),
            Some(_) => {}
        }
        if self.argv.len() > ARGUMENTS_MAX {
            return Err(SpecError::TooManyArguments { got: self.argv.len() });
        }
        if self.argv.iter().any(|a| a.contains('\0')) {
            return Err(SpecError::Nul { what: "the command" });
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(SpecError::EnvName(name.clone()));
            }
            if value.contains('\0') {
                return Err(SpecError::Nul { what: "an environment variable" });
            }
        }
        Ok(())
    }

    fn check_paths(&self) -> Result<(), SpecError> {
        check_path("the working directory", &self.cwd)?;
        if self.app.lower.len() > LAYERS_MAX {
            return Err(SpecError::Layers { got: self.app.lower.len() });
        }
        for lower in &self.app.lower {
            check_path("the layer", lower)?;
        }
        if let Upper::Directory { upper, work } = &self.app.upper {
            check_path("the writable layer", upper)?;
            check_path("the work folder", work)?;
            if upper == work || upper.parent() != work.parent() || upper.parent().is_none() {
                return Err(SpecError::UpperParent);
            }
            for path in [upper, work] {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                if name.is_empty() || !name.chars().all(plain) {
                    return Err(SpecError::UpperName(name.into_owned()));
                }
            }
        }
        for bind in &self.binds {
            check_path("the bound path", &bind.source)?;
            check_path("the mount point", &bind.target)?;
            if !is_bind_target(&bind.target) {
                return Err(SpecError::Target(bind.target.clone()));
            }
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), SpecError> {
        let limits = &self.limits;
        let least = [
            ("memory", limits.memory_bytes, MEMORY_BYTES_MIN),
            ("cpu", limits.cpu_milli.into(), CPU_MILLI_MIN.into()),
            ("pids", limits.pids.into(), PIDS_MIN.into()),
            ("nofile", limits.nofile, 16),
            ("tmp", limits.tmp_bytes, 4_096),
            ("shm", limits.shm_bytes, 4_096),
        ];
        for (what, got, min) in least {
            if got < min {
                return Err(SpecError::Limit { what, got, min });
            }
        }
        match self.app.upper {
            Upper::Memory { bytes } if bytes < 4_096 => {
                Err(SpecError::Limit { what: "writable layer", got: bytes, min: 4_096 })
            }
            Upper::Memory { .. } | Upper::Directory { .. } => Ok(()),
        }
    }
}

fn check_path(what: &'static str, path: &Path) -> Result<(), SpecError> {
    use std::os::unix::ffi::OsStrExt;
    let mut parts = path.components();
    let plain = parts.next() == Some(Component::RootDir)
        && parts.all(|part| matches!(part, Component::Normal(_)));
    let bytes = path.as_os_str().as_bytes();
    if bytes.contains(&0) {
        return Err(SpecError::Nul { what });
    }
    // `components` swallows `/./`; the text must not hold it either, for it is used as it is.
    let dotted = bytes.split(|b| *b == b'/').any(|part| part == b"." || part == b"..");
    if plain && !dotted { Ok(()) } else { Err(SpecError::Path { what, path: path.into() }) }
}

/// Targets are made on a fresh file system of ours. Anything below `/app` or `/usr` would resolve
/// names that a tenant or the host chose, so those places, and those we mount ourselves, are out.
fn is_bind_target(target: &Path) -> bool {
    let mut parts = target.components().skip(1);
    let Some(first) = parts.next() else { return false };
    let deeper = parts.next().is_some();
    match first.as_os_str().to_str() {
        Some("app" | "usr" | "bin" | "sbin" | "lib" | "lib64" | "proc" | "dev" | "tmp" | "run") => {
            false
        }
        Some("etc" | ".insula") => deeper && !target.starts_with(BIN_DIR),
        Some(_) => true,
        None => false,
    }
}

fn is_hostname(text: &str) -> bool {
    // Linux holds 64 bytes; one name per line of `hosts`, so nothing but letters, digits, `-`, `.`.
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && !text.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SandboxSpec {
        SandboxSpec {
            id: SandboxId::new("a").unwrap(),
            argv: vec!["true".into()],
            env: vec![],
            cwd: "/app".into(),
            app: AppLayer { lower: vec![], upper: Upper::Memory { bytes: 1 << 20 } },
            binds: vec![],
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
            resolver: None,
            open_usr_local: false,
            extra_hosts: vec![],
        }
    }

    fn refused(change: impl FnOnce(&mut SandboxSpec)) -> String {
        let mut spec = spec();
        change(&mut spec);
        spec.check(Mode::Root).expect_err("refused").to_string()
    }

    #[test]
    fn a_plain_request_passes() {
        assert_eq!(spec().check(Mode::Root), Ok(()));
    }

    #[test]
    fn hostile_requests_are_refused_with_words() {
        assert_eq!(refused(|s| s.argv.clear()), "the command is empty");
        assert_eq!(refused(|s| s.argv.push("a\0b".into())), "the command holds a NUL byte");
        assert!(refused(|s| s.env.push(("A=B".into(), String::new()))).contains("A=B"));
        assert!(refused(|s| s.cwd = "/app/../etc".into()).contains("without `.`"));
        assert!(refused(|s| s.app.lower.push("rel".into())).contains("absolute"));
        assert!(refused(|s| s.hostname = "a\nb".into()).contains("not a host name"));
        assert!(refused(|s| s.uid_base = 0).contains("not free"));
        assert!(refused(|s| s.uid_base = u32::MAX - 10).contains("not free"));
        assert!(refused(|s| s.network = Network::Host).contains("never shares"));
        assert!(refused(|s| s.limits.pids = 0).contains("pids"));
        assert!(
            refused(|s| s.extra_hosts.push(("x y".into(), [127, 0, 0, 1].into())))
                .contains("not a host name")
        );
    }

    #[test]
    fn nothing_is_mounted_where_a_tenant_or_the_host_chose_the_names() {
        for bad in ["/", "/app", "/app/x", "/usr/bin", "/proc/1", "/dev/kvm", "/etc", "/lib/x"] {
            assert!(!is_bind_target(Path::new(bad)), "{bad}");
        }
        for good in ["/cache", "/cache/npm", "/etc/pip.conf", "/.insula/insula", "/src"] {
            assert!(is_bind_target(Path::new(good)), "{good}");
        }
    }
}
