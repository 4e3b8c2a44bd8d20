//! What an org and a project begin with, and that it does not stand in the way of their end.

use serde_json::json;

use crate::stage::Stage;

/// The types of all events of the org, the oldest first.
async fn told(stage: &Stage, org: &str) -> Vec<String> {
    let path = format!("/v1/orgs/{org}/events?after=0");
    let events = stage.get(&stage.operator, &path).await.ok();
    let types = events["items"].as_array().unwrap().iter();
    types.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_new_org_can_be_deployed_to_at_once() {
    let stage = Stage::open().await;
    stage.make("/v1/orgs", &json!({ "name": "acme" })).await;
    let made = ["org.created", "project.created", "environment.created"];
    assert_eq!(told(&stage, "acme").await, made);
    let app = stage.app("acme", "shop").await;
    crate::deploy::deploy(&stage, "acme", &app, &[("index.html", "hello")]).await.ok();
}

#[tokio::test]
async fn a_new_project_has_an_environment() {
    let stage = Stage::open().await;
    let project = stage.make("/v1/orgs/default/projects", &json!({ "name": "web" })).await;
    assert_eq!(project["name"], "web");
    let body = json!({ "name": "shop", "project": "web", "environment": "production" });
    stage.make("/v1/orgs/default/apps", &body).await;
    assert_eq!(told(&stage, "default").await[..2], ["project.created", "environment.created"]);
}

#[tokio::test]
async fn a_refused_org_or_project_leaves_nothing_behind() {
    let stage = Stage::open().await;
    let before = told(&stage, "default").await;
    let names = [("/v1/orgs", "default"), ("/v1/orgs/default/projects", "default")];
    for (path, name) in names {
        let answer = stage.post(&stage.operator, path, &json!({ "name": name })).await;
        answer.refused(409, "name_taken");
    }
    assert_eq!(told(&stage, "default").await, before);
}

#[tokio::test]
async fn what_holds_no_app_is_ended_with_its_environments() {
    let stage = Stage::open().await;
    let delete = async |path: &str| stage.delete(&stage.operator, path).await;
    let look = async |path: &str| stage.get(&stage.operator, path).await;

    stage.make("/v1/orgs", &json!({ "name": "fresh" })).await;
    delete("/v1/orgs/fresh").await.ok();
    let gone = look("/v1/orgs/fresh").await.refused(404, "not_found");
    assert_eq!(gone["hint"], "`insula whoami` says which orgs you are in");
    let again = stage.post(&stage.operator, "/v1/orgs", &json!({ "name": "fresh" })).await;
    let again = again.refused(409, "name_taken");
    assert_eq!(again["detail"], "`fresh` was the name of an org that has ended");
    let taken = stage.post(&stage.operator, "/v1/orgs", &json!({ "name": "default" })).await;
    assert_eq!(taken.json()["detail"], "the name `default` is taken by another org");

    stage.org("acme").await;
    let (mine, spared) = ("/v1/orgs/acme/projects/web", "/v1/orgs/acme/projects/default");
    stage.make("/v1/orgs/acme/projects", &json!({ "name": "web" })).await;
    stage.make(&format!("{mine}/environments"), &json!({ "name": "staging" })).await;
    let body = json!({ "name": "shop", "project": "web", "environment": "staging" });
    let app = stage.make("/v1/orgs/acme/apps", &body).await;
    let refused = delete(mine).await.refused(409, "not_empty");
    assert_eq!(refused["detail"], "the project still has apps");
    let kept = look(&format!("{mine}/environments")).await.ok();
    assert_eq!(kept["items"].as_array().unwrap().len(), 2, "a refusal deletes nothing");
    delete("/v1/orgs/acme").await.refused(409, "not_empty");

    delete(&format!("/v1/orgs/acme/apps/{}", app["id"].as_str().unwrap())).await.ok();
    delete(mine).await.ok();
    let gone = look(mine).await.refused(404, "not_found");
    assert_eq!(gone["hint"], "`insula projects` shows those that there are");
    let gone = look(&format!("{spared}/environments/none")).await.refused(404, "not_found");
    assert_eq!(gone["hint"], "`insula envs` shows those that there are");
    look(&format!("{spared}/environments/production")).await.ok();
}
