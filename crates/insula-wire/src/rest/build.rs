//! Builds: source to artifact.

use insula_model::build::{self, BuildState};
use insula_model::{AppId, BuildId, DeploymentId, Digest, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::deployment::Cause;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Build {
    #[schema(value_type = String)]
    pub id: BuildId,
    #[schema(value_type = String)]
    pub app: AppId,
    #[schema(value_type = String)]
    pub deployment: DeploymentId,
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    #[schema(value_type = String)]
    pub source: Digest,
    pub steps: Vec<Step>,
    pub warnings: Vec<String>,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    pub name: String,
    pub runtime: String,
    pub argv: Vec<String>,
}

impl From<&build::Build> for Build {
    fn from(build: &build::Build) -> Self {
        let (state, node, attempt, built, cause) = match &build.state {
            BuildState::Queued => ("queued", None, None, None, None),
            BuildState::Running { node, attempt } => {
                ("running", Some(*node), Some(*attempt), None, None)
            }
            BuildState::Done { artifact } => ("done", None, None, artifact.built, None),
            BuildState::Failed { cause } => ("failed", None, None, None, Some(Cause::from(cause))),
            BuildState::Cancelled => ("cancelled", None, None, None, None),
        };
        let step = |step: &build::BuildStep| Step {
            name: step.name.clone(),
            runtime: step.runtime.as_str().into(),
            argv: step.argv.clone(),
        };
        Self {
            id: build.id,
            app: build.app,
            deployment: build.deployment,
            state: state.into(),
            source: build.source,
            steps: build.plan.steps.iter().map(step).collect(),
            warnings: build.plan.warnings.clone(),
            node,
            attempt,
            built,
            cause,
            created: build.created,
            updated: build.updated,
        }
    }
}
