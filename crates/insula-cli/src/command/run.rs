//! `insula run`: a job, or a command in a copy of a component; ends with the command's own code.
//!
//! What it writes to stdout and stderr comes out of ours. 125 is ours: the run never began, was
//! lost, or could not be watched.

use std::time::Duration;

use insula_model::ComponentName;
use insula_wire::rest::Page;
use insula_wire::rest::app::App;
use insula_wire::rest::log::LogLine;
use insula_wire::rest::run::{CreateRun, Run};

use super::logs::Reader;
use crate::client::Target;
use crate::context::{Cx, Guess};
use crate::failure::{Exit, Failure, Outcome};
use crate::show::{Terminal, clean};

/// Between looks whether it has ended: short for short commands, longer for long ones.
const LOOK_FIRST: Duration = Duration::from_millis(30);
const LOOK_MAX: Duration = Duration::from_millis(500);
/// Lines that a look at a log that is over brings at most.
const REST_LINES: u32 = 10_000;
/// What `sh` adds to the number of the signal that ended a process.
const SIGNAL_BASE: i32 = 128;
/// SIGKILL, which is what the kernel sends when memory is out.
const OUT_OF_MEMORY: u8 = 137;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job, or the component whose copy runs the command
    name: Option<ComponentName>,
    /// The component whose copy runs the command [default: the only one, or web]
    #[arg(long, value_name = "NAME", conflicts_with = "name")]
    component: Option<ComponentName>,
    /// Return once it is asked for; prints its id
    #[arg(long)]
    detach: bool,
    /// The command and its arguments, after --
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    let detach = args.detach;
    match start_and_watch(args, cx).await {
        // Any other code could be the command's.
        Err(failure) if !detach && !failure.silent && failure.exit != Exit::USAGE => {
            Err(Failure { exit: Exit::RUN_FAILED, ..failure })
        }
        outcome => outcome,
    }
}

async fn start_and_watch(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let command = (!args.command.is_empty()).then_some(args.command);
    let named = args.name.or(args.component);
    if named.is_none() && command.is_none() {
        return Err(Failure::usage("what is to run?")
            .hint("name a job (insula run NAME), or give a command (insula run -- CMD)"));
    }
    let app = cx.app(Guess::No).await?;
    let component = match named {
        Some(component) => component,
        None => usual_component(cx, &app).await?,
    };
    let asked = CreateRun { component, command };
    let run: Run = cx.client().post(&cx.of_app(&app, &["runs"]), &asked).await?;
    if args.detach {
        return cx.terminal.answer(&run, |_| format!("{}\n", run.id));
    }
    tokio::select! {
        outcome = watch(cx, &app, &run) => {
            let run = outcome?;
            if cx.terminal.json {
                cx.terminal.print_json(&run)?;
            }
            tell(&run, &cx.terminal)
        }
        _ = tokio::signal::ctrl_c() => {
            cx.terminal.say(&format!("the run goes on without you: insula runs {}", run.id));
            Ok(Exit::INTERRUPTED)
        }
    }
}

/// Where a command runs if nobody says where: the only component there is, or `web`.
async fn usual_component(cx: &Cx, app: &App) -> Result<ComponentName, Failure> {
    let live = app.live.as_ref().ok_or_else(|| {
        Failure::new(Exit::REFUSED, format!("nothing of {} is live yet", app.name))
            .hint("deploy it: insula deploy")
    })?;
    let target = cx.org(&["releases", &live.release.to_string()]);
    let release: insula_wire::rest::release::Release = cx.client().get(&target).await?;
    let names: Vec<ComponentName> = release.components.into_iter().map(|one| one.name).collect();
    let web = names.iter().find(|name| name.as_str() == "web");
    match (names.as_slice(), web) {
        ([only], _) => Ok(only.clone()),
        (_, Some(web)) => Ok(web.clone()),
        (_, None) => {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            Err(Failure::usage("in a copy of which component?")
                .hint(format!("name one with --component: {}", names.join(", "))))
        }
    }
}

