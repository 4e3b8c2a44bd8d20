//! `insula ps`: the instances of an app, and why those that are not ready are not.

use insula_model::Timestamp;
use insula_wire::rest::Page;
use insula_wire::rest::instance::Instance;
use insula_wire::rest::release::Release;
use std::collections::BTreeMap;

use super::unrouted;
use crate::context::{Cx, Guess};
use crate::failure::Outcome;
use crate::show::{Table, units};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also those that have ended
    #[arg(long)]
    all: bool,
}

/// Releases that are looked up for their numbers: those that could still have instances.
const RELEASES: usize = 50;

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let app = cx.app(Guess::Harmless).await?;
    let mut instances: Vec<Instance> = cx.client().all(&cx.of_app(&app, &["instances"])).await?;
    if !args.all {
        instances.retain(|instance| !matches!(instance.state.as_str(), "absent" | "finished"));
    }
    let nothing = match (&app.live, app.running) {
        (None, _) => format!("nothing of {} is live yet; deploy it: insula deploy", app.name),
        (Some(_), false) => format!("{} is stopped; start it: insula start", app.name),
        (Some(live), true) if instances.is_empty() && !cx.terminal.json => {
            unrouted::no_instances(&app, &unrouted::components(cx, Some(live.release)).await)
        }
        (Some(_), true) => String::new(),
    };
    let numbers = if cx.terminal.json { BTreeMap::new() } else { numbers(cx, &app).await };
    let now = units::now();
    cx.terminal.list(&instances, &nothing, |instances| table(instances, &numbers, now))
}

/// Release numbers are for reading; without them the ids are shown.
async fn numbers(cx: &Cx, app: &insula_wire::rest::app::App) -> BTreeMap<String, String> {
    let target = cx.of_app(app, &["releases"]).with("limit", RELEASES);
    let page: Result<Page<Release>, _> = cx.client().get(&target).await;
    let releases = page.map(|page| page.items).unwrap_or_default();
    releases.iter().map(|one| (one.id.to_string(), one.number.to_string())).collect()
}

/// What is wanted of it counts for an instance that leaves.
fn state(instance: &Instance) -> String {
    match (instance.intent.as_str(), instance.state.as_str()) {
        ("drain", "ready") => "draining".into(),
        ("stop", "ready" | "unready" | "starting") => "stopping".into(),
        (_, state) => state.to_owned(),
    }
}

fn note(instance: &Instance, now: Timestamp) -> String {
    let exit = instance
        .last_exit
        .as_ref()
        .map(|last| format!("{} {} ago", last.exit.message, units::age(last.at, now)));
    let parts = [instance.reason.clone(), exit, instance.warnings.first().cloned()];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn table(instances: &[Instance], numbers: &BTreeMap<String, String>, now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "INSTANCE",
        "COMPONENT",
        "STATE",
        "RELEASE",
        "NODE",
        "AGE",
        "RESTARTS",
        "NOTE",
    ]);
    for instance in instances {
        let release = instance.release.to_string();
        let node = instance.node_name.as_ref();
        table.row_with_state(
            2,
            [
                instance.id.to_string(),
                instance.component.to_string(),
                state(instance),
                numbers.get(&release).cloned().unwrap_or(release),
                node.map_or_else(|| instance.node.to_string(), ToString::to_string),
                units::age(instance.started.unwrap_or(instance.created), now),
                instance.restarts.to_string(),
                note(instance, now),
            ],
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use insula_wire::rest::instance::{Exit, LastExit};

    use super::*;
    use crate::show::paint::Paint;

    fn instance() -> Instance {
        Instance {
            id: "ins_01j8z3k5v7e6n9q2r4t6w8y0ab".parse().unwrap(),
            component: "web".parse().unwrap(),
            kind: "service".into(),
            release: "rel_01j8z3k5v7e6n9q2r4t6w8y0ab".parse().unwrap(),
            deployment: "dep_01j8z3k5v7e6n9q2r4t6w8y0ab".parse().unwrap(),
            run: None,
            node: "node_01j8z3k5v7e6n9q2r4t6w8y0ab".parse().unwrap(),
            node_name: Some("atlas".parse().unwrap()),
            intent: "run".into(),
            state: "ready".into(),
            reason: None,
            endpoint: None,
            restarts: 0,
            last_exit: None,
            cpu_millis: 500,
            memory_bytes: 256 << 20,
            created: Timestamp::from_millis(0),
            started: Some(Timestamp::from_millis(60_000)),
            ready_since: None,
            seen: None,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_crash_is_seen_with_its_exit() {
        let now = Timestamp::from_millis(200_000);
        let crashed = Instance {
            state: "backing off".into(),
            reason: Some("started again at 00:03:25".into()),
            restarts: 4,
            last_exit: Some(LastExit {
                exit: Exit {
                    kind: "code".into(),
                    code: Some(1),
                    signal: None,
                    message: "exited with code 1".into(),
                },
                at: Timestamp::from_millis(195_000),
                tail: vec!["boom".into()],
            }),
            ..instance()
        };
        let leaving = Instance { intent: "drain".into(), ..instance() };
        let numbers = BTreeMap::from([(instance().release.to_string(), "v3".to_owned())]);
        expect![[r#"
            INSTANCE                        COMPONENT  STATE        RELEASE  NODE   AGE    RESTARTS  NOTE
            ins_01j8z3k5v7e6n9q2r4t6w8y0ab  web        ready        v3       atlas  2 min  0
            ins_01j8z3k5v7e6n9q2r4t6w8y0ab  web        backing off  v3       atlas  2 min  4         started again at 00:03:25; exited with code 1 5 s ago
            ins_01j8z3k5v7e6n9q2r4t6w8y0ab  web        draining     v3       atlas  2 min  0
        "#]]
        .assert_eq(&table(&[instance(), crashed, leaving], &numbers, now).render(Paint::PLAIN, None));
    }
}
