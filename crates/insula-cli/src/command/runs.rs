//! `insula runs`: what was run, and how it ended.

use insula_wire::rest::run::Run;

use super::named;
use crate::context::{Cx, Guess};
use crate::failure::Outcome;
use crate::show::paint::Paint;
use crate::show::{Table, clean, pairs, units};

const LIMIT_DEFAULT: usize = 20;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// `list`, or what to show: an id
    #[arg(num_args = 0..=2, value_name = "RUN")]
    run: Vec<String>,
    /// The newest so many
    #[arg(long, short = 'n', default_value_t = LIMIT_DEFAULT, value_name = "N")]
    limit: usize,
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    if let Some(id) = named(args.run)? {
        let found: Run = cx.client().get(&cx.org(&["runs", &id])).await?;
        return cx.terminal.answer(&found, |paint| show(&found, paint));
    }
    let app = cx.app(Guess::Harmless).await?;
    let all: Vec<Run> = cx.client().some(&cx.of_app(&app, &["runs"]), args.limit).await?;
    cx.terminal.list(&all, "nothing was run; run something: insula run NAME", table)
}

fn command(run: &Run) -> String {
    run.command.as_ref().map_or("-".into(), |command| command.join(" "))
}

fn exit(run: &Run) -> String {
    run.exit.as_ref().map_or("-".into(), |exit| exit.message.clone())
}

fn table(runs: &[Run]) -> Table {
    let now = units::now();
    let mut table = Table::new(&["RUN", "COMPONENT", "STATE", "AGE", "EXIT", "COMMAND"]);
    for one in runs {
        table.row_with_state(
            2,
            [
                one.id.to_string(),
                one.component.to_string(),
                one.state.clone(),
                units::age(one.created, now),
                exit(one),
                command(one),
            ],
        );
    }
    table
}

fn show(run: &Run, paint: Paint) -> String {
    let mut lines = vec![
        ("run", run.id.to_string()),
        ("component", run.component.to_string()),
        ("state", paint.state(&clean::line(&run.state))),
        ("command", clean::line(&command(run)).into_owned()),
        ("exit", clean::line(&exit(run)).into_owned()),
        ("created", run.created.to_string()),
    ];
    if let Some(ended) = run.ended {
        lines.push(("ended", ended.to_string()));
    }
    if let Some(instance) = run.instance {
        lines.push(("output", format!("insula logs --instance {instance}")));
    }
    pairs(&lines, paint)
}
