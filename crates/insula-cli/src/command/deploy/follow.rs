//! Watches a deployment to its end: states as they change, the build's log as it is written.
//!
//! An event of the app is a nudge to look at the deployment again; a slow tick is there for when
//! the stream of events is not. Ctrl-C ends the watching, not the deployment.

use std::time::{Duration, Instant};

use insula_wire::rest::app::App;
use insula_wire::rest::deployment::{Deployment, Phase};
use insula_wire::rest::log::{LogLine, SSE_LOG};

use super::report::Report;
use crate::client::{ClientError, Events, Target};
use crate::command::unrouted;
use crate::context::Cx;
use crate::failure::{Exit, Failure, Outcome};
use crate::show::{clean, units};

/// How often to look where events come by themselves, and where they do not.
const LOOK_WITH_EVENTS: Duration = Duration::from_millis(1_000);
const LOOK_WITHOUT: Duration = Duration::from_millis(200);
/// The line with progress counts in tenths of a second.
const PROGRESS: Duration = Duration::from_millis(100);
/// The rest of a failed build's log, which the cause refers to.
const REST_OF_LOG: Duration = Duration::from_millis(500);
/// All of a build's log: the server cuts to its own limit.
const LOG_TAIL: u32 = 10_000;

#[derive(Debug, Default)]
pub struct Follow {
    /// What was done before, for the report.
    pub local_phases: Vec<Phase>,
}

#[derive(Debug)]
pub struct Ending {
    pub deployment: Deployment,
    pub local_phases: Vec<Phase>,
    /// Ctrl-C came first.
    pub interrupted: bool,
    /// Whether the build's log was shown as it was written.
    log_shown: bool,
}

pub async fn follow(cx: &Cx, deployment: Deployment, with: Follow) -> Result<Ending, Failure> {
    let id = deployment.id.to_string();
    let mut watch = Watch {
        cx,
        target: cx.org(&["deployments", &id]),
        began: Instant::now(),
        told: 0,
        deployment,
        log: Log::None,
    };
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let events = cx.org(&["events"]).with("app", watch.deployment.app);
    // Without it the tick is enough: a server may have no more streams to give.
    let mut events = cx.client().stream(&events).await.ok();
    let mut progress = tokio::time::interval(PROGRESS);
    watch.look().await?;
    let mut looked = Instant::now();
    while !watch.deployment.done {
        let pause = if events.is_some() { LOOK_WITH_EVENTS } else { LOOK_WITHOUT };
        tokio::select! {
            _ = &mut interrupted => {
                cx.terminal.end_progress();
                return Ok(watch.ended(with, true));
            }
            line = watch.log.next() => watch.log_came(line),
            event = next(&mut events) => match event {
                Ok(Some(_)) => {
                    watch.look().await?;
                    looked = Instant::now();
                }
                Ok(None) | Err(_) => events = None,
            },
            _ = tokio::time::sleep_until((looked + pause).into()) => {
                watch.look().await?;
                looked = Instant::now();
            }
            _ = progress.tick() => watch.show_progress(),
        }
    }
    if watch.deployment.cause.is_some() {
        watch.rest_of_log().await;
    }
    cx.terminal.end_progress();
    Ok(watch.ended(with, false))
}

async fn next(events: &mut Option<Events>) -> Result<Option<()>, ClientError> {
    match events {
        Some(events) => Ok(events.next().await?.map(drop)),
        None => std::future::pending().await,
    }
}

struct Watch<'a> {
    cx: &'a Cx,
    target: Target,
    began: Instant,
    /// Phases whose end was told.
    told: usize,
    deployment: Deployment,
    log: Log,
}

impl Watch<'_> {
    /// Reads the deployment, says what has changed, opens the build's log once there is one.
    async fn look(&mut self) -> Result<(), Failure> {
        self.deployment = self.cx.client().get(&self.target).await?;
        self.tell_phases();
        if let (Log::None, Some(build), "building") =
            (&self.log, self.deployment.build, self.deployment.state.as_str())
        {
            let target = self
                .cx
                .org(&["builds", &build.to_string(), "log"])
                .with("follow", true)
                .with("tail", LOG_TAIL);
            self.log = match self.cx.client().stream(&target).await {
                Ok(events) => Log::Open { events: Box::new(events), last: None },
                // The deployment is what counts; its cause has the last lines.
                Err(_) => Log::Ended { shown: false },
            };
        }
        Ok(())
    }

    /// Where there is no terminal, the end of each phase is a line.
    fn tell_phases(&mut self) {
        let ended: Vec<&Phase> =
            self.deployment.phases.iter().filter(|phase| phase.took_ms.is_some()).collect();
        if !self.cx.terminal.err_is_terminal() {
            for phase in ended.iter().skip(self.told) {
                let took = units::measured(phase.took_ms.unwrap_or_default());
                self.cx.terminal.say(&format!("{} {took}", clean::line(&phase.phase)));
            }
        }
        self.told = ended.len();
    }

    fn show_progress(&self) {
        let state = clean::line(&self.deployment.state);
        let tenths = self.began.elapsed().as_millis() / 100;
        self.cx.terminal.progress(&format!("{state} {}.{} s", tenths / 10, tenths % 10));
    }

    fn log_came(&mut self, came: Option<LogLine>) {
        match came {
            Some(line) => {
                let paint = self.cx.terminal.err_paint();
                let text = clean::log_line(&line.line, paint.is_on());
                self.cx.terminal.say(&format!("{} {text}", paint.dim("build |")));
            }
            None => {
                let shown = matches!(self.log, Log::Open { last: Some(_), .. });
                self.log = Log::Ended { shown };
            }
        }
    }

    async fn rest_of_log(&mut self) {
        if !matches!(self.log, Log::Open { .. }) {
            return;
        }
        let until = tokio::time::Instant::now() + REST_OF_LOG;
        while let Ok(came) = tokio::time::timeout_at(until, self.log.next()).await {
            let ended = came.is_none();
            self.log_came(came);
            if ended {
                return;
            }
        }
    }

    fn ended(self, with: Follow, interrupted: bool) -> Ending {
        Ending {
            deployment: self.deployment,
            local_phases: with.local_phases,
            interrupted,
            log_shown: matches!(self.log, Log::Open { .. } | Log::Ended { shown: true }),
        }
    }
}

