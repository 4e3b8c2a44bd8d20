//! Deployments: how one is asked for, how far it is, and why it failed.

use insula_model::deployment::{self, DeploymentState, PhaseMark, Source};
use insula_model::release::ReleaseNumber;
use insula_model::{AppId, BuildId, ComponentName, DeploymentId, Digest, ReleaseId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::instance::Exit;

/// A folder whose chunks have been uploaded already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDeployment {
    /// Manifest v1: every file with its mode, size and chunks.
    #[schema(value_type = Object)]
    pub manifest: serde_json::Value,
}

/// What a deploy would do; nothing has been changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    pub components: Vec<super::release::Component>,
    /// The names of the build's steps, in their order.
    pub steps: Vec<String>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    #[schema(value_type = String)]
    pub id: DeploymentId,
    #[schema(value_type = String)]
    pub app: AppId,
    /// `queued`, `building`, `starting`, `shifting`; at the end `live`, `failed`, `superseded` or
    /// `cancelled`.
    pub state: String,
    /// Whether the state can still change.
    pub done: bool,
    pub source: DeploymentSource,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildId>,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    /// 3 for `v3`, once a release was cut.
    #[schema(value_type = Option<u32>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<ReleaseNumber>,
    /// What served when it began.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<ReleaseId>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<DeploymentId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<String>,
    /// Who asked for it.
    pub actor: String,
    pub trace: String,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated: Timestamp,
    pub phases: Vec<Phase>,
    pub warnings: Vec<String>,
    /// Where the app answers with it; absent, and read as empty, if its release has no component
    /// that is routed: only workers and jobs, say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentSource {
    /// `folder`, `release` or `reconfigure`.
    pub kind: String,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Phase {
    /// `queue`, `build`, `start` or `shift`.
    pub phase: String,
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

/// Why a deployment or a build failed. Each code has a page: `/errors/cause-<code>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cause {
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// The last lines that the build or the app wrote.
    pub tail: Vec<String>,
}

/// What a change has started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Started {
    /// Nothing if nothing was live, or none was wanted.
    pub deployments: Vec<Deployment>,
}

impl Deployment {
    pub fn new(
        deployment: &deployment::Deployment,
        number: Option<ReleaseNumber>,
        url: String,
    ) -> Self {
        let (cause, superseded_by, cancelled_by) = match &deployment.state {
            DeploymentState::Failed { cause } => (Some(Cause::from(&**cause)), None, None),
            DeploymentState::Superseded { by } => (None, Some(*by), None),
            DeploymentState::Cancelled { by } => (None, None, Some(by.to_string())),
            DeploymentState::Queued
            | DeploymentState::Building
            | DeploymentState::Starting
            | DeploymentState::Shifting
            | DeploymentState::Live => (None, None, None),
        };
        Self {
            id: deployment.id,
            app: deployment.app,
            state: deployment.state.as_str().into(),
            done: deployment.state.is_final(),
            source: DeploymentSource::from(&deployment.source),
            build: deployment.build,
            release: deployment.release,
            number,
            previous: deployment.previous,
            cause,
            superseded_by,
            cancelled_by,
            actor: deployment.actor.to_string(),
            trace: deployment.trace.clone(),
            created: deployment.created,
            updated: deployment.updated,
            phases: deployment.phases.iter().map(Phase::from).collect(),
            warnings: deployment.warnings.clone(),
            url,
        }
    }
}

impl From<&Source> for DeploymentSource {
    fn from(source: &Source) -> Self {
        let bare = |kind: &str| Self {
            kind: kind.into(),
            manifest: None,
            size_bytes: None,
            release: None,
        };
        match source {
            Source::Folder { manifest, size, .. } => {
                Self { manifest: Some(*manifest), size_bytes: Some(size.0), ..bare("folder") }
            }
            Source::Release { release } => Self { release: Some(*release), ..bare("release") },
            Source::Reconfigure { release } => {
                Self { release: Some(*release), ..bare("reconfigure") }
            }
        }
    }
}

impl From<&PhaseMark> for Phase {
    fn from(mark: &PhaseMark) -> Self {
        Self {
            phase: mark.phase.as_str().into(),
            started: mark.started,
            ended: mark.ended,
            took_ms: mark.ended.map(|ended| ended.since(mark.started).0),
        }
    }
}

impl From<&deployment::Cause> for Cause {
    fn from(cause: &deployment::Cause) -> Self {
        Self {
            code: cause.code.as_str().into(),
            message: cause.message.clone(),
            hint: cause.hint.clone(),
            component: cause.component.clone(),
            exit: cause.exit.as_ref().map(Exit::from),
            tail: cause.tail.clone(),
        }
    }
}
