//! Secrets: values that go in and are never shown again.

use std::sync::Arc;

use insula_model::VariableName;
use insula_store::{secrets as rows, variables as plain};
use insula_vault::NewSecret;
use insula_wire::rest::Page;
use insula_wire::rest::config::{ChangeSecrets, Secret, SetSecret};
use insula_wire::rest::deployment::Started;

use crate::context::Cx;
use crate::endpoint::config::{self, DEPLOY, Place, paths};
use crate::endpoint::variables::subject;
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{DEVELOPER, Route, VIEWER, delete, patch, put, read};
use crate::write::Happened;

pub fn routes() -> Vec<Route> {
    let [project, environment, app] = paths!("secrets");
    let group = |paths: config::Paths, names: [&'static str; 4]| {
        vec![
            read(paths.all, names[0], VIEWER, list)
                .about("The secrets that are set in this place, without their values")
                .answers_page::<Secret>(),
            patch(paths.all, names[1], DEVELOPER, change)
                .about("Sets and unsets several secrets at once")
                .query(&[DEPLOY])
                .takes::<ChangeSecrets>()
                .answers::<Started>(200),
            put(paths.one, names[2], DEVELOPER, set)
                .about("Sets a secret")
                .query(&[DEPLOY])
                .takes::<SetSecret>()
                .answers::<Started>(200),
            delete(paths.one, names[3], DEVELOPER, unset)
                .about("Unsets a secret")
                .query(&[DEPLOY])
                .answers::<Started>(200),
        ]
    };
    let project = group(
        project,
        [
            "list_project_secrets",
            "change_project_secrets",
            "set_project_secret",
            "unset_project_secret",
        ],
    );
    let environment = group(
        environment,
        [
            "list_environment_secrets",
            "change_environment_secrets",
            "set_environment_secret",
            "unset_environment_secret",
        ],
    );
    let app = group(
        app,
        ["list_app_secrets", "change_app_secrets", "set_app_secret", "unset_app_secret"],
    );
    [project, environment, app].into_iter().flatten().collect()
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, place) = (cx.org_id()?, Place::of(&cx)?);
    let whole = cx
        .read(move |tx| {
            let found = rows::list(tx, org, place.find(tx)?.0)?;
            Whole::ok(&Page::whole(found.iter().map(Secret::from).collect::<Vec<_>>()))
        })
        .await?;
    Ok(whole.tagged().into())
}

async fn change(cx: Cx) -> Result<Reply, ApiError> {
    let asked: ChangeSecrets = cx.json()?;
    apply(cx, asked).await
}

async fn set(cx: Cx) -> Result<Reply, ApiError> {
    let asked: SetSecret = cx.json()?;
    let name: VariableName = cx.param("name", "secret")?;
    let set = [(name, asked.value)].into();
    apply(cx, ChangeSecrets { set, unset: Vec::new() }).await
}

async fn unset(cx: Cx) -> Result<Reply, ApiError> {
    let name: VariableName = cx.param("name", "secret")?;
    apply(cx, ChangeSecrets { set: Default::default(), unset: vec![name] }).await
}

async fn apply(cx: Cx, asked: ChangeSecrets) -> Result<Reply, ApiError> {
    for (name, value) in &asked.set {
        config::check_secret(name, &value.0)?;
    }
    let deploy = cx.flag("deploy")?.unwrap_or(true);
    let (org, place, api) = (cx.org_id()?, Place::of(&cx)?, cx.api.clone());
    let master = Arc::clone(&cx.api.state.master);
    cx.write(move |tx, deed| {
        let (scope, of, app) = place.find(tx)?;
        for name in &asked.unset {
            rows::unset(tx, org, scope, name)?;
        }
        for (name, value) in &asked.set {
            if plain::get(tx, org, scope, name)?.is_some() {
                return Err(config::taken(name, "variable"));
            }
            let (value, now) = (value.0.as_str(), deed.now);
            let secret = NewSecret { org, scope, name, value, now };
            insula_vault::set(tx, &master, &*deed.random, secret)?;
        }
        config::check_amount(rows::list(tx, org, scope)?.len(), 0)?;
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
                kind: "secrets.changed",
                subject: subject(scope),
                app,
                message: format!("secrets of {of}: {}", said.join(", ")),
                ..Happened::default()
            },
        )?;
        let started =
            if deploy { config::redeploy(tx, &api, deed, org, scope)? } else { Started::default() };
        Whole::ok(&started)
    })
    .await
}
