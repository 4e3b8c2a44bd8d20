//! Why something is as it is: what was decided of it, and what stands in the way.

use insula_model::{AppId, DeploymentId, InstanceId, RunId};
use insula_plan::why;
use insula_store::{Page, deployments as stored, instances, runs};
use insula_wire::rest::why::Why;

use crate::context::{Cx, shown};
use crate::endpoint::{apps, deployments};
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::{Route, VIEWER, read, text};

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/why", "why", VIEWER, explain)
            .live()
            .about("Explains an app, a deployment, an instance or a run")
            .query(&[text("subject", "the id of what is to be explained")])
            .answers::<Why>(200),
    ]
}

async fn explain(cx: Cx) -> Result<Reply, ApiError> {
    let subject: String = cx
        .query("subject")?
        .ok_or_else(|| ApiError::query("subject", "say what is to be explained, by id"))?;
    let org = cx.org_id()?;
    let view = cx.api.state.view.borrow().clone();
    let asked = subject.clone();
    // The store decides what the org may know of; the plan says why.
    let reasons = cx
        .read(move |tx| {
            let (world, plan) = &*view;
            if let Ok(id) = asked.parse::<AppId>() {
                apps::find(tx, org, id)?;
                let newest = stored::list(tx, org, Some(id), &Page::first(1))?.items.pop();
                return Ok(why::app(world, id, newest.as_ref(), plan));
            }
            if let Ok(id) = asked.parse::<DeploymentId>() {
                return Ok(why::deployment(&deployments::find(tx, org, id)?, plan));
            }
            if let Ok(id) = asked.parse::<InstanceId>() {
                let found = instances::get(tx, org, id)?;
                let found = found.ok_or_else(|| ApiError::not_found("instance"))?;
                let mut said = why::instance(world, &found);
                said.extend(why::waits(plan, &asked).map(str::to_owned));
                return Ok(said);
            }
            if let Ok(id) = asked.parse::<RunId>() {
                let found = runs::get(tx, org, id)?.ok_or_else(|| ApiError::not_found("run"))?;
                let state = insula_wire::rest::run::Run::from(&found);
                let mut said = vec![format!("it is {}", state.state)];
                said.extend(state.exit.map(|exit| format!("it ended with {}", exit.message)));
                said.extend(why::waits(plan, &asked).map(str::to_owned));
                return Ok(said);
            }
            Err(ApiError::query(
                "subject",
                "it is not the id of an app, a deployment, an instance or a run",
            ))
        })
        .await?;
    let mut reasons = reasons.into_iter();
    let summary = reasons.next().unwrap_or_else(|| "all is as it should be".into());
    shown(&Why { subject, summary, reasons: reasons.collect(), hint: None })
}
