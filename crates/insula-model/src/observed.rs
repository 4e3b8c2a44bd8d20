//! What nodes report. Unknown is a value.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::Generation;
use crate::build::Artifact;
use crate::deployment::Cause;
use crate::ids::{BuildId, InstanceId};
use crate::node::Ailment;
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "observed", rename_all = "snake_case")]
pub enum Observed<T> {
    /// A call may have reached the node; assume something is there until it says otherwise.
    #[default]
    Unknown,
    Absent {
        seen: Timestamp,
    },
    Present {
        value: T,
        seen: Timestamp,
    },
}

impl<T> Observed<T> {
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Unknown | Self::Absent { .. } => None,
            Self::Present { value, .. } => Some(value),
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "exit", rename_all = "snake_case")]
pub enum Exit {
    Code {
        code: i32,
    },
    Signal {
        signal: i32,
    },
    OutOfMemory,
    /// It never became a process.
    NotStarted {
        reason: String,
    },
    /// It was gone when we came back (a reboot, say), and nobody saw how it went.
    Lost,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code { code } => write!(f, "exit code {code}"),
            Self::Signal { signal } => write!(f, "signal {signal}"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::NotStarted { reason } => write!(f, "not started: {reason}"),
            Self::Lost => f.write_str("gone without a trace (a reboot?)"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitNote {
    pub exit: Exit,
    pub at: Timestamp,
    pub tail: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum InstancePhase {
    /// Fetching and unpacking what it is made of.
    Preparing,
    /// Its process runs and has not answered a probe yet.
    Starting,
    Ready,
    /// Was ready, fails its probe: out of the routes, not restarted.
    Unready {
        reason: String,
    },
    /// Ended by itself; started again at `until`.
    BackingOff {
        until: Timestamp,
    },
    /// It cannot become ready, and starting it again would not help.
    Stuck {
        cause: Cause,
    },
    Stopping,
    /// Ended for good: a run that is over.
    Finished,
}

impl InstancePhase {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unready { .. } => "unready",
            Self::BackingOff { .. } => "backing off",
            Self::Stuck { .. } => "stuck",
            Self::Stopping => "stopping",
            Self::Finished => "finished",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    pub id: InstanceId,
    pub phase: InstancePhase,
    /// Where it answers, once it does.
    pub endpoint: Option<SocketAddr>,
    /// Times its process was started again.
    pub restarts: u32,
    /// Exits before it was ever ready, in a row.
    pub exits_before_ready: u32,
    pub last_exit: Option<ExitNote>,
    pub started: Option<Timestamp>,
    /// When it became ready for the first time.
    pub ready_since: Option<Timestamp>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum BuildPhase {
    /// Others have the places for builds on this node.
    Waiting,
    Running {
        step: String,
    },
    Done {
        artifact: Artifact,
    },
    Failed {
        cause: Cause,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildReport {
    pub id: BuildId,
    pub phase: BuildPhase,
}

/// All that a node holds, sent whenever it changes and when a session begins. What it does not
/// name is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The Target it has accepted.
    pub generation: Generation,
    pub instances: Vec<InstanceReport>,
    pub builds: Vec<BuildReport>,
    /// What is wrong with the node itself. Empty: nothing.
    #[serde(default)]
    pub ailments: Vec<Ailment>,
}
