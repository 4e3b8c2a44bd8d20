//! `insula logs`: what instances wrote, now or as it comes.
//!
//! On a terminal a line has its time and its component before it, and nothing in it that drives the
//! terminal. Piped, a line is what the app wrote and nothing else, so that grep and jq see the same
//! as the app.

use std::collections::HashMap;
use std::time::Duration;

use insula_model::{ComponentName, Timestamp};
use insula_wire::rest::Page;
use insula_wire::rest::app::App;
use insula_wire::rest::deployment::Deployment;
use insula_wire::rest::log::{LogLine, SSE_LOG};

use super::unrouted;
use crate::client::Target;
use crate::context::{Cx, Guess};
use crate::failure::{Exit, Failure, Outcome};
use crate::show::{clean, units};
use crate::when;

/// Before a stream that broke is opened again.
const REOPEN: Duration = Duration::from_millis(500);
/// Lines to begin with when following: what is on a screen or two.
const FOLLOW_TAIL: u32 = 50;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only what was written since: a span (10m, 2h, 1d) or a time (2026-01-31T12:00:00Z)
    #[arg(long, value_parser = when::parse_past, value_name = "WHEN")]
    since: Option<Timestamp>,
    /// Only lines of this component
    #[arg(long, value_name = "NAME")]
    component: Option<ComponentName>,
    /// Only lines of this instance
    #[arg(long, value_name = "ID")]
    instance: Option<insula_model::InstanceId>,
    /// The last so many lines
    #[arg(long, short = 'n', value_name = "N")]
    tail: Option<u32>,
    /// Only lines that hold this text
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// What a build wrote instead: the last one, or that of a deployment
    #[arg(long, value_name = "DEPLOYMENT", num_args = 0..=1, default_missing_value = "")]
    build: Option<String>,
    /// Show the time of each line, also where stdout is no terminal
    #[arg(long, short)]
    timestamps: bool,
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let app = cx.app(Guess::Harmless).await?;
    let target = match &args.build {
        None => cx
            .of_app(&app, &["logs"])
            .with_some("component", args.component.as_ref())
            .with_some("instance", args.instance.as_ref()),
        Some(deployment) => of_build(cx, &app, deployment).await?,
    };
    let target = target.with_some("grep", args.grep.as_ref());
    if let (Some(component), true, true) = (&args.component, args.follow, args.build.is_none()) {
        // What is followed may be an earlier release's, as long as there is something of it.
        let any: Page<LogLine> = cx.client().get(&target.clone().with("tail", 1)).await?;
        if any.items.is_empty() {
            check_component(cx, &app, component).await?;
        }
    }
    if !args.follow {
        let target = target.with_some("since", args.since).with_some("tail", args.tail);
        let page: Page<LogLine> = cx.client().get(&target).await?;
        for line in &page.items {
            print(cx, line, args.timestamps)?;
        }
        if page.items.is_empty() {
            if let (Some(component), None) = (&args.component, &args.build) {
                check_component(cx, &app, component).await?;
            }
            cx.terminal.say("nothing was written");
        }
        return Ok(Exit::OK);
    }
    let tail = args.tail.or(args.since.is_none().then_some(FOLLOW_TAIL));
    let ends = args.build.is_some();
    let mut reader = Reader::new(target.with("follow", true), args.since, tail, ends);
    tokio::select! {
        outcome = reader.follow(cx, |line| print(cx, line, args.timestamps)) => {
            outcome?;
            Ok(Exit::OK)
        }
        _ = tokio::signal::ctrl_c() => Ok(Exit::OK),
    }
}

/// A name that no component has is a slip of the fingers, and not a component that is silent.
async fn check_component(cx: &Cx, app: &App, named: &ComponentName) -> Result<(), Failure> {
    let release = app.live.as_ref().map(|live| live.release);
    let components = unrouted::components(cx, release).await;
    let names: Vec<ComponentName> = components.into_iter().map(|one| one.name).collect();
    no_such_component(app, named, &names).map_or(Ok(()), Err)
}

/// Where no component is known, none can be said to be missing.
fn no_such_component(app: &App, named: &ComponentName, all: &[ComponentName]) -> Option<Failure> {
    if all.is_empty() || all.contains(named) {
        return None;
    }
    let names: Vec<_> = all.iter().map(ToString::to_string).collect();
    let failure = Failure::usage(format!("{} has no component `{named}`", app.name));
    Some(failure.hint(format!("there are: {}", names.join(", "))))
}

async fn of_build(cx: &Cx, app: &App, deployment: &str) -> Result<Target, Failure> {
    let found: Option<Deployment> = if deployment.is_empty() {
        let all: Vec<Deployment> = cx.client().some(&cx.of_app(app, &["deployments"]), 20).await?;
        all.into_iter().find(|one| one.build.is_some())
    } else {
        Some(cx.client().get(&cx.org(&["deployments", deployment])).await?)
    };
    match found.and_then(|found| found.build) {
        Some(build) => Ok(cx.org(&["builds", &build.to_string(), "log"])),
        None => Err(Failure::not_found("nothing was built for it")),
    }
}

