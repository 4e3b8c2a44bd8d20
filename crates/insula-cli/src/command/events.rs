//! `insula events`: what happened, oldest first; `-f` goes on with what happens.

use std::time::Duration;

use insula_wire::rest::event::{Event, SSE_EVENT};

use crate::client::Target;
use crate::context::Cx;
use crate::failure::{Exit, Failure, Outcome};
use crate::show::clean;
use crate::show::paint::Paint;

const LIMIT_DEFAULT: usize = 50;
/// Before a stream that broke is opened again.
const REOPEN: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on with what happens from now on, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// The newest so many
    #[arg(long, short = 'n', default_value_t = LIMIT_DEFAULT, value_name = "N")]
    limit: usize,
    /// Of the whole installation (the operator)
    #[arg(long)]
    platform: bool,
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let target = if args.platform {
        Target::v1(&["events"])
    } else {
        // An app that the folder names is not what somebody asks about who names none.
        match &cx.global.app {
            Some(named) if !named.is_empty() => {
                cx.org(&["events"]).with("app", cx.app_named(named).await?.id)
            }
            Some(_) | None => cx.org(&["events"]),
        }
    };
    let mut newest: Vec<Event> = cx.client().some(&target, args.limit).await?;
    newest.reverse();
    for event in &newest {
        print(cx, event)?;
    }
    if !args.follow {
        if newest.is_empty() {
            cx.terminal.say("nothing has happened");
        }
        return Ok(Exit::OK);
    }
    tokio::select! {
        outcome = follow(cx, &target) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(Exit::OK),
    }
}

async fn follow(cx: &Cx, target: &Target) -> Outcome {
    let mut after: Option<String> = None;
    loop {
        let target = target.clone().with_some("after", after.as_ref());
        let mut events = cx.client().stream(&target).await?;
        while let Ok(Some(event)) = events.next().await {
            if event.name != SSE_EVENT {
                continue;
            }
            if let Ok(event) = serde_json::from_str::<Event>(&event.data) {
                print(cx, &event)?;
            }
            after = event.id.or(after);
        }
        tokio::time::sleep(REOPEN).await;
    }
}

fn print(cx: &Cx, event: &Event) -> Result<(), Failure> {
    if cx.terminal.json {
        return cx.terminal.print_json_line(event);
    }
    cx.terminal.print(&line(event, cx.terminal.out_paint()))
}

fn line(event: &Event, paint: Paint) -> String {
    let by = event.actor_name.as_ref().unwrap_or(&event.actor);
    format!(
        "{} {} {} {}\n",
        paint.dim(&event.time.to_string()),
        paint.bold(&clean::line(&event.kind)),
        clean::line(&event.message),
        paint.dim(&format!("by {} ({})", clean::line(by), clean::line(&event.subject))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the API answers.
    fn event(actor_name: Option<&str>) -> Event {
        serde_json::from_value(serde_json::json!({
            "id": "evt_01j8z3k5v7e6n9q2r4t6w8y0ab",
            "type": "app.created",
            "version": 1,
            "time": "2026-01-31T12:00:00.000Z",
            "actor": "user_01j8z3k5v7e6n9q2r4t6w8y0ab",
            "actor_name": actor_name,
            "subject": "app_01j8z3k5v7e6n9q2r4t6w8y0ab",
            "message": "shop: made\u{7}",
        }))
        .unwrap()
    }

    #[test]
    fn who_did_it_is_told_by_name_where_there_is_one() {
        let told = line(&event(Some("ada@example.com\u{1b}[2J")), Paint::PLAIN);
        assert_eq!(
            told,
            "2026-01-31T12:00:00.000Z app.created shop: made\u{fffd} by ada@example.com\u{fffd}[2J \
             (app_01j8z3k5v7e6n9q2r4t6w8y0ab)\n"
        );
        let told = line(&event(None), Paint::PLAIN);
        assert!(told.contains("by user_01j8z3k5v7e6n9q2r4t6w8y0ab"), "{told}");
    }
}
