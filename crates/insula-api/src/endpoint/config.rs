//! What variables and secrets have in common: where they are set, and what a change starts.

use std::collections::BTreeMap;

use insula_model::app::{App, ConfigScope};
use insula_model::deployment::{Deployment, Source};
use insula_model::limits::{
    PAGE_MAX, VARIABLE_VALUE_LEN_MAX, VARIABLES_MAX, VARIABLES_TOTAL_LEN_MAX,
};
use insula_model::{AppId, OrgId, ReleaseId, VariableName};
use insula_store::{Page, Tx, apps as rows, deployments as deployed};
use insula_wire::problem::{Code, Mistake};
use insula_wire::rest::deployment::Started;

use crate::context::Cx;
use crate::endpoint::{apps, deployments, environments, projects};
use crate::error::ApiError;
use crate::limits;
use crate::route::{Param, flag};
use crate::state::Api;
use crate::write::Deed;

pub const DEPLOY: Param =
    flag("deploy", "whether what is live is deployed anew with it: yes unless told otherwise");

/// Paths of the same thing in three scopes.
pub struct Paths {
    pub all: &'static str,
    pub one: &'static str,
}

macro_rules! paths {
    ($noun:literal) => {
        [
            $crate::endpoint::config::Paths {
                all: concat!("/v1/orgs/{org}/projects/{project}/", $noun),
                one: concat!("/v1/orgs/{org}/projects/{project}/", $noun, "/{name}"),
            },
            $crate::endpoint::config::Paths {
                all: concat!(
                    "/v1/orgs/{org}/projects/{project}/environments/{environment}/",
                    $noun
                ),
                one: concat!(
                    "/v1/orgs/{org}/projects/{project}/environments/{environment}/",
                    $noun,
                    "/{name}"
                ),
            },
            $crate::endpoint::config::Paths {
                all: concat!("/v1/orgs/{org}/apps/{app}/", $noun),
                one: concat!("/v1/orgs/{org}/apps/{app}/", $noun, "/{name}"),
            },
        ]
    };
}
pub(crate) use paths;

/// The scope that a path means, before it is looked up.
#[derive(Debug, Clone)]
pub struct Place {
    org: OrgId,
    params: BTreeMap<String, String>,
}

impl Place {
    pub fn of(cx: &Cx) -> Result<Self, ApiError> {
        Ok(Self { org: cx.org_id()?, params: cx.params.clone() })
    }

    /// The scope, its name for people, and the app if it is one.
    pub fn find(&self, tx: &Tx) -> Result<(ConfigScope, String, Option<AppId>), ApiError> {
        let text = |name: &str| self.params.get(name).map_or("", String::as_str);
        if self.params.contains_key("app") {
            let id: AppId = text("app").parse().map_err(|_| ApiError::not_found("app"))?;
            let app = apps::find(tx, self.org, id)?;
            return Ok((ConfigScope::App(id), format!("the app {}", app.name), Some(id)));
        }
        if self.params.contains_key("environment") {
            let found = environments::find(tx, self.org, text("project"), text("environment"))?;
            let name = format!("the environment {}", found.name);
            return Ok((ConfigScope::Environment(found.id), name, None));
        }
        let found = projects::find(tx, self.org, text("project"))?;
        Ok((ConfigScope::Project(found.id), format!("the project {}", found.name), None))
    }
}

/// Refuses names that the platform gives values itself, and values that no process could get.
pub fn check_values<'a>(
    values: impl Iterator<Item = (&'a VariableName, &'a str)>,
    bytes_max: usize,
) -> Result<(), ApiError> {
    let mut mistakes = Vec::new();
    for (name, value) in values {
        let message = if name.as_str() == "PORT" || name.as_str().starts_with("INSULA_") {
            "the platform sets this one itself".to_owned()
        } else if value.contains('\0') {
            "a value cannot hold a NUL".to_owned()
        } else if value.len() > bytes_max {
            format!("a value has {bytes_max} bytes at most")
        } else {
            continue;
        };
        mistakes.push(Mistake { key: Some(name.to_string()), message, ..Mistake::default() });
    }
    if mistakes.is_empty() {
        return Ok(());
    }
    Err(ApiError::new(Code::InvalidField, "some values cannot be used").mistakes(mistakes))
}