/// A log that is followed across broken connections: no line twice, none left out that is kept.
pub struct Reader {
    target: Target,
    since: Option<Timestamp>,
    tail: Option<u32>,
    /// Whether the log is over when the server says so. That of an app never is: only the nodes
    /// that wrote it have gone for a moment.
    ends: bool,
    /// The last line of each instance.
    seen: HashMap<String, u64>,
}

impl Reader {
    pub fn new(target: Target, since: Option<Timestamp>, tail: Option<u32>, ends: bool) -> Self {
        Self { target, since, tail, ends, seen: HashMap::new() }
    }

    /// Until the server says that there is no more.
    pub async fn follow(
        &mut self,
        cx: &Cx,
        mut take: impl FnMut(&LogLine) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            let target =
                self.target.clone().with_some("since", self.since).with_some("tail", self.tail);
            let mut events = cx.client().stream(&target).await?;
            loop {
                match events.next().await {
                    Ok(Some(event)) if event.name == SSE_LOG => {
                        let Ok(line) = serde_json::from_str::<LogLine>(&event.data) else {
                            continue;
                        };
                        if self.is_new(&line) {
                            take(&line)?;
                        }
                    }
                    Ok(Some(_)) if self.ends => return Ok(()),
                    // The server or a node restarts, or the line broke: go on from where it was.
                    Ok(_) | Err(_) => break,
                }
            }
            tokio::time::sleep(REOPEN).await;
            if !self.seen.is_empty() {
                self.tail = Some(RESUME_TAIL);
            }
        }
    }

    /// Whether this line was not told yet.
    pub fn is_new(&mut self, line: &LogLine) -> bool {
        if self.seen.get(&line.instance).is_some_and(|last| *last >= line.sequence) {
            return false;
        }
        self.seen.insert(line.instance.clone(), line.sequence);
        self.since = self.since.max(Some(line.at));
        true
    }
}

/// Lines between a break and now that are asked for again.
const RESUME_TAIL: u32 = 10_000;

pub fn print(cx: &Cx, line: &LogLine, timestamps: bool) -> Result<(), Failure> {
    let terminal = &cx.terminal;
    if terminal.json {
        return terminal.print_json_line(line);
    }
    if !terminal.out_is_terminal() {
        let time = if timestamps { format!("{} ", line.at) } else { String::new() };
        return terminal.print(&format!("{time}{}\n", line.line));
    }
    terminal.print(&shown(line, terminal.out_paint()))
}

/// As on a terminal.
fn shown(line: &LogLine, paint: crate::show::paint::Paint) -> String {
    let time = units::clock(line.at);
    let short = line.instance.get(line.instance.len().saturating_sub(4)..).unwrap_or_default();
    let from = format!("{}.{}", line.component, short);
    let text = clean::log_line(&line.line, paint.is_on());
    let text = match line.channel.as_str() {
        "platform" => paint.cyan(&text),
        _ => text.into_owned(),
    };
    format!("{} {} {text}\n", paint.dim(&time), paint.green(&clean::line(&from)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::paint::Paint;

    fn line(instance: &str, sequence: u64, at: i64) -> LogLine {
        LogLine {
            at: Timestamp::from_millis(at),
            instance: instance.into(),
            component: "web".into(),
            channel: "out".into(),
            line: "hello\u{1b}]0;x\u{7}".into(),
            sequence,
        }
    }

    #[test]
    fn a_line_on_a_terminal_drives_nothing() {
        let text = shown(&line("ins_0000abcd", 1, 3_723_004), Paint::PLAIN);
        assert_eq!(text, "01:02:03.004 web.abcd hello\u{fffd}]0;x\u{fffd}\n");
    }

    #[test]
    fn a_component_that_is_not_there_is_not_a_silent_one() {
        let app = crate::command::apps::tests::app();
        let name = |text: &str| text.parse::<ComponentName>().unwrap();
        let all = [name("web"), name("worker")];
        let failure = no_such_component(&app, &name("nope"), &all).unwrap();
        assert_eq!(failure.exit, Exit::USAGE);
        assert_eq!(failure.message, "shop has no component `nope`");
        assert_eq!(failure.hint.as_deref(), Some("there are: web, worker"));
        assert_eq!(no_such_component(&app, &name("web"), &all), None);
        assert_eq!(no_such_component(&app, &name("web"), &[]), None, "nothing is live");
    }

    #[test]
    fn a_line_is_told_once_however_often_it_is_sent() {
        let mut reader = Reader::new(Target::v1(&[]), None, None, false);
        let sent = [("a", 0, 1), ("a", 1, 1), ("b", 0, 1), ("a", 0, 1), ("a", 1, 1), ("a", 2, 5)];
        let told: Vec<bool> =
            sent.iter().map(|(of, n, at)| reader.is_new(&line(of, *n, *at))).collect();
        assert_eq!(told, [true, true, true, false, false, true]);
        assert_eq!(reader.since, Some(Timestamp::from_millis(5)));
    }
}
