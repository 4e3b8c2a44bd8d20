//! Projects and their environments.

use insula_model::app;
use insula_model::{EnvironmentId, EnvironmentName, ProjectId, ProjectName, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    #[schema(value_type = String)]
    pub id: ProjectId,
    #[schema(value_type = String)]
    pub name: ProjectName,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    #[schema(value_type = String)]
    pub name: ProjectName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Environment {
    #[schema(value_type = String)]
    pub id: EnvironmentId,
    #[schema(value_type = String)]
    pub project: ProjectId,
    #[schema(value_type = String)]
    pub name: EnvironmentName,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEnvironment {
    #[schema(value_type = String)]
    pub name: EnvironmentName,
}

impl From<&app::Project> for Project {
    fn from(project: &app::Project) -> Self {
        Self { id: project.id, name: project.name.clone(), created: project.created }
    }
}

impl From<&app::Environment> for Environment {
    fn from(environment: &app::Environment) -> Self {
        Self {
            id: environment.id,
            project: environment.project,
            name: environment.name.clone(),
            created: environment.created,
        }
    }
}
