//! Who may do what: every route, by everybody, to what is theirs and what is not.
//!
//! `access.txt` says it by hand, beside the code: a route that is not in it fails, and so does one
//! whose rule was changed in one of the two places only.

use std::collections::BTreeMap;

use insula_model::tenancy::Role;

use crate::scene::Scene;
use crate::stage::{Answer, Stage, With};

const LISTED: &str = include_str!("access.txt");
/// No key at all: who may use the route is told so, and nothing is done.
const POISON: (&str, &str) = ("idempotency-key", "not a key");

/// `GET /v1/orgs` and the word for who may.
fn listed() -> BTreeMap<(String, String), String> {
    let lines = LISTED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [who, method, path] = words[..] else { panic!("not a line of access.txt: {line}") };
            ((method.to_owned(), path.to_owned()), who.to_owned())
        })
        .collect()
}

#[test]
fn every_route_is_listed_by_hand_and_nothing_else_is() {
    let listed: Vec<_> = listed().into_keys().collect();
    let mut routes: Vec<_> = insula_api::routes()
        .iter()
        .map(|route| (route.method.to_string(), route.path.to_owned()))
        .collect();
    routes.sort();
    assert_eq!(routes, listed, "write the new route into tests/it/access.txt");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Anonymous,
    Operator,
    /// A person with a role in the org of the path.
    Person(Role),
    /// A token of that org.
    Machine(Role),
    /// A person with a role in another org.
    Stranger(Role),
    /// A token of another org.
    StrangeMachine(Role),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Allowed,
    NotSignedIn,
    Forbidden,
    NotThere,
}

/// What the words mean, written down a second time and differently.
fn expected(word: &str, who: Who) -> Class {
    let least = match word {
        "viewer" => Some(Role::Viewer),
        "developer" => Some(Role::Developer),
        "admin" => Some(Role::Admin),
        "owner" => Some(Role::Owner),
        _ => None,
    };
    match (word, who) {
        ("public", _) => Class::Allowed,
        (_, Who::Anonymous) => Class::NotSignedIn,
        ("signed-in", _) => Class::Allowed,
        ("person", Who::Person(_) | Who::Stranger(_)) => Class::Allowed,
        ("person", _) => Class::Forbidden,
        (_, Who::Operator) => Class::Allowed,
        ("operator", _) => Class::Forbidden,
        (_, Who::Stranger(_) | Who::StrangeMachine(_)) => Class::NotThere,
        ("operator-of-org", _) => Class::Forbidden,
        (_, Who::Person(role) | Who::Machine(role)) => {
            let least = least.unwrap_or_else(|| panic!("what does `{word}` mean?"));
            if role >= least { Class::Allowed } else { Class::Forbidden }
        }
    }
}

fn class(answer: &Answer) -> Class {
    let is_problem = answer.header("content-type") == Some("application/problem+json");
    let code = if is_problem { answer.code() } else { String::new() };
    match (answer.status, code.as_str()) {
        (401, "unauthenticated") => Class::NotSignedIn,
        (403, "forbidden") => Class::Forbidden,
        (404, "not_found") if answer.json()["detail"] == "there is no such org" => Class::NotThere,
        (401 | 403 | 500.., code) if code != "unavailable" => {
            panic!("{} {}", answer.status, answer.text)
        }
        _ => Class::Allowed,
    }
}

async fn cast(stage: &Stage) -> Vec<(Who, Option<String>)> {
    let mut cast = vec![(Who::Anonymous, None), (Who::Operator, Some(stage.operator.clone()))];
    for role in Role::ALL {
        cast.push((Who::Person(role), Some(stage.person("acme", role).await)));
        cast.push((Who::Machine(role), Some(stage.machine("acme", role).await)));
        cast.push((Who::Stranger(role), Some(stage.person("other", role).await)));
        cast.push((Who::StrangeMachine(role), Some(stage.machine("other", role).await)));
    }
    cast
}

