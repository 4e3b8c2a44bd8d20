//! The description of the API is made of the routes, so what is asked here is whether it is whole.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::stage::Stage;

/// Every reference in the document, wherever it stands.
fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(to)) = map.get("$ref") {
                found.insert(to);
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn it_is_the_same_each_time_and_every_reference_leads_somewhere() {
    let document = insula_api::openapi();
    assert_eq!(document.to_string(), insula_api::openapi().to_string());
    assert_eq!(document["openapi"], "3.1.0");
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 40, "{}", found.len());
    for to in found {
        let at = to.strip_prefix('#').unwrap();
        assert!(document.pointer(at).is_some(), "{to} leads nowhere");
    }
}

#[test]
fn every_route_is_named_once_and_described() {
    let routes = insula_api::routes();
    let names: BTreeSet<_> = routes.iter().map(|route| route.name).collect();
    assert_eq!(names.len(), routes.len(), "two routes have one name");
    for route in &routes {
        assert!(!route.summary.is_empty(), "{route:?}");
        assert!(!route.answers.is_empty(), "{route:?}");
        let org_first = !route.path.contains("{org}") || route.path.starts_with("/v1/orgs/{org}");
        assert!(org_first, "{route:?} hides its org");
    }
}

#[tokio::test]
async fn it_is_served_to_everybody() {
    let stage = Stage::open().await;
    let served = stage.send("GET", "/openapi.json", crate::stage::With::default()).await.ok();
    assert_eq!(served, insula_api::openapi());
}
