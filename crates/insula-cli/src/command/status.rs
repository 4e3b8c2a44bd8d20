//! `insula status`: how the installation is, for the operator, and what the org uses, for all.

use insula_wire::rest::org::Usage;
use insula_wire::rest::status::Status;
use serde::Serialize;

use super::orgs::usage_table;
use crate::client::Target;
use crate::context::Cx;
use crate::failure::Outcome;
use crate::show::paint::Paint;
use crate::show::{clean, pairs};

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
            ("nodes", format!("{} of {} connected", status.nodes_connected, status.nodes)),
            ("instances", format!("{} of {} ready", status.instances_ready, status.instances)),
            ("deployments", format!("{} under way", status.deployments_open)),
        ]);
    }
    lines.push(("org", clean::line(&shown.org).into_owned()));
    format!("{}\n{}", pairs(&lines, paint), usage_table(&shown.usage).render(paint, None))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::command::orgs::tests::usage;

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
        shown.installation = Some(Status {
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
        });
        expect![[r#"
            server       https://cloud.example
            version      0.1.0 (development: no hard limits)
            since        1970-01-01T00:00:00.000Z
            suffix       localhost
            orgs         1
            apps         2
            nodes        1 of 1 connected
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
