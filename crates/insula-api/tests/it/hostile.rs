//! Names that are attacks, in every parameter of every path and in every field of every body:
//! refused, quoted little, never believed.

use serde_json::{Value, json};

use crate::scene::Scene;
use crate::stage::{Stage, With};

fn hostile() -> Vec<String> {
    let mut names: Vec<String> = [
        "",
        " ",
        ".",
        "..",
        "../../etc/passwd",
        "a/b",
        "a\\b",
        "$(touch /tmp/pwned)",
        "`id`",
        "; rm -rf /",
        "a && b",
        "a|b",
        "\"quoted\"",
        "'; DROP TABLE apps; --",
        "%s%n",
        "{app}",
        "<script>alert(1)</script>",
        "a\nb",
        "a\r\nSet-Cookie: x=y",
        "a\0b",
        "\x1b[2J",
        "\u{202e}evil",
        "ünïcödé",
        "𝕒𝕡𝕡",
        "a\u{301}",
        "-rf",
        "--help",
        "xn--80ak6aa92e",
        "null",
        "app_00000000000000000000000000",
        "APP_00000000000000000000000000",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push("x".repeat(8_000));
    names.push("😀".repeat(1_000));
    names
}

/// Every byte escaped, so that it arrives as it is.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Shown to people: no control characters, no markup of ours, and not a page of it.
fn harmless(text: &str, sent: &str) {
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    let problem: Value = serde_json::from_str(text).unwrap();
    for said in [&problem["detail"], &problem["hint"], &problem["errors"][0]["message"]] {
        let said = said.as_str().unwrap_or_default();
        assert!(!said.chars().any(char::is_control), "{said:?}");
        assert!(said.chars().count() < 500, "{} characters", said.chars().count());
        assert!(sent.chars().count() < 200 || !said.contains(sent));
    }
}

#[tokio::test]
async fn in_paths_they_name_nothing() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let hostile = hostile();
    let mut tried = 0;
    for route in insula_api::routes() {
        for param in route.path_params() {
            for name in hostile.iter().filter(|name| !name.is_empty()) {
                // These two are whole variable names; that a variable of the name `null` can be
                // set is right.
                if param == "name" && ["null"].contains(&name.as_str()) {
                    continue;
                }
                let path = scene.path_with(&route, |p| (p == param).then(|| escaped(name)));
                let with = scene.body(&route, With::token(&stage.operator));
                let answer = stage.send(route.method.as_str(), &path, with).await;
                let status = answer.status;
                if param == "name" && name.starts_with("app_") || name.starts_with("APP_") {
                    assert!(status < 500, "{route:?} {param}={name:?}");
                    continue;
                }
                assert!([400, 404, 429].contains(&status), "{route:?} {param}={name:?}: {status}");
                harmless(&answer.text, name);
                tried += 1;
            }
            // The rate is not what is tried here.
            stage.clock.set_ms(insula_kit::clock::Clock::now_ms(&stage.clock) + 60_000);
        }
    }
    assert!(tried > 3_000, "{tried}");
    assert!(!std::path::Path::new("/tmp/pwned").exists());
}

#[tokio::test]
async fn in_bodies_they_are_refused_or_only_values() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let hostile = hostile();
    for route in insula_api::routes() {
        let example = scene.body(&route, With::default());
        let Ok(Value::Object(body)) = serde_json::from_slice(&example.body) else { continue };
        for field in body.keys() {
            for name in &hostile {
                // A value may be any text that a process's environment can hold.
                let free = ["value", "password", "current", "secret"].contains(&field.as_str());
                // A zone that is empty is none.
                let none = route.name == "set_node_site" && name.is_empty();
                if free || none || (route.name == "create_token" && name == "null") {
                    continue;
                }
                let mut wrong = body.clone();
                wrong[field] = json!(name);
                let with = With::token(&stage.operator).json(&Value::Object(wrong));
                let answer = stage.send(route.method.as_str(), &scene.path(&route), with).await;
                if name == "null" && answer.status < 300 {
                    // It is a good name for a project or an app.
                    continue;
                }
                assert!(
                    (400..500).contains(&answer.status),
                    "{route:?} {field}={name:?}: {} {}",
                    answer.status,
                    answer.text
                );
                harmless(&answer.text, name);
            }
            stage.clock.set_ms(insula_kit::clock::Clock::now_ms(&stage.clock) + 60_000);
        }
    }
}

#[tokio::test]
async fn in_queries_and_headers_they_are_refused_or_only_text() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    for route in insula_api::routes().iter().filter(|route| route.method == "GET") {
        for param in &route.query {
            for name in hostile().iter().filter(|name| name.len() < 5_000) {
                let path = scene.path(route);
                let path = path.split('?').next().unwrap();
                let path = format!("{path}?{}={}", param.name, escaped(name));
                let answer = stage.get(&stage.operator, &path).await;
                let known = [200, 400, 404, 503].contains(&answer.status);
                assert!(known, "{route:?} {}={name:?}: {}", param.name, answer.status);
                if answer.status != 200 {
                    harmless(&answer.text, name);
                }
            }
        }
        stage.clock.set_ms(insula_kit::clock::Clock::now_ms(&stage.clock) + 60_000);
    }
    for name in ["traceparent", "x-request-id", "if-match", "accept", "last-event-id"] {
        for value in ["", "\"", "00-x", &"y".repeat(10_000), "a; DROP TABLE"] {
            let with = With::token(&stage.operator).header(name, value);
            let answer = stage.send("GET", "/v1/orgs/acme/events?limit=1", with).await;
            assert_eq!(answer.status, 200, "{name}: {value}");
        }
    }
}

#[tokio::test]
async fn hosts_of_the_platform_and_of_others_are_not_given_away() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    stage.org("other").await;
    let other = stage.app("other", "shop").await;
    let add = async |org: &str, app: &str, host: &str| {
        let path = format!("/v1/orgs/{org}/apps/{app}/domains");
        stage.post(&stage.operator, &path, &json!({ "host": host })).await
    };
    let app = &scene.ids["app"];
    for host in ["localhost", "shop.localhost", "api.localhost", "intranet"] {
        add("acme", app, host).await.refused(422, "invalid_field");
    }
    for host in ["127.0.0.1", "*.example.org", "Example.org", "a..b", "-a.example.org"] {
        add("acme", app, host).await.refused(422, "invalid_field");
    }
    let refused = add("other", &other, "acme.example.org").await.refused(409, "name_taken");
    let stranger = "a host is never handed to another org, even after it was removed";
    assert_eq!(refused["hint"], stranger);
    assert!(!refused.to_string().contains("shop"), "another org's app is not named: {refused}");
    let blog = stage.app("acme", "blog").await;
    let refused = add("acme", &blog, "acme.example.org").await.refused(409, "name_taken");
    assert_eq!(refused["detail"], "acme.example.org leads to `shop` already");
    let way = "to move it, first `insula domains remove acme.example.org --app shop`";
    assert_eq!(refused["hint"], way);
    // Given back, it still is not another org's.
    let path = format!("/v1/orgs/acme/domains/{}", scene.ids["domain"]);
    stage.delete(&stage.operator, &path).await.ok();
    add("other", &other, "acme.example.org").await.refused(409, "name_taken");
    add("acme", app, "acme.example.org").await.ok();
}
