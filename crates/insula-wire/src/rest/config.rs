//! Variables and secrets, of a project, an environment or an app.

use std::collections::BTreeMap;

use insula_model::app::{self, ConfigScope};
use insula_model::{Timestamp, VariableName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::Hidden;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Variable {
    #[schema(value_type = String)]
    pub name: VariableName,
    pub value: String,
    /// `project`, `environment` or `app`.
    pub scope: String,
    #[schema(value_type = String, format = DateTime)]
    pub updated: Timestamp,
}

/// Everything of a secret but its value, which is never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    #[schema(value_type = String)]
    pub name: VariableName,
    /// `project`, `environment` or `app`.
    pub scope: String,
    /// Counts the values it has had.
    pub version: u32,
    #[schema(value_type = String, format = DateTime)]
    pub updated: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetVariable {
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSecret {
    #[schema(value_type = String, format = Password)]
    pub value: Hidden,
}

/// Several at once, so that they start one deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeVariables {
    #[schema(value_type = BTreeMap<String, String>)]
    #[serde(default)]
    pub set: BTreeMap<VariableName, String>,
    #[schema(value_type = Vec<String>)]
    #[serde(default)]
    pub unset: Vec<VariableName>,
}

/// Several at once, so that they start one deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeSecrets {
    #[schema(value_type = BTreeMap<String, String>)]
    #[serde(default)]
    pub set: BTreeMap<VariableName, Hidden>,
    #[schema(value_type = Vec<String>)]
    #[serde(default)]
    pub unset: Vec<VariableName>,
}

fn scope(scope: &ConfigScope) -> String {
    match scope {
        ConfigScope::Project(_) => "project",
        ConfigScope::Environment(_) => "environment",
        ConfigScope::App(_) => "app",
    }
    .into()
}

impl From<&app::Variable> for Variable {
    fn from(variable: &app::Variable) -> Self {
        Self {
            name: variable.name.clone(),
            value: variable.value.clone(),
            scope: scope(&variable.scope),
            updated: variable.updated,
        }
    }
}

impl From<&app::Secret> for Secret {
    fn from(secret: &app::Secret) -> Self {
        Self {
            name: secret.name.clone(),
            scope: scope(&secret.scope),
            version: secret.version,
            updated: secret.updated,
        }
    }
}
