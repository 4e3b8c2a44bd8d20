//! `insula releases`: what was cut, and what one can go back to.

use insula_wire::rest::release::Release;

use super::{named, release_number};
use crate::context::{Cx, Guess};
use crate::failure::{Failure, Outcome};
use crate::show::paint::Paint;
use crate::show::{Table, clean, pairs, units};

const LIMIT_DEFAULT: usize = 20;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// `list`, or what to show: v3, or its id
    #[arg(num_args = 0..=2, value_name = "RELEASE")]
    release: Vec<String>,
    /// The newest so many
    #[arg(long, short = 'n', default_value_t = LIMIT_DEFAULT, value_name = "N")]
    limit: usize,
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    if let Some(named) = named(args.release)? {
        let release = find(cx, &named).await?;
        return cx.terminal.answer(&release, |paint| show(&release, paint));
    }
    let app = cx.app(Guess::Harmless).await?;
    let target = cx.of_app(&app, &["releases"]);
    let all: Vec<Release> = cx.client().some(&target, args.limit).await?;
    let nothing = format!("{} has no release yet; deploy it: insula deploy", app.name);
    cx.terminal.list(&all, &nothing, table)
}

async fn find(cx: &Cx, named: &str) -> Result<Release, Failure> {
    if named.starts_with("rel_") {
        return Ok(cx.client().get(&cx.org(&["releases", named])).await?);
    }
    let number = release_number(named).map_err(Failure::usage)?;
    let app = cx.app(Guess::Harmless).await?;
    let all: Vec<Release> = cx.client().all(&cx.of_app(&app, &["releases"])).await?;
    all.into_iter().find(|release| release.number == number).ok_or_else(|| {
        Failure::not_found(format!("{} has no release {number}", app.name)).hint("insula releases")
    })
}

fn state(release: &Release) -> &'static str {
    match (release.live, release.kept) {
        (true, _) => "live",
        (false, true) => "kept",
        (false, false) => "gone",
    }
}

fn table(releases: &[Release]) -> Table {
    let now = units::now();
    let mut table = Table::new(&["RELEASE", "STATE", "AGE", "SIZE", "BY", "COMPONENTS"]);
    for release in releases {
        let components: Vec<_> =
            release.components.iter().map(|one| format!("{} ({})", one.name, one.kind)).collect();
        table.row_with_state(
            1,
            [
                release.number.to_string(),
                state(release).into(),
                units::age(release.created, now),
                units::size(release.size_bytes),
                release.actor.clone(),
                components.join(", "),
            ],
        );
    }
    table
}

fn show(release: &Release, paint: Paint) -> String {
    let mut lines = vec![
        ("release", release.number.to_string()),
        ("id", release.id.to_string()),
        ("state", paint.state(state(release))),
        ("deployment", release.deployment.to_string()),
        ("created", release.created.to_string()),
        ("by", clean::line(&release.actor).into_owned()),
        ("size", units::size(release.size_bytes)),
    ];
    for one in &release.components {
        let run = one.run.as_deref().unwrap_or("serves files");
        let text = format!(
            "{} {} ({}) x{}: {}",
            one.name,
            clean::line(&one.kind),
            clean::line(&one.runtime),
            one.instances,
            clean::line(run)
        );
        lines.push(("component", text));
    }
    for (name, value) in &release.variables {
        lines.push(("variable", format!("{name}={}", clean::line(value))));
    }
    for name in &release.secrets {
        lines.push(("secret", name.to_string()));
    }
    pairs(&lines, paint)
}
