//! Instances: what was decided of each, and what its node says of it.

use insula_model::instance::{self, Intent};
use insula_model::observed::{self, InstancePhase, Observed};
use insula_model::{
    ComponentName, DeploymentId, InstanceId, NodeId, NodeName, ReleaseId, RunId, Timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    #[schema(value_type = String)]
    pub id: InstanceId,
    #[schema(value_type = String)]
    pub component: ComponentName,
    pub kind: String,
    #[schema(value_type = String)]
    pub release: ReleaseId,
    #[schema(value_type = String)]
    pub deployment: DeploymentId,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    #[schema(value_type = String)]
    pub node: NodeId,
    /// What the operator calls it, while it is a node.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<NodeName>,
    /// What is wanted of it: `run`, `drain` or `stop`.
    pub intent: String,
    /// What it is seen to do: `unknown`, `absent`, `preparing`, `starting`, `ready`, `unready`,
    /// `backing off`, `stuck`, `stopping` or `finished`.
    pub state: String,
    /// Why it is not ready, where its node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Times its process was started again.
    pub restarts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    pub cpu_millis: u32,
    pub memory_bytes: u64,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_since: Option<Timestamp>,
    /// When its node last spoke of it.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Timestamp>,
    pub warnings: Vec<String>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exit {
    /// `code`, `signal`, `out_of_memory`, `not_started` or `lost`.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// In words.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastExit {
    pub exit: Exit,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The last lines that it wrote.
    pub tail: Vec<String>,
}

impl From<&observed::Exit> for Exit {
    fn from(exit: &observed::Exit) -> Self {
        let (kind, code, signal) = match exit {
            observed::Exit::Code { code } => ("code", Some(*code), None),
            observed::Exit::Signal { signal } => ("signal", None, Some(*signal)),
            observed::Exit::OutOfMemory => ("out_of_memory", None, None),
            observed::Exit::NotStarted { .. } => ("not_started", None, None),
            observed::Exit::Lost => ("lost", None, None),
        };
        Self { kind: kind.into(), code, signal, message: exit.to_string() }
    }
}

impl From<&instance::Instance> for Instance {
    fn from(instance: &instance::Instance) -> Self {
        let (state, seen) = match &instance.observed {
            Observed::Unknown => ("unknown", None),
            Observed::Absent { seen } => ("absent", Some(*seen)),
            Observed::Present { value, seen } => (value.phase.as_str(), Some(*seen)),
        };
        let intent = match instance.intent {
            Intent::Run => "run",
            Intent::Drain { .. } => "drain",
            Intent::Stop { .. } => "stop",
        };
        let report = instance.observed.present();
        Self {
            id: instance.id,
            component: instance.component.clone(),
            kind: instance.kind.as_str().into(),
            release: instance.release,
            deployment: instance.deployment,
            run: instance.run,
            node: instance.node,
            node_name: None,
            intent: intent.into(),
            state: state.into(),
            reason: report.and_then(|report| reason(&report.phase)),
            endpoint: report.and_then(|report| report.endpoint).map(|at| at.to_string()),
            restarts: report.map_or(0, |report| report.restarts),
            last_exit: report.and_then(|report| report.last_exit.as_ref()).map(|note| LastExit {
                exit: Exit::from(&note.exit),
                at: note.at,
                tail: note.tail.clone(),
            }),
            cpu_millis: instance.cpu.0,
            memory_bytes: instance.memory.0,
            created: instance.created,
            started: report.and_then(|report| report.started),
            ready_since: report.and_then(|report| report.ready_since),
            seen,
            warnings: report.map_or_else(Vec::new, |report| report.warnings.clone()),
        }
    }
}

impl Instance {
    pub fn on(self, node_name: Option<NodeName>) -> Self {
        Self { node_name, ..self }
    }
}

fn reason(phase: &InstancePhase) -> Option<String> {
    match phase {
        InstancePhase::Unready { reason } => Some(reason.clone()),
        InstancePhase::BackingOff { until } => Some(format!("started again at {until}")),
        InstancePhase::Stuck { cause } => Some(cause.message.clone()),
        InstancePhase::Preparing
        | InstancePhase::Starting
        | InstancePhase::Ready
        | InstancePhase::Stopping
        | InstancePhase::Finished => None,
    }
}
