//! `insula stop` and `insula start`: whether an app runs at all.

use insula_wire::rest::app::App;

use crate::context::{Cx, Guess};
use crate::failure::Outcome;
use crate::show::clean;

#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn stop(_args: Args, cx: &Cx) -> Outcome {
    let app = set(cx, "stop").await?;
    cx.terminal.answer(&app, |_| {
        format!("{} is stopped and answers no more; start it again: insula start\n", app.name)
    })
}

pub async fn start(_args: Args, cx: &Cx) -> Outcome {
    let app = set(cx, "start").await?;
    cx.terminal.answer(&app, |_| match &app.live {
        Some(_) => format!("{} starts; it answers at {}\n", app.name, clean::line(&app.url)),
        None => format!("{} may run, but nothing was deployed yet: insula deploy\n", app.name),
    })
}

async fn set(cx: &Cx, verb: &str) -> Result<App, crate::failure::Failure> {
    cx.require_sign_in()?;
    let app = cx.app(Guess::No).await?;
    Ok(cx.client().act(&cx.of_app(&app, &[verb])).await?)
}
