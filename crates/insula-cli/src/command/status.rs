//! `insula status`: how the installation is, for the operator, and what the org uses, for all.

use insula_wire::rest::org::Usage;
use insula_wire::rest::status::Status;
use serde::Serialize;

use super::orgs::usage_table;
use crate::client::Target;
use crate::context::Cx;
use crate::failure::Outcome;
use crate::show::paint::Paint;
use crate::show::{Table, clean, pairs, units};

#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Serialize)]
struct Shown {
    server: String,
    /// Nothing for who is not the operator.
    installation: Option<Status>,
    org: String,
    usage: Usage,
}

pub async fn run(_args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let installation = match cx.client().get::<Status>(&Target::v1(&["status"])).await {
        Ok(status) => Some(status),
        Err(error) if error.code() == Some("forbidden") => None,
        Err(error) => return Err(error.into()),
    };
    let usage: Usage = cx.client().get(&cx.org(&["usage"])).await?;
    let server = cx.client().server().to_string();
    let shown = Shown { server, installation, org: cx.place.org.clone(), usage };
    cx.terminal.answer(&shown, |paint| render(&shown, paint))
}

fn render(shown: &Shown, paint: Paint) -> String {
    let mut lines = vec![("server", shown.server.clone())];
    if let Some(status) = &shown.installation {
        let mode = if status.development { " (development: no hard limits)" } else { "" };
        lines.extend([
            ("version", format!("{}{mode}", clean::line(&status.version))),
            ("since", status.started.to_string()),
            ("suffix", clean::line(&status.suffix).into_owned()),
            ("orgs", status.orgs.to_string()),
            ("apps", status.apps.to_string()),
            ("nodes", nodes(status)),
            ("gateways", status.gateways.to_string()),
            ("instances", format!("{} of {} ready", status.instances_ready, status.instances)),
            ("deployments", format!("{} under way", status.deployments_open)),
        ]);
    }
    // What is wrong with the server itself stands where nobody overlooks it.
    let failures = shown.installation.iter().flat_map(|status| &status.reconcilers);
    for (name, error) in failures.filter_map(|one| Some((&one.name, one.error.as_ref()?))) {
        lines.push(("WRONG", format!("{}: {}", clean::line(name), clean::line(error))));
    }
    lines.push(("org", clean::line(&shown.org).into_owned()));
    let mut text = pairs(&lines, paint);
    if let Some(status) = &shown.installation {
        for table in [servers(status), reconcilers(status)].into_iter().flatten() {
            text.push_str(&format!("\n{}", table.render(paint, None)));
        }
    }
    format!("{text}\n{}", usage_table(&shown.usage).render(paint, None))
}

/// `3: 2 ready, 1 lost`.
fn nodes(status: &Status) -> String {
    let states = status.nodes_by_state.iter().filter(|(_, n)| **n > 0);
    let states: Vec<String> =
        states.map(|(state, n)| format!("{n} {}", clean::line(state))).collect();
    format!("{}: {}", status.nodes, if states.is_empty() { "-".into() } else { states.join(", ") })
}

/// One server alone needs no table.
fn servers(status: &Status) -> Option<Table> {
    if status.servers.len() < 2 {
        return None;
    }
    let now = units::now();
    let mut table = Table::new(&["SERVER", "ROLE", "FLEET", "SEEN", "VERSION"]);
    for one in &status.servers {
        let role = if one.leads { "leads" } else { "follows" };
        let fleet = one.fleet.clone().unwrap_or_else(|| "-".into());
        let (id, seen) = (one.id.to_string(), units::age(one.seen, now));
        table.row([id, role.into(), fleet, seen, one.version.clone()]);
    }
    Some(table)
}

fn reconcilers(status: &Status) -> Option<Table> {
    if status.reconcilers.is_empty() {
        return None;
    }
    let now = units::now();
    let mut table = Table::new(&["RECONCILER", "LAST", "TOOK", "PASSES", "REPORT"]);
    for one in &status.reconcilers {
        let waits = one.waits.iter().map(|wait| format!("waits: {wait}"));
        let error = one.error.iter().map(|_| "failed: see above".to_owned());
        let said: Vec<String> = error.chain([one.did.clone()]).chain(waits).collect();
        table.row([
            one.name.clone(),
            one.last.map_or_else(|| "-".into(), |at| units::age(at, now)),
            units::measured(one.took_micros / 1_000),
            one.passes.to_string(),
            said.join("; "),
        ]);
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use insula_wire::rest::status::Reconciler;

    use super::*;
    use crate::command::orgs::tests::usage;

    fn installation() -> Status {
        Status {
            version: "0.1.0".into(),
            started: insula_model::Timestamp::from_millis(0),
            development: true,
            suffix: "localhost".into(),
            orgs: 1,
            apps: 2,
            nodes: 1,
            nodes_connected: 1,
            instances: 3,
            instances_ready: 2,
            deployments_open: 0,
            nodes_by_state: [("ready".to_owned(), 1)].into(),
            gateways: 1,
            servers: vec![],
            reconcilers: vec![],
        }
    }

    #[test]
    fn what_is_wrong_with_the_server_itself_is_not_one_cell_of_a_table() {
        let failed = Reconciler {
            name: "clocks".into(),
            passes: 3,
            last: None,
            took_micros: 20,
            did: String::new(),
            waits: vec!["the clock of n1 is away from this server's".into()],
            error: Some("the clock of this server is 3600 s behind: set it right".into()),
        };
        let status = Status { reconcilers: vec![failed], ..installation() };
        let shown = Shown {
            server: "https://cloud.example".into(),
            installation: Some(status),
            org: "acme".into(),
            usage: usage(),
        };
        let text = render(&shown, Paint::PLAIN);
        let line = "WRONG        clocks: the clock of this server is 3600 s behind: set it right\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("failed: see above"), "{text}");
    }

    #[test]
    fn a_member_sees_the_org_and_the_operator_all_of_it() {
        let mut shown = Shown {
            server: "https://cloud.example".into(),
            installation: None,
            org: "acme".into(),
            usage: usage(),
        };
        assert!(
            render(&shown, Paint::PLAIN)
                .starts_with("server  https://cloud.example\norg     acme\n")
        );
        shown.installation = Some(installation());
        expect![[r#"
            server       https://cloud.example
            version      0.1.0 (development: no hard limits)
            since        1970-01-01T00:00:00.000Z
            suffix       localhost
            orgs         1
            apps         2
            nodes        1: 1 ready
            gateways     1
            instances    2 of 3 ready
            deployments  0 under way
            org          acme

            WHAT       USED     QUOTA
            instances  3        50
            memory     768 MiB  8 GiB
            cpu        1.5      4
            builds     0        2
            disk       1.1 MiB  20 GiB
        "#]]
        .assert_eq(&render(&shown, Paint::PLAIN));
    }
}
