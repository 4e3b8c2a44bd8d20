//! `insula routes`: which hosts and paths lead to which components, and who answers there now.

use insula_wire::rest::domain::Route;

use crate::context::{Cx, Guess};
use crate::failure::Outcome;
use crate::show::Table;

#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn run(_args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let app = cx.app(Guess::Harmless).await?;
    let all: Vec<Route> = cx.client().whole(&cx.of_app(&app, &["routes"])).await?;
    let nothing = format!("nothing leads to {}; ask why: insula why {}", app.name, app.name);
    cx.terminal.list(&all, &nothing, |all| {
        let mut table = Table::new(&["HOST", "PATH", "COMPONENT", "ENDPOINTS"]);
        for one in all {
            let endpoints = match one.endpoints.as_slice() {
                [] => "none is ready".to_owned(),
                some => some.join(" "),
            };
            table.row([
                one.host.to_string(),
                one.path.clone(),
                one.component.to_string(),
                endpoints,
            ]);
        }
        table
    })
}
