//! What people ask for: an app's components and how each wants to run.
//!
//! Every value here is complete: defaults were filled in when the source was read, so that a
//! stored spec means the same after a default has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::{
    AppName, ComponentName, LabelName, LabelValue, PoolName, VariableName, ZoneName,
};
use crate::node::Architecture;
use crate::units::{Bytes, MilliCpu, Millis};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    /// What the folder calls itself; the deployment's app has the last word.
    pub app: Option<AppName>,
    pub components: BTreeMap<ComponentName, ComponentSpec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentKind {
    /// Listens on a port and may have routes.
    Service,
    /// Runs without a port.
    Worker,
    /// Runs to completion when asked.
    Job,
    /// Files, served by us.
    Static,
}

impl ComponentKind {
    pub const ALL: [Self; 4] = [Self::Service, Self::Worker, Self::Job, Self::Static];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Worker => "worker",
            Self::Job => "job",
            Self::Static => "static",
        }
    }

    /// Whether instances are probed on a port and can stand behind a route.
    pub fn listens(self) -> bool {
        match self {
            Self::Service | Self::Static => true,
            Self::Worker | Self::Job => false,
        }
    }

    /// Whether instances are kept running without being asked for one by one.
    pub fn stays(self) -> bool {
        match self {
            Self::Service | Self::Static | Self::Worker => true,
            Self::Job => false,
        }
    }
}

impl fmt::Display for ComponentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentSpec {
    pub kind: ComponentKind,
    pub runtime: Runtime,
    /// A shell line, run inside the sandbox by its own shell. A static component has none.
    pub run: Option<String>,
    /// The folder that is served (static) or worked in, relative to the source; empty for its top.
    pub root: String,
    pub port: u16,
    pub instances: u32,
    pub cpu: MilliCpu,
    pub memory: Bytes,
    pub pids: u32,
    /// The private writable layer.
    pub disk: Bytes,
    pub routes: Vec<RouteSpec>,
    pub health: HealthSpec,
    pub liveness: Option<LivenessSpec>,
    /// Never two at once: a new instance starts only when the old one is gone.
    pub single: bool,
    /// What becomes of a single instance whose node has lost contact.
    #[serde(default)]
    pub failover: Failover,
    #[serde(default)]
    pub rollout: RolloutSpec,
    #[serde(default)]
    pub placement: PlacementSpec,
    pub isolation: Isolation,
    /// How long an instance that left the routes may finish what it has.
    pub drain: Millis,
    pub stop: StopSpec,
    pub variables: BTreeMap<VariableName, String>,
}

/// What becomes of a single instance when its node is not heard of any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failover {
    /// It is replaced only once its node has come back, was removed or was fenced.
    #[default]
    Never,
    /// Its node stops it when it has not heard the server for a while, and then it is replaced.
    Lease,
}

impl Failover {
    pub const ALL: [Self; 2] = [Self::Never, Self::Lease];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Lease => "lease",
        }
    }
}

/// How a component goes from one release to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "strategy", rename_all = "snake_case")]
pub enum RolloutSpec {
    /// All new instances start beside the old ones; when all have proved themselves, traffic
    /// shifts in one moment.
    #[default]
    BlueGreen,
    /// One after the other: never more than `surge` beyond what is asked for, never fewer ready
    /// ones than asked for less `unavailable`. Old and new serve side by side meanwhile.
    Rolling { surge: u32, unavailable: u32 },
}

/// Which nodes may have an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementSpec {
    /// Nothing for the common pool.
    pub pool: Option<PoolName>,
    /// Empty: any.
    pub zones: BTreeSet<ZoneName>,
    /// All of them, exactly.
    pub labels: BTreeMap<LabelName, LabelValue>,
    pub architecture: Option<Architecture>,
}

/// What turns the source into something that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    Python,
    Node,
    /// Files that need nothing but our file server.
    Files,
    /// Whatever the command finds under `/usr`.
    Host,
}

impl Runtime {
    pub const ALL: [Self; 4] = [Self::Python, Self::Node, Self::Files, Self::Host];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Files => "files",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSpec {
    /// A prefix that begins with `/`; matches whole segments.
    pub path: String,
    /// Whether the app sees the prefix; otherwise it is trimmed.
    pub preserve: bool,
}

/// Readiness: decides whether an instance is in the routes, never whether it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// An HTTP path that answers below 400; without one a TCP connection is enough.
    pub path: Option<String>,
    /// How long a new instance may take to become ready.
    pub startup: Millis,
    pub interval: Millis,
    pub timeout: Millis,
}

/// Liveness: restarts an instance that fails it. Only if asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivenessSpec {
    pub path: String,
    pub interval: Millis,
    pub timeout: Millis,
    pub failures: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSpec {
    pub signal: StopSignal,
    /// Between the signal and the kill.
    pub grace: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    Term,
    Int,
    Quit,
    Hup,
    Usr1,
    Usr2,
}

impl StopSignal {
    pub const ALL: [Self; 6] =
        [Self::Term, Self::Int, Self::Quit, Self::Hup, Self::Usr1, Self::Usr2];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Hup => "HUP",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
        }
    }

    /// The number on Linux, the same on every architecture we run on.
    pub fn number(self) -> i32 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Quit => 3,
            Self::Usr1 => 10,
            Self::Usr2 => 12,
            Self::Term => 15,
        }
    }
}

/// How strongly an instance is kept from the kernel that it shares, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    Standard,
    Gvisor,
    Microvm,
}

impl Isolation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Gvisor => "gvisor",
            Self::Microvm => "microvm",
        }
    }
}

impl ComponentSpec {
    /// A component with every default, of a kind.
    pub fn of_kind(kind: ComponentKind) -> Self {
        use crate::limits as l;
        Self {
            kind,
            runtime: match kind {
                ComponentKind::Static => Runtime::Files,
                ComponentKind::Service | ComponentKind::Worker | ComponentKind::Job => {
                    Runtime::Host
                }
            },
            run: None,
            root: String::new(),
            port: l::PORT_DEFAULT,
            instances: 1,
            cpu: l::CPU_DEFAULT,
            memory: match kind {
                ComponentKind::Static => l::STATIC_MEMORY_DEFAULT,
                ComponentKind::Service | ComponentKind::Worker | ComponentKind::Job => {
                    l::MEMORY_DEFAULT
                }
            },
            pids: l::PIDS_DEFAULT,
            disk: l::DISK_DEFAULT,
            routes: Vec::new(),
            health: HealthSpec {
                path: None,
                startup: l::STARTUP_DEFAULT,
                interval: l::HEALTH_INTERVAL_DEFAULT,
                timeout: l::HEALTH_TIMEOUT_DEFAULT,
            },
            liveness: None,
            single: false,
            failover: Failover::default(),
            rollout: RolloutSpec::default(),
            placement: PlacementSpec::default(),
            isolation: Isolation::Standard,
            drain: l::DRAIN_DEFAULT,
            stop: StopSpec { signal: StopSignal::Term, grace: l::GRACE_DEFAULT },
            variables: BTreeMap::new(),
        }
    }
}
