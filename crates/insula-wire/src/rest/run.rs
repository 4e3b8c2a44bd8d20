//! Runs: one execution of a job, or of a command in a copy of a component.

use insula_model::instance::{self, RunState};
use insula_model::{AppId, ComponentName, InstanceId, ReleaseId, RunId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::instance::Exit;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRun {
    #[schema(value_type = String)]
    pub component: ComponentName,
    /// An argument vector, instead of the component's own command. Needed for what is not a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    #[schema(value_type = String)]
    pub id: RunId,
    #[schema(value_type = String)]
    pub app: AppId,
    #[schema(value_type = String)]
    pub component: ComponentName,
    #[schema(value_type = String)]
    pub release: ReleaseId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// `queued`, `running`, `ended` or `cancelled`.
    pub state: String,
    /// Whether the state can still change.
    pub done: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// What its log is found by.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
}

impl From<&instance::Run> for Run {
    fn from(run: &instance::Run) -> Self {
        let (state, exit) = match &run.state {
            RunState::Queued => ("queued", None),
            RunState::Running => ("running", None),
            RunState::Ended { exit } => ("ended", Some(Exit::from(exit))),
            RunState::Cancelled => ("cancelled", None),
        };
        Self {
            id: run.id,
            app: run.app,
            component: run.component.clone(),
            release: run.release,
            command: run.command.clone(),
            state: state.into(),
            done: run.state.is_final(),
            exit,
            instance: run.instance,
            created: run.created,
            ended: run.ended,
        }
    }
}
