//! Documents of every schema that was ever written can be read.
//!
//! The files are what schema 1 wrote when it was new, and never change. What is written today may say
//! more, which a reader fills in for an old document; it never says less or something else. Where it
//! must, a schema has to be raised and an upcaster written; the old file stays.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use insula_model::build::{Build, BuildState};
use insula_model::deployment::{Cause, CauseCode, Deployment, DeploymentState, Phase, PhaseMark};
use insula_model::instance::{Instance, Intent, Run, RunState};
use insula_model::observed::Exit;
use insula_model::release::Release;
use insula_model::schema::{Document, decode, encode};
use serde_json::{Value, json};

use crate::model::{Tenant, at, instance_id, node_id, ready};

#[test]
fn documents_of_schema_1_are_read() {
    let tenant = Tenant::of(1);

    let mut cause = Cause::new(CauseCode::Exited, "`web` ended twice before it was ready");
    cause.hint = Some("see its last lines".to_owned());
    cause.component = "web".parse().ok();
    cause.exit = Some(Exit::Code { code: 1 });
    cause.tail = vec!["ModuleNotFoundError: No module named 'flask'".to_owned()];
    let mut deployment = tenant.deployment;
    deployment.release = Some(tenant.release.id);
    deployment.previous = Some(crate::model::release_id(7));
    deployment.phases = vec![
        PhaseMark { phase: Phase::Build, started: at(0), ended: Some(at(900)) },
        PhaseMark { phase: Phase::Start, started: at(900), ended: None },
    ];
    deployment.state = DeploymentState::Failed { cause: Box::new(cause) };
    deployment.warnings = vec!["found port 5000".to_owned()];
    check::<Deployment>(&deployment);

    let mut build = tenant.build;
    build.state = BuildState::Running { node: node_id(1), attempt: 2 };
    check::<Build>(&build);

    check::<Release>(&tenant.release);

    let mut instance = tenant.instance;
    // Instances did not say these when they were first written.
    (instance.pids, instance.disk) = (0, insula_model::Bytes(0));
    instance.intent = Intent::Drain { since: at(5) };
    instance.observed = ready(instance.id, at(6));
    check::<Instance>(&instance);

    let mut run = tenant.run;
    run.command = Some(vec!["python".to_owned(), "clean.py".to_owned()]);
    run.state = RunState::Ended { exit: Exit::OutOfMemory };
    run.instance = Some(instance_id(1));
    run.ended = Some(at(7));
    check::<Run>(&run);
}

fn check<T: Document + PartialEq + Debug>(value: &T) {
    let name = format!("tests/golden/{}.1.json", T::KIND);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&name);
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{name}: {error}; as written now:\n{}", pretty(&encode(value).unwrap()))
    });
    assert_eq!(&decode::<T>(&golden).unwrap(), value, "{name} is read as something else");

    let written = encode(value).unwrap();
    assert_eq!(&decode::<T>(&written).unwrap(), value, "{name} is not read as it is written");
    let [old, new] = [&golden, &written].map(|text| serde_json::from_str(text).unwrap());
    if let Some(lost) = lost(&old, &new) {
        panic!("{name} is written differently at `{lost}`:\n{}", pretty(&written));
    }
}

/// Where the new document says less than the old one, or something else. Lists are compared as a
/// whole, but for what their members gained.
fn lost(old: &Value, new: &Value) -> Option<String> {
    let within = |key: &str, inner: String| format!("{key}.{inner}");
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old.iter().find_map(|(key, old)| {
            let Some(new) = new.get(key) else { return Some(key.clone()) };
            lost(old, new).map(|inner| within(key, inner))
        }),
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            let mut pairs = old.iter().zip(new).enumerate();
            pairs.find_map(|(nth, (old, new))| {
                lost(old, new).map(|inner| within(&nth.to_string(), inner))
            })
        }
        (old, new) if old == new => None,
        (old, new) => Some(format!("{old} became {new}")),
    }
}

#[test]
fn a_document_that_says_less_is_found() {
    let old = json!({"a": 1, "b": {"c": [{"d": null}]}});
    assert_eq!(lost(&old, &json!({"a": 1, "b": {"c": [{"d": null, "new": 1}]}, "new": 2})), None);
    for new in [
        json!({"a": 2, "b": {"c": [{"d": null}]}}),
        json!({"a": 1, "b": {"c": [{}]}}),
        json!({"a": 1, "b": {"c": []}}),
        json!({"b": {"c": [{"d": null}]}}),
    ] {
        assert!(lost(&old, &new).is_some(), "{new}");
    }
}

/// With sorted keys, whatever order they came in.
fn pretty(json: &str) -> String {
    let sorted: BTreeMap<String, Value> = serde_json::from_str(json).unwrap();
    serde_json::to_string_pretty(&sorted).unwrap()
}
