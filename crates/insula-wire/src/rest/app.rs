//! Apps, and what can be done to one.

use std::collections::BTreeMap;

use insula_model::app;
use insula_model::release::ReleaseNumber;
use insula_model::{
    AppId, AppName, ComponentName, DeploymentId, EnvironmentId, EnvironmentName, ProjectId,
    ProjectName, ReleaseId, Timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct App {
    #[schema(value_type = String)]
    pub id: AppId,
    #[schema(value_type = String)]
    pub name: AppName,
    #[schema(value_type = String)]
    pub project: ProjectId,
    #[schema(value_type = String)]
    pub project_name: ProjectName,
    #[schema(value_type = String)]
    pub environment: EnvironmentId,
    #[schema(value_type = String)]
    pub environment_name: EnvironmentName,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// False after `stop`, until `start`.
    pub running: bool,
    /// Instances asked for, where that differs from what the release says.
    #[schema(value_type = BTreeMap<String, u32>)]
    pub scale: BTreeMap<ComponentName, u32>,
    /// What serves now, once something has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
    /// Where it answers, or will once something serves; absent, and read as empty, if what serves
    /// has no component that is routed: only workers and jobs, say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Live {
    #[schema(value_type = String)]
    pub release: ReleaseId,
    /// 3 for `v3`.
    #[schema(value_type = u32)]
    pub number: ReleaseNumber,
    #[schema(value_type = String)]
    pub deployment: DeploymentId,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApp {
    #[schema(value_type = String)]
    pub name: AppName,
    /// By name.
    #[schema(value_type = String)]
    pub project: ProjectName,
    /// By name, in that project.
    #[schema(value_type = String)]
    pub environment: EnvironmentName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Instances of each component; one that is not named keeps what it has.
    #[schema(value_type = BTreeMap<String, u32>)]
    pub components: BTreeMap<ComponentName, u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// 3 for `v3`; without it, the release that was live before this one.
    #[schema(value_type = Option<u32>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<ReleaseNumber>,
}

/// What an app's own row does not hold.
#[derive(Debug, Clone)]
pub struct AppContext {
    pub project_name: ProjectName,
    pub environment_name: EnvironmentName,
    pub live_number: Option<ReleaseNumber>,
    /// Empty if it answers nowhere.
    pub url: String,
}

impl App {
    pub fn new(app: &app::App, context: AppContext) -> Self {
        let live = app.live.as_ref().zip(context.live_number).map(|(live, number)| Live {
            release: live.release,
            number,
            deployment: live.deployment,
            since: live.since,
        });
        Self {
            id: app.id,
            name: app.name.clone(),
            project: app.project,
            project_name: context.project_name,
            environment: app.environment,
            environment_name: context.environment_name,
            created: app.created,
            running: app.running,
            scale: app.scale.clone(),
            live,
            url: context.url,
        }
    }
}
