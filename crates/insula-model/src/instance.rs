//! One copy of a component on a node: what was decided of it, and what is known of it.

use serde::{Deserialize, Serialize};

use crate::ids::{
    AppId, DeploymentId, EnvironmentId, InstanceId, NodeId, OrgId, ProjectId, ReleaseId, RunId,
};
use crate::names::ComponentName;
use crate::observed::{Exit, InstanceReport, Observed};
use crate::spec::ComponentKind;
use crate::time::Timestamp;
use crate::units::{Bytes, MilliCpu};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub org: OrgId,
    pub project: ProjectId,
    pub environment: EnvironmentId,
    pub app: AppId,
    pub component: ComponentName,
    pub kind: ComponentKind,
    pub release: ReleaseId,
    pub deployment: DeploymentId,
    /// The run that it is, if it is one.
    pub run: Option<RunId>,
    pub node: NodeId,
    /// Reserved on the node.
    pub cpu: MilliCpu,
    pub memory: Bytes,
    #[serde(default)]
    pub pids: u32,
    #[serde(default)]
    pub disk: Bytes,
    pub intent: Intent,
    pub created: Timestamp,
    /// Boxed: most of a large fleet's instances are rows that nobody looks at.
    pub observed: Observed<Box<InstanceReport>>,
}

/// What the control plane wants of an instance. Only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "intent", rename_all = "snake_case")]
pub enum Intent {
    Run,
    /// Out of the routes; stops once the gateways have followed and its requests are done.
    Drain {
        since: Timestamp,
    },
    Stop {
        since: Timestamp,
    },
}

/// One execution of a job, or of a command in a copy of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    pub org: OrgId,
    pub app: AppId,
    pub component: ComponentName,
    pub release: ReleaseId,
    /// Instead of the component's own command.
    pub command: Option<Vec<String>>,
    pub state: RunState,
    pub instance: Option<InstanceId>,
    pub created: Timestamp,
    pub ended: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RunState {
    Queued,
    Running,
    Ended { exit: Exit },
    Cancelled,
}

impl RunState {
    pub fn is_final(&self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Ended { .. } | Self::Cancelled => true,
        }
    }
}