/// A build's log.
enum Log {
    None,
    Open { events: Box<Events>, last: Option<u64> },
    Ended { shown: bool },
}

impl Log {
    /// The next line; nothing at its end. Waits for ever where there is none to wait for.
    async fn next(&mut self) -> Option<LogLine> {
        let Self::Open { events, last } = self else { return std::future::pending().await };
        loop {
            let event = events.next().await.ok().flatten()?;
            if event.name != SSE_LOG {
                return None;
            }
            let line: LogLine = serde_json::from_str(&event.data).ok()?;
            if last.is_none_or(|last| line.sequence > last) {
                *last = Some(line.sequence);
                return Some(line);
            }
        }
    }
}

/// Follows a deployment that a command began, unless it is not to be waited for.
pub async fn watch(cx: &Cx, app: &App, deployment: Deployment, detach: bool) -> Outcome {
    if detach {
        return leave(cx, app, &deployment, &[]);
    }
    let ending = follow(cx, deployment, Follow::default()).await?;
    end(cx, app, ending).await
}

/// Says that it has begun, and nothing more.
pub fn leave(cx: &Cx, app: &App, deployment: &Deployment, local_phases: &[Phase]) -> Outcome {
    let id = deployment.id;
    cx.terminal.say(&format!("deployment {id} has begun; watch it: insula deployments {id}"));
    let report = Report::new(deployment, app.name.as_str(), local_phases);
    cx.terminal.answer(&report, |_| unrouted::line(&report.url))
}

/// Says how it ended: to programs in one object, to people in words.
pub async fn end(cx: &Cx, app: &App, ending: Ending) -> Outcome {
    if cx.terminal.json {
        let report = Report::new(&ending.deployment, app.name.as_str(), &ending.local_phases);
        cx.terminal.print_json(&report)?;
    }
    let outcome = tell(cx, app, &ending).await?;
    if outcome == Exit::OK && !cx.terminal.json {
        cx.terminal.print(&unrouted::line(&ending.deployment.url))?;
    }
    Ok(outcome)
}

/// The words alone.
pub async fn tell(cx: &Cx, app: &App, ending: &Ending) -> Outcome {
    let deployment = &ending.deployment;
    if ending.interrupted {
        cx.terminal.say(&format!(
            "the deployment goes on without you; watch it: insula deployments {0}\n\
             end it: insula cancel {0}",
            deployment.id
        ));
        return Ok(Exit::INTERRUPTED);
    }
    match deployment.state.as_str() {
        "live" => {
            let report = Report::new(deployment, app.name.as_str(), &ending.local_phases);
            let next = match report.url.as_str() {
                "" => unrouted::next(&unrouted::components(cx, deployment.release).await),
                _ => unrouted::next(&[]),
            };
            cx.terminal.say(&report.live(&next, cx.terminal.err_paint()));
            Ok(Exit::OK)
        }
        "superseded" => {
            let by = deployment.superseded_by.map(|by| by.to_string()).unwrap_or_default();
            Err(Failure::failed(format!("a later deployment took its place: {by}"))
                .hint("watch that one: insula deployments"))
        }
        "cancelled" => Err(Failure::failed(cancelled(deployment))),
        state => Err(match &deployment.cause {
            Some(cause) => {
                let mut failure = Failure::of_cause(cause, &cx.client().server().to_string());
                // They stand just above.
                if ending.log_shown && cause.code.starts_with("build_") {
                    failure.details.tail.clear();
                }
                failure
            }
            None => Failure::failed(format!("the deployment ended as {state}")),
        }),
    }
}

fn cancelled(deployment: &Deployment) -> String {
    let by = deployment.cancelled_by.as_deref().unwrap_or("somebody");
    let serves = match deployment.previous {
        Some(_) => "what served before still does",
        None => "nothing of the app serves",
    };
    format!("it was cancelled by {by}; {serves}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the API answers.
    fn deployment(previous: Option<&str>) -> Deployment {
        serde_json::from_value(serde_json::json!({
            "id": "dep_01j8z3k5v7e6n9q2r4t6w8y0ab",
            "app": "app_01j8z3k5v7e6n9q2r4t6w8y0ab",
            "state": "cancelled",
            "done": true,
            "source": {"kind": "folder"},
            "previous": previous,
            "cancelled_by": "operator",
            "actor": "operator",
            "trace": "",
            "created": "2026-01-31T12:00:00.000Z",
            "updated": "2026-01-31T12:00:00.000Z",
            "phases": [],
            "warnings": [],
            "url": "",
        }))
        .unwrap()
    }

    #[test]
    fn what_serves_after_a_cancelled_deployment_is_what_served_before() {
        assert_eq!(
            cancelled(&deployment(Some("rel_01j8z3k5v7e6n9q2r4t6w8y0ab"))),
            "it was cancelled by operator; what served before still does"
        );
        assert_eq!(
            cancelled(&deployment(None)),
            "it was cancelled by operator; nothing of the app serves"
        );
    }
}