async fn watch(cx: &Cx, app: &App, run: &Run) -> Result<Run, Failure> {
    let target = cx.org(&["runs", &run.id.to_string()]);
    let mut pause = LOOK_FIRST;
    let mut run: Run = run.clone();
    while run.instance.is_none() && !run.done {
        look(cx, &target, &mut run, &mut pause).await?;
    }
    let Some(instance) = run.instance else { return Ok(run) };
    let log = cx.of_app(app, &["logs"]).with("instance", instance);
    let mut reader = Reader::new(log.clone().with("follow", true), None, Some(REST_LINES), false);
    let mut print = |line: &LogLine| print(&cx.terminal, line);
    {
        let mut follow = std::pin::pin!(reader.follow(cx, &mut print));
        let mut followed = true;
        while !run.done {
            tokio::select! {
                // What cannot be followed is read when it is over.
                outcome = &mut follow, if followed => match outcome {
                    Err(failure) if failure.silent => return Err(failure),
                    Ok(()) | Err(_) => followed = false,
                },
                outcome = look(cx, &target, &mut run, &mut pause) => outcome?,
            }
        }
    }
    // What it wrote last may not have come through the stream.
    let rest: Page<LogLine> = cx.client().get(&log.with("tail", REST_LINES)).await?;
    for line in rest.items.iter().filter(|line| reader.is_new(line)) {
        print(line)?;
    }
    Ok(run)
}

async fn look(
    cx: &Cx,
    target: &Target,
    run: &mut Run,
    pause: &mut Duration,
) -> Result<(), Failure> {
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 5 / 4).min(LOOK_MAX);
    *run = cx.client().get(target).await?;
    Ok(())
}

/// What it wrote to stdout goes to ours; as JSON, only the run itself does.
fn print(terminal: &Terminal, line: &LogLine) -> Result<(), Failure> {
    if line.channel == "out" && !terminal.json {
        let paint = terminal.out_paint();
        return match terminal.out_is_terminal() {
            true => terminal.print(&format!("{}\n", clean::log_line(&line.line, paint.is_on()))),
            false => terminal.print(&format!("{}\n", line.line)),
        };
    }
    let paint = terminal.err_paint();
    let text = clean::log_line(&line.line, paint.is_on());
    match line.channel.as_str() {
        "platform" => terminal.say(&paint.cyan(&text)),
        _ => terminal.say(&text),
    }
    Ok(())
}

fn tell(run: &Run, terminal: &Terminal) -> Outcome {
    let (exit, said) = code(run);
    if let Some(said) = said {
        terminal.say(&clean::line(&said));
    }
    Ok(exit)
}

/// The command's own code as a shell would tell it, and what there is to say beside it.
fn code(run: &Run) -> (Exit, Option<String>) {
    let Some(exit) = &run.exit else {
        return (Exit::RUN_FAILED, Some(format!("the run is {}", run.state)));
    };
    match (exit.kind.as_str(), exit.code, exit.signal) {
        // Linux has no others.
        ("code", Some(code), _) => (Exit(u8::try_from(code & 0xff).unwrap_or(1)), None),
        ("signal", _, Some(signal)) => {
            let code = u8::try_from(SIGNAL_BASE + signal).unwrap_or(u8::MAX);
            (Exit(code), Some(exit.message.clone()))
        }
        ("out_of_memory", _, _) => (Exit(OUT_OF_MEMORY), Some(exit.message.clone())),
        _ => (Exit::RUN_FAILED, Some(exit.message.clone())),
    }
}

#[cfg(test)]
mod tests {
    use insula_model::Timestamp;
    use insula_wire::rest::instance::Exit as Ended;

    use super::*;

    fn ended(kind: &str, code: Option<i32>, signal: Option<i32>) -> Run {
        Run {
            id: "run_01j8z3k5v7e6n9q2r4t6w8y0ab".parse().unwrap(),
            app: "app_01j8z3k5v7e6n9q2r4t6w8y0ab".parse().unwrap(),
            component: "web".parse().unwrap(),
            release: "rel_01j8z3k5v7e6n9q2r4t6w8y0ab".parse().unwrap(),
            command: None,
            state: "ended".into(),
            done: true,
            exit: Some(Ended { kind: kind.into(), code, signal, message: kind.into() }),
            instance: None,
            created: Timestamp::from_millis(0),
            ended: None,
        }
    }

    #[test]
    fn the_exit_code_is_the_commands_own() {
        let told = |kind, number, signal| code(&ended(kind, number, signal)).0.0;
        assert_eq!(told("code", Some(0), None), 0);
        assert_eq!(told("code", Some(42), None), 42);
        assert_eq!(told("signal", None, Some(15)), 143);
        assert_eq!(told("out_of_memory", None, None), 137);
        for ours in ["not_started", "lost", "of a newer server"] {
            assert_eq!(told(ours, None, None), 125, "{ours}");
        }
        let cancelled = Run { exit: None, state: "cancelled".into(), ..ended("", None, None) };
        assert_eq!(code(&cancelled).0, Exit::RUN_FAILED);
    }
}
