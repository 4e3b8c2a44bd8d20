//! Where an app answers: only what is routed has an address.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::app::Live;
use insula_model::build::Artifact;
use insula_model::deployment::{Deployment, DeploymentState};
use insula_model::release::Release;
use insula_model::spec::{AppSpec, ComponentKind, ComponentSpec};
use insula_model::tenancy::Actor;
use insula_model::{AppId, Bytes, DeploymentId, Digest, ReleaseId, Timestamp};
use insula_store::{WriteError, apps, deployments, orgs, releases};
use serde_json::Value;

use crate::stage::Stage;

/// What the control plane does when a deployment of these components goes live.
async fn goes_live(stage: &Stage, app: &str, deployment: &str, seed: u8, kinds: &[ComponentKind]) {
    let (app, id): (AppId, DeploymentId) = (app.parse().unwrap(), deployment.parse().unwrap());
    let named = kinds.iter().map(|kind| {
        let name = format!("a-{}", kind.as_str()).parse().unwrap();
        (name, ComponentSpec::of_kind(*kind))
    });
    let spec = AppSpec { app: None, components: named.collect() };
    let at = Timestamp::from_millis(1_794_000_000_000);
    let release = ReleaseId::from_parts(at, [seed; 10]);
    let done = stage.store.write(move |tx| {
        let org = orgs::by_name(tx, &"default".parse().unwrap())?.unwrap().id;
        let artifact =
            Artifact { source: Digest::from_sha256([9; 32]), built: None, size: Bytes(5) };
        let number = releases::next_number(tx, org, app)?;
        releases::create(
            tx,
            &Release {
                id: release,
                org,
                app,
                number,
                deployment: id,
                artifact,
                spec: spec.clone(),
                variables: BTreeMap::new(),
                secrets: BTreeSet::new(),
                actor: Actor::Platform,
                created: at,
            },
        )?;
        let before = deployments::get(tx, org, id)?.unwrap();
        let after =
            Deployment { state: DeploymentState::Live, release: Some(release), ..before.clone() };
        deployments::update(tx, &before.state, &after)?;
        apps::set_live(tx, org, app, &Live { release, deployment: id, since: at })
    });
    done.await.map_err(|error: WriteError| error).unwrap();
}

#[tokio::test]
async fn an_app_whose_release_is_not_routed_has_no_url() {
    let stage = Stage::open().await;
    let app = stage.app("default", "shop").await;
    let url = Value::from(format!("http://shop-{}.localhost:8080/", &app[app.len() - 6..]));
    let shown = async |path: String| {
        let answer = stage.get(&stage.operator, &format!("/v1/orgs/default/{path}")).await.ok();
        answer.get("url").cloned()
    };
    let of_app = || shown(format!("apps/{app}"));
    assert_eq!(of_app().await, Some(url.clone()), "where it is going to answer");

    let deploy = async |content: &str| {
        let made = crate::deploy::deploy(&stage, "default", &app, &[("index.html", content)]).await;
        made.ok()
    };
    let first = deploy("one").await;
    assert_eq!(first["url"], url);
    let first = first["id"].as_str().unwrap();
    goes_live(&stage, &app, first, 1, &[ComponentKind::Worker, ComponentKind::Job]).await;
    assert_eq!(of_app().await, None);
    assert_eq!(shown(format!("deployments/{first}")).await, None);

    let second = deploy("two").await;
    assert_eq!(second.get("url"), None, "until its release is cut, as it is");
    let second = second["id"].as_str().unwrap();
    goes_live(&stage, &app, second, 2, &[ComponentKind::Worker, ComponentKind::Service]).await;
    assert_eq!(of_app().await, Some(url.clone()));
    assert_eq!(shown(format!("deployments/{second}")).await, Some(url.clone()));
    assert_eq!(shown(format!("deployments/{first}")).await, None, "of its own release");

    let third = deploy("three").await;
    let third = third["id"].as_str().unwrap();
    goes_live(&stage, &app, third, 3, &[ComponentKind::Service, ComponentKind::Static]).await;
    assert_eq!(of_app().await, None, "two could be meant, so none is routed");
}
