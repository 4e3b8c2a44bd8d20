//! Plain values, set on a project, an environment or an app; the narrower wins.

use std::collections::BTreeMap;

use insula_model::app::{App, ConfigScope, Variable};
use insula_model::{OrgId, VariableName};

use crate::error::{Kind, StoreError, WriteError};
use crate::sql::{Row, params};
use crate::tx::Tx;

const SELECT: &str = "SELECT org, scope, scope_id, name, value, updated FROM variables";

fn read(row: &mut Row<'_>) -> Result<Variable, StoreError> {
    Ok(Variable {
        org: row.parse()?,
        scope: read_scope(row)?,
        name: row.parse()?,
        value: row.text()?,
        updated: row.time()?,
    })
}

pub(crate) fn scope_parts(scope: ConfigScope) -> (&'static str, String) {
    match scope {
        ConfigScope::Project(id) => ("project", id.to_string()),
        ConfigScope::Environment(id) => ("environment", id.to_string()),
        ConfigScope::App(id) => ("app", id.to_string()),
    }
}

pub(crate) fn read_scope(row: &mut Row<'_>) -> Result<ConfigScope, StoreError> {
    match row.text()?.as_str() {
        "project" => row.parse().map(ConfigScope::Project),
        "environment" => row.parse().map(ConfigScope::Environment),
        "app" => row.parse().map(ConfigScope::App),
        other => Err(row.refuse(format_args!("a scope `{other}`"))),
    }
}

/// Refuses a scope that is not one of the org's.
pub(crate) fn check_scope(tx: &Tx, org: OrgId, scope: ConfigScope) -> Result<(), WriteError> {
    let (found, kind) = match scope {
        ConfigScope::Project(id) => (crate::projects::get(tx, org, id)?.is_some(), Kind::Project),
        ConfigScope::Environment(id) => {
            (crate::environments::get(tx, org, id)?.is_some(), Kind::Environment)
        }
        ConfigScope::App(id) => (crate::apps::get(tx, org, id)?.is_some(), Kind::App),
    };
    if found { Ok(()) } else { Err(WriteError::NotFound { kind }) }
}

/// The scopes that an app sees, the widest first.
pub(crate) fn scopes_of(app: &App) -> [ConfigScope; 3] {
    [
        ConfigScope::Project(app.project),
        ConfigScope::Environment(app.environment),
        ConfigScope::App(app.id),
    ]
}

pub fn set(tx: &mut Tx, variable: &Variable) -> Result<(), WriteError> {
    check_scope(tx, variable.org, variable.scope)?;
    let (scope, id) = scope_parts(variable.scope);
    tx.execute(
        "INSERT INTO variables (org, scope, scope_id, name, value, updated)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (scope_id, name)
         DO UPDATE SET value = excluded.value, updated = excluded.updated",
        params![
            variable.org,
            scope,
            id,
            &variable.name,
            variable.value.as_str(),
            variable.updated,
        ],
    )?;
    Ok(())
}

pub fn unset(
    tx: &mut Tx,
    org: OrgId,
    scope: ConfigScope,
    name: &VariableName,
) -> Result<(), WriteError> {
    let (_, id) = scope_parts(scope);
    let gone = tx.execute(
        "DELETE FROM variables WHERE org = ?1 AND scope_id = ?2 AND name = ?3",
        params![org, id, name],
    )?;
    if gone == 0 { Err(WriteError::NotFound { kind: Kind::Variable }) } else { Ok(()) }
}

pub fn get(
    tx: &Tx,
    org: OrgId,
    scope: ConfigScope,
    name: &VariableName,
) -> Result<Option<Variable>, StoreError> {
    let (_, id) = scope_parts(scope);
    tx.find(
        &format!("{SELECT} WHERE org = ?1 AND scope_id = ?2 AND name = ?3"),
        params![org, id, name],
        read,
    )
}

/// What is set on exactly this scope, by name. `VARIABLES_MAX` bounds it, so it has no pages.
pub fn list(tx: &Tx, org: OrgId, scope: ConfigScope) -> Result<Vec<Variable>, StoreError> {
    let (_, id) = scope_parts(scope);
    tx.query(
        &format!("{SELECT} WHERE org = ?1 AND scope_id = ?2 ORDER BY name"),
        params![org, id],
        read,
    )
}

/// What the app sees: of its project, its environment and itself, the narrower winning.
pub fn of_app(tx: &Tx, app: &App) -> Result<BTreeMap<VariableName, Variable>, StoreError> {
    let mut seen = BTreeMap::new();
    for scope in scopes_of(app) {
        seen.extend(list(tx, app.org, scope)?.into_iter().map(|v| (v.name.clone(), v)));
    }
    Ok(seen)
}

pub(crate) fn delete_scope(tx: &mut Tx, scope: ConfigScope) -> Result<(), StoreError> {
    let (_, id) = scope_parts(scope);
    tx.execute("DELETE FROM variables WHERE scope_id = ?1", params![id])?;
    Ok(())
}
