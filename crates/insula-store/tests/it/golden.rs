//! Documents of every schema that was ever written can be read.
//!
//! The files are what schema 1 wrote. One that must change is the sign that a schema has to be
//! raised and an upcaster written; the old file stays.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use insula_model::build::{Build, BuildState};
use insula_model::deployment::{Cause, CauseCode, Deployment, DeploymentState, Phase, PhaseMark};
use insula_model::instance::{Instance, Intent, Run, RunState};
use insula_model::observed::Exit;
use insula_model::release::Release;
use insula_model::schema::{Document, decode, encode};

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
    assert_eq!(pretty(&encode(value).unwrap()), pretty(&golden), "{name} is written differently");
}

/// With sorted keys, whatever order they came in.
fn pretty(json: &str) -> String {
    let sorted: BTreeMap<String, serde_json::Value> = serde_json::from_str(json).unwrap();
    serde_json::to_string_pretty(&sorted).unwrap()
}
