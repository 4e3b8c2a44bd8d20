//! `insula stop` and `insula start`: whether an app runs at all.

use insula_wire::rest::app::App;

use crate::context::{Cx, Guess};
use crate::failure::Outcome;
use crate::show::clean;

#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn stop(_args: Args, cx: &Cx) -> Outcome {
    let app = set(cx, "stop").await?;
    cx.terminal.answer(&app, |_| stopped(&app))
}

pub async fn start(_args: Args, cx: &Cx) -> Outcome {
    let app = set(cx, "start").await?;
    cx.terminal.answer(&app, |_| started(&app))
}

fn stopped(app: &App) -> String {
    let answers = if app.url.is_empty() { "" } else { " and answers no more" };
    format!("{} is stopped{answers}; start it again: insula start\n", app.name)
}

fn started(app: &App) -> String {
    match (&app.live, app.url.as_str()) {
        (Some(_), "") => format!("{} starts\n", app.name),
        (Some(_), url) => format!("{} starts; it answers at {}\n", app.name, clean::line(url)),
        (None, _) => format!("{} may run, but nothing was deployed yet: insula deploy\n", app.name),
    }
}

async fn set(cx: &Cx, verb: &str) -> Result<App, crate::failure::Failure> {
    cx.require_sign_in()?;
    let app = cx.app(Guess::No).await?;
    Ok(cx.client().act(&cx.of_app(&app, &[verb])).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::apps::tests::app;

    #[test]
    fn only_what_has_a_url_answers() {
        assert_eq!(
            started(&app()),
            "shop starts; it answers at http://shop-w8y0ab.localhost:8080/\n"
        );
        assert!(stopped(&app()).contains("answers no more"));
        let worker = App { url: String::new(), ..app() };
        assert_eq!(started(&worker), "shop starts\n");
        assert_eq!(stopped(&worker), "shop is stopped; start it again: insula start\n");
    }
}
