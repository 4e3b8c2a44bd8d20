//! `insula deployments`: moves from one release to the next, and how each ended.

use insula_wire::rest::deployment::Deployment;

use super::named;
use crate::context::{Cx, Guess};
use crate::failure::Outcome;
use crate::show::paint::Paint;
use crate::show::{Table, clean, pairs, units};

const LIMIT_DEFAULT: usize = 20;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// `list`, or what to show: an id
    #[arg(num_args = 0..=2, value_name = "DEPLOYMENT")]
    deployment: Vec<String>,
    /// The newest so many
    #[arg(long, short = 'n', default_value_t = LIMIT_DEFAULT, value_name = "N")]
    limit: usize,
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    if let Some(id) = named(args.deployment)? {
        let found: Deployment = cx.client().get(&cx.org(&["deployments", &id])).await?;
        return cx.terminal.answer(&found, |paint| show(&found, paint));
    }
    let app = cx.app(Guess::Harmless).await?;
    let target = cx.of_app(&app, &["deployments"]);
    let all: Vec<Deployment> = cx.client().some(&target, args.limit).await?;
    let nothing = format!("{} was never deployed; deploy it: insula deploy", app.name);
    cx.terminal.list(&all, &nothing, table)
}

fn took(deployment: &Deployment) -> String {
    let ms: u64 = deployment.phases.iter().filter_map(|phase| phase.took_ms).sum();
    if deployment.done { units::measured(ms) } else { "-".into() }
}

fn note(deployment: &Deployment) -> String {
    match (&deployment.cause, deployment.superseded_by) {
        (Some(cause), _) => cause.message.clone(),
        (None, Some(by)) => format!("by {by}"),
        (None, None) => String::new(),
    }
}

fn table(deployments: &[Deployment]) -> Table {
    let now = units::now();
    let mut table =
        Table::new(&["DEPLOYMENT", "STATE", "RELEASE", "OF", "AGE", "TOOK", "BY", "NOTE"]);
    for one in deployments {
        table.row_with_state(
            1,
            [
                one.id.to_string(),
                one.state.clone(),
                one.number.map_or("-".into(), |number| number.to_string()),
                one.source.kind.clone(),
                units::age(one.created, now),
                took(one),
                one.actor.clone(),
                note(one),
            ],
        );
    }
    table
}

fn show(one: &Deployment, paint: Paint) -> String {
    let mut lines = vec![
        ("deployment", one.id.to_string()),
        ("state", paint.state(&clean::line(&one.state))),
        ("of", clean::line(&one.source.kind).into_owned()),
        ("release", one.number.map_or("-".into(), |number| number.to_string())),
        ("by", clean::line(&one.actor).into_owned()),
        ("created", one.created.to_string()),
        ("trace", clean::line(&one.trace).into_owned()),
    ];
    if !one.url.is_empty() {
        lines.push(("url", clean::line(&one.url).into_owned()));
    }
    for phase in &one.phases {
        let took = phase.took_ms.map_or("not over".into(), units::measured);
        lines.push(("phase", format!("{} {took}", clean::line(&phase.phase))));
    }
    for warning in &one.warnings {
        lines.push(("warning", clean::line(warning).into_owned()));
    }
    if let Some(by) = one.superseded_by {
        lines.push(("superseded by", by.to_string()));
    }
    if let Some(by) = &one.cancelled_by {
        lines.push(("cancelled by", clean::line(by).into_owned()));
    }
    if let Some(cause) = &one.cause {
        lines.push((
            "cause",
            format!("{} ({})", clean::line(&cause.message), clean::line(&cause.code)),
        ));
        if let Some(hint) = &cause.hint {
            lines.push(("hint", clean::line(hint).into_owned()));
        }
        for line in &cause.tail {
            lines.push(("last lines", clean::line(line).into_owned()));
        }
    }
    pairs(&lines, paint)
}