#[tokio::test]
async fn everybody_tries_everything() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    Scene::set(&stage, "other", 101).await;
    let cast = cast(&stage).await;
    let listed = listed();
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for route in insula_api::routes() {
        let word = &listed[&(route.method.to_string(), route.path.to_owned())];
        for (who, token) in &cast {
            let with = With { token: token.clone(), ..With::default() };
            let with = scene.body(&route, with).header(POISON.0, POISON.1);
            let answer = stage.send(route.method.as_str(), &scene.path(&route), with).await;
            let (want, got) = (expected(word, *who), class(&answer));
            if route.repeats() && want == Class::Allowed {
                answer.refused(400, "idempotency_key_invalid");
            }
            if want != got {
                wrong.push(format!("{route:?} by {who:?}: {got:?}, not {want:?}: {}", answer.text));
            }
            tried += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(tried, insula_api::routes().len() * (2 + 4 * 4));
}

#[tokio::test]
async fn an_org_that_is_not_there_and_one_that_is_foreign_look_the_same() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    stage.org("other").await;
    let outsider = stage.machine("other", Role::Owner).await;
    for route in insula_api::routes().iter().filter(|route| route.path.contains("{org}")) {
        let ask = async |org: &str| {
            let path = scene.path_with(route, |name| (name == "org").then(|| org.to_owned()));
            let with = scene.body(route, With::token(&outsider)).header(POISON.0, POISON.1);
            let answer = stage.send(route.method.as_str(), &path, with).await;
            let mut problem = answer.refused(404, "not_found");
            problem["request_id"].take();
            problem
        };
        assert_eq!(ask("acme").await, ask("nobody").await, "{route:?}");
    }
}

/// One tenant asking, in its own org, for another's object by id.
#[tokio::test]
async fn what_belongs_to_another_org_is_not_found_by_its_id() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let foreign = Scene::set(&stage, "other", 101).await;
    let owner = stage.machine("acme", Role::Owner).await;
    let mut tried = 0;
    for route in insula_api::routes().iter().filter(|route| route.path.contains("{org}")) {
        for param in route.path_params().filter(|name| !["org", "name"].contains(name)) {
            let path =
                scene.path_with(route, |name| (name == param).then(|| foreign.ids[name].clone()));
            let with = scene.body(route, With::token(&owner));
            let answer = stage.send(route.method.as_str(), &path, with).await;
            assert_eq!((answer.status, &*answer.code()), (404, "not_found"), "{route:?} {param}");
            tried += 1;
        }
    }
    let path = format!("/v1/orgs/acme/why?subject={}", foreign.ids["deployment"]);
    stage.get(&owner, &path).await.refused(404, "not_found");
    assert!(tried > 40, "{tried}");
    // And nothing of theirs was changed by trying.
    let app = format!("/v1/orgs/other/apps/{}", foreign.ids["app"]);
    assert_eq!(stage.get(&stage.operator, &app).await.ok()["running"], true);
    let id = &foreign.ids["deployment"];
    let deployment = format!("/v1/orgs/other/deployments/{id}");
    assert_eq!(stage.get(&stage.operator, &deployment).await.ok()["state"], "queued");
}

#[tokio::test]
async fn nobody_gives_more_than_they_have() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let admin = stage.person("acme", Role::Admin).await;
    let owner = stage.invite("acme", "boss@acme.example", Role::Owner).await;
    let token = serde_json::json!({ "name": "t", "role": "owner" });
    stage.post(&admin, "/v1/orgs/acme/tokens", &token).await.refused(403, "forbidden");
    let invitation = serde_json::json!({ "email": "x@example.org", "role": "owner" });
    stage.post(&admin, "/v1/orgs/acme/invitations", &invitation).await.refused(403, "forbidden");
    let role = |role: &str| serde_json::json!({ "role": role });
    let extra = format!("/v1/orgs/acme/members/{}", scene.ids["user"]);
    stage.put(&admin, &extra, &role("owner")).await.refused(403, "forbidden");
    let boss = format!("/v1/orgs/acme/members/{owner}");
    stage.put(&admin, &boss, &role("viewer")).await.refused(403, "forbidden");
    stage.delete(&admin, &boss).await.refused(403, "forbidden");
    stage.put(&admin, &extra, &role("admin")).await.ok();
    // The last owner stays, whoever asks.
    stage.put(&stage.operator, &boss, &role("viewer")).await.refused(409, "last_owner");
}

#[tokio::test]
async fn a_role_that_was_taken_away_is_gone_with_the_next_request() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let extra = stage.sign_in("extra@acme.example").await;
    stage.get(&extra, "/v1/orgs/acme").await.ok();
    let path = format!("/v1/orgs/acme/members/{}", scene.ids["user"]);
    stage.delete(&stage.operator, &path).await.ok();
    stage.get(&extra, "/v1/orgs/acme").await.refused(404, "not_found");

    let robot = stage.machine("acme", Role::Viewer).await;
    stage.get(&robot, "/v1/orgs/acme").await.ok();
    let tokens = stage.get(&stage.operator, "/v1/orgs/acme/tokens").await.ok();
    let id = tokens["items"].as_array().unwrap().iter().find(|t| t["name"] == "viewer").unwrap();
    let path = format!("/v1/orgs/acme/tokens/{}", id["id"].as_str().unwrap());
    stage.delete(&stage.operator, &path).await.ok();
    stage.get(&robot, "/v1/orgs/acme").await.refused(401, "unauthenticated");
}