pub fn check_variables(values: &BTreeMap<VariableName, String>) -> Result<(), ApiError> {
    check_values(values.iter().map(|(name, value)| (name, value.as_str())), VARIABLE_VALUE_LEN_MAX)
}

pub fn check_secret(name: &VariableName, value: &str) -> Result<(), ApiError> {
    check_values(std::iter::once((name, value)), limits::SECRET_BYTES_MAX)
}

/// Refuses more than a process's environment can hold.
pub fn check_amount(count: usize, bytes: usize) -> Result<(), ApiError> {
    if count > VARIABLES_MAX {
        return Err(ApiError::new(
            Code::InvalidField,
            format!("{VARIABLES_MAX} at most in one place"),
        ));
    }
    if bytes > VARIABLES_TOTAL_LEN_MAX {
        let text = format!("{VARIABLES_TOTAL_LEN_MAX} bytes together at most in one place");
        return Err(ApiError::new(Code::InvalidField, text));
    }
    Ok(())
}

/// A value is a variable or a secret, not both: which one would win?
pub fn taken(name: &VariableName, by: &str) -> ApiError {
    ApiError::new(Code::Conflict, format!("`{name}` is set as a {by} in the same place"))
        .hint(format!("unset the {by} first"))
}

/// Deploys anew whatever is live within the scope.
pub fn redeploy(
    tx: &mut Tx,
    api: &Api,
    deed: &Deed,
    org: OrgId,
    scope: ConfigScope,
) -> Result<Started, ApiError> {
    let mut started = Started::default();
    for app in within(tx, org, scope)? {
        let under_way = deployed::newest_under_way(tx, org, app.id)?;
        let Some(release) = source_of(&app, under_way.as_ref()) else { continue };
        let source = Source::Reconfigure { release };
        let deployment = deployments::begin(tx, deed, &app, source, Vec::new())?;
        started.deployments.push(deployments::view(tx, api, &deployment)?);
    }
    Ok(started)
}

/// What to make anew. Nothing if nothing is live, or if a deployment under way has not cut its
/// release yet and so will see the change.
fn source_of(app: &App, under_way: Option<&Deployment>) -> Option<ReleaseId> {
    let live = app.live.as_ref().map(|live| live.release);
    match under_way {
        None => live,
        Some(deployment) => match &deployment.source {
            Source::Folder { .. } | Source::Reconfigure { .. } => deployment.release,
            Source::Release { release } => Some(*release),
        },
    }
}

fn within(tx: &Tx, org: OrgId, scope: ConfigScope) -> Result<Vec<App>, ApiError> {
    let filter = match scope {
        ConfigScope::App(id) => return Ok(vec![apps::find(tx, org, id)?]),
        ConfigScope::Environment(id) => {
            rows::Filter { environment: Some(id), ..rows::Filter::default() }
        }
        ConfigScope::Project(id) => rows::Filter { project: Some(id), ..rows::Filter::default() },
    };
    let mut page = Page::first(PAGE_MAX);
    let mut found = Vec::new();
    loop {
        let paged = rows::list(tx, org, &filter, &page)?;
        found.extend(paged.items);
        if found.len() > limits::RECONFIGURED_APPS_MAX {
            let max = limits::RECONFIGURED_APPS_MAX;
            return Err(ApiError::new(
                Code::Conflict,
                format!("more than {max} apps would be deployed anew at once"),
            )
            .hint("use ?deploy=false, and deploy them one by one"));
        }
        match paged.next {
            Some(cursor) => page = Page::after(PAGE_MAX, cursor),
            None => return Ok(found),
        }
    }
}

/// `A, B and 3 more`, for one sentence.
pub fn names<'a>(names: impl Iterator<Item = &'a VariableName>) -> String {
    const TOLD_MAX: usize = 10;
    let all: Vec<&str> = names.map(VariableName::as_str).collect();
    match all.len().checked_sub(TOLD_MAX) {
        None | Some(0) => all.join(", "),
        Some(more) => format!("{} and {more} more", all[..TOLD_MAX].join(", ")),
    }
}
