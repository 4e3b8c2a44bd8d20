//! Variables: plain values, set on a project, an environment or an app.

use insula_model::{VariableName, app};
use insula_store::{Tx, secrets, variables};
use insula_wire::rest::Page;
use insula_wire::rest::config::{ChangeVariables, SetVariable, Variable};
use insula_wire::rest::deployment::Started;

use crate::context::Cx;
use crate::endpoint::config::{self, DEPLOY, Place, paths};
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{DEVELOPER, Route, VIEWER, delete, patch, put, read};
use crate::write::Happened;

pub fn routes() -> Vec<Route> {
    let [project, environment, app] = paths!("variables");
    let group = |paths: config::Paths, names: [&'static str; 4]| {
        vec![
            read(paths.all, names[0], VIEWER, list)
                .about("The variables that are set in this place, by name")
                .answers_page::<Variable>(),
            patch(paths.all, names[1], DEVELOPER, change)
                .about("Sets and unsets several variables at once")
                .conditional()
                .query(&[DEPLOY])
                .takes::<ChangeVariables>()
                .answers::<Started>(200),
            put(paths.one, names[2], DEVELOPER, set)
                .about("Sets a variable")
                .conditional()
                .query(&[DEPLOY])
                .takes::<SetVariable>()
                .answers::<Started>(200),
            delete(paths.one, names[3], DEVELOPER, unset)
                .about("Unsets a variable")
                .conditional()
                .query(&[DEPLOY])
                .answers::<Started>(200),
        ]
    };
    let project = group(
        project,
        [
            "list_project_variables",
            "change_project_variables",
            "set_project_variable",
            "unset_project_variable",
        ],
    );
    let environment = group(
        environment,
        [
            "list_environment_variables",
            "change_environment_variables",
            "set_environment_variable",
            "unset_environment_variable",
        ],
    );
    let app = group(
        app,
        ["list_app_variables", "change_app_variables", "set_app_variable", "unset_app_variable"],
    );
    [project, environment, app].into_iter().flatten().collect()
}

fn document(tx: &Tx, org: insula_model::OrgId, scope: app::ConfigScope) -> Result<Whole, ApiError> {
    let found = variables::list(tx, org, scope)?;
    Whole::ok(&Page::whole(found.iter().map(Variable::from).collect::<Vec<_>>()))
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, place) = (cx.org_id()?, Place::of(&cx)?);
    let whole = cx.read(move |tx| document(tx, org, place.find(tx)?.0)).await?;
    Ok(whole.tagged().into())
}

async fn change(cx: Cx) -> Result<Reply, ApiError> {
    let asked: ChangeVariables = cx.json()?;
    apply(cx, asked).await
}

async fn set(cx: Cx) -> Result<Reply, ApiError> {
    let asked: SetVariable = cx.json()?;
    let name: VariableName = cx.param("name", "variable")?;
    let set = [(name, asked.value)].into();
    apply(cx, ChangeVariables { set, unset: Vec::new() }).await
}

async fn unset(cx: Cx) -> Result<Reply, ApiError> {
    let name: VariableName = cx.param("name", "variable")?;
    apply(cx, ChangeVariables { set: Default::default(), unset: vec![name] }).await
}

async fn apply(cx: Cx, asked: ChangeVariables) -> Result<Reply, ApiError> {
    config::check_variables(&asked.set)?;
    let deploy = cx.flag("deploy")?.unwrap_or(true);
    let (org, place, api) = (cx.org_id()?, Place::of(&cx)?, cx.api.clone());
    let if_match = cx.if_match()?;
    cx.write(move |tx, deed| {
        let (scope, of, app) = place.find(tx)?;
        Cx::unchanged(if_match.as_deref(), &document(tx, org, scope)?)?;
        for name in &asked.unset {
            variables::unset(tx, org, scope, name)?;
        }
        for (name, value) in &asked.set {
            if secrets::get(tx, org, scope, name)?.is_some() {
                return Err(config::taken(name, "secret"));
            }
            let (name, value) = (name.clone(), value.clone());
            variables::set(tx, &app::Variable { org, scope, name, value, updated: deed.now })?;
        }
        let all = variables::list(tx, org, scope)?;
        let bytes = all.iter().map(|one| one.name.as_str().len() + one.value.len()).sum();
        config::check_amount(all.len(), bytes)?;
        let mut said = Vec::new();
        for (word, names) in
            [("set", config::names(asked.set.keys())), ("unset", config::names(asked.unset.iter()))]
        {
            if !names.is_empty() {
                said.push(format!("{word} {names}"));
            }
        }
        deed.tell(
            tx,
            Happened {
                kind: "variables.changed",
                subject: subject(scope),
                app,
                message: format!("variables of {of}: {}", said.join(", ")),
                ..Happened::default()
            },
        )?;
        let started =
            if deploy { config::redeploy(tx, &api, deed, org, scope)? } else { Started::default() };
        Whole::ok(&started)
    })
    .await
}

/// The id of the place.
pub fn subject(scope: app::ConfigScope) -> String {
    match scope {
        app::ConfigScope::Project(id) => id.to_string(),
        app::ConfigScope::Environment(id) => id.to_string(),
        app::ConfigScope::App(id) => id.to_string(),
    }
}
