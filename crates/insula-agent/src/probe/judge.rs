//! Decides from probes and open ports whether an instance is ready. Pure.
//!
//! Asks for a probe or for a look at the open ports, takes in what came of it, and says how the
//! instance is. It never ends an instance: readiness only decides who is in the routes.

use std::collections::BTreeSet;

use insula_model::deployment::{Cause, CauseCode};
use insula_model::limits::{CAUSE_TAIL_LINES_MAX, HEALTH_INTERVAL_STARTING};
use insula_model::spec::HealthSpec;
use insula_model::{Millis, Timestamp};

use super::Outcome;
use crate::instance::Health;

/// After this long a start is slow, and twenty milliseconds more or less do not matter.
const EAGER_FOR: Millis = Millis::secs(10);
const INTERVAL_PATIENT: Millis = Millis(100);
/// Between looks at the open ports while nobody answers on the expected one.
const LOOK_INTERVAL: Millis = Millis(250);
/// An app that listens elsewhere for this long means it.
const ELSEWHERE_STABLE: Millis = Millis::secs(1);
/// The same for listening where nobody can come in; some open loopback first on their way.
const LOOPBACK_STABLE: Millis = Millis::secs(2);
/// Failures in a row that take an instance out of the routes: one may be a hiccup.
pub const FAILURES_MAX: u32 = 3;
/// After a failure, and while out of the routes, the answer is wanted sooner.
const INTERVAL_DOUBTFUL: Millis = Millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Probe {
        port: u16,
    },
    /// Which ports are open.
    Look,
}

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listening {
    pub port: u16,
    /// Nobody outside the instance can reach it.
    pub loopback: bool,
}

#[derive(Debug, Clone)]
pub struct Judge {
    spec: HealthSpec,
    /// What `PORT` says.
    wanted: u16,
    /// Where it is probed and reached.
    port: u16,
    since: Timestamp,
    health: Health,
    failures: u32,
    next_probe: Timestamp,
    next_look: Timestamp,
    /// Probed `wanted` last although `port` is another: the app may be on its way there.
    elsewhere: Option<(u16, Timestamp)>,
    loopback: Option<Timestamp>,
    seen: BTreeSet<Listening>,
    transcript: Vec<Said>,
}

/// One line of the transcript: the same answer several times is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    first: Timestamp,
    last: Timestamp,
    times: u32,
    outcome: Outcome,
}

impl Judge {
    pub fn new(spec: HealthSpec, port: u16, now: Timestamp) -> Self {
        Self {
            spec,
            wanted: port,
            port,
            since: now,
            health: Health::Starting,
            failures: 0,
            next_probe: now,
            next_look: now.plus(LOOK_INTERVAL),
            elsewhere: None,
            loopback: None,
            seen: BTreeSet::new(),
            transcript: Vec::new(),
        }
    }

    /// Of an instance that an earlier agent watched: what that one knew still holds.
    pub fn adopted(
        spec: HealthSpec,
        (wanted, port): (u16, u16),
        since: Timestamp,
        health: Health,
        now: Timestamp,
    ) -> Self {
        Self { port, since, health, next_probe: now, ..Self::new(spec, wanted, now) }
    }

    pub fn health(&self) -> &Health {
        &self.health
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn warning(&self) -> Option<String> {
        let (port, wanted) = (self.port, self.wanted);
        (port != wanted).then(|| {
            format!("it listens on {port}, not on PORT ({wanted}); requests are sent to {port}")
        })
    }

    /// What to ask next, and when.
    pub fn next(&self) -> (Timestamp, Ask) {
        if self.looks() && self.next_look < self.next_probe {
            return (self.next_look, Ask::Look);
        }
        (self.next_probe, Ask::Probe { port: self.port })
    }

    /// Open ports matter as long as nobody ever answered on the one that was asked for.
    fn looks(&self) -> bool {
        match self.health {
            Health::Starting | Health::Stuck { .. } => true,
            // It was found elsewhere: it may yet open the right one.
            Health::Ready | Health::Unready { .. } => self.port != self.wanted,
        }
    }

    pub fn probed(&mut self, outcome: Outcome, now: Timestamp) {
        if outcome == Outcome::Ok {
            self.health = Health::Ready;
            self.failures = 0;
            self.transcript.clear();
        } else {
            self.failures = self.failures.saturating_add(1);
            self.say(outcome, now);
            self.despair(now);
        }
        self.next_probe = now.plus(self.interval(now));
    }

    fn despair(&mut self, now: Timestamp) {
        match &self.health {
            Health::Starting if now.since(self.since) >= self.spec.startup => {
                self.health = Health::Stuck { cause: self.startup_cause() };
            }
            Health::Starting | Health::Stuck { .. } => {}
            Health::Ready | Health::Unready { .. } => {
                if self.failures >= FAILURES_MAX
                    && let Some(said) = self.transcript.last()
                {
                    let reason = format!("{} ({} times)", said.outcome, self.failures);
                    // The count in the text would make every probe a change to report.
                    if self.health == Health::Ready {
                        self.health = Health::Unready { reason };
                    }
                }
            }
        }
    }

    fn interval(&self, now: Timestamp) -> Millis {
        match &self.health {
            Health::Starting if now.since(self.since) < EAGER_FOR => HEALTH_INTERVAL_STARTING,
            Health::Starting => INTERVAL_PATIENT,
            Health::Ready if self.failures == 0 => self.spec.interval,
            Health::Ready | Health::Unready { .. } => self.spec.interval.min(INTERVAL_DOUBTFUL),
            Health::Stuck { .. } => self.spec.interval,
        }
    }

    pub fn looked(&mut self, seen: &[Listening], now: Timestamp) {
        let slow =
            matches!(self.health, Health::Ready | Health::Unready { .. } | Health::Stuck { .. });
        self.next_look = now.plus(if slow { self.spec.interval } else { LOOK_INTERVAL });
        self.seen = seen.iter().copied().collect();
        let open = |port: u16| seen.contains(&Listening { port, loopback: false });
        if open(self.wanted) {
            // Where it should be; the probe decides the rest.
            (self.elsewhere, self.loopback) = (None, None);
            if self.port != self.wanted {
                self.port = self.wanted;
                self.next_probe = now;
            }
            return;
        }
        if self.port != self.wanted && open(self.port) {
            return;
        }
        let other = self.seen.iter().find(|socket| !socket.loopback).map(|socket| socket.port);
        self.elsewhere = match (other, self.elsewhere) {
            (Some(port), Some((before, since))) if port == before => Some((port, since)),
            (Some(port), _) => Some((port, now)),
            (None, _) => None,
        };
        if let Some((port, since)) = self.elsewhere
            && now.since(since) >= ELSEWHERE_STABLE
        {
            self.port = port;
            self.next_probe = now;
        }
        let only_loopback = other.is_none() && seen.iter().any(|socket| socket.port == self.wanted);
        self.loopback = only_loopback.then(|| self.loopback.unwrap_or(now));
        if self.health == Health::Starting
            && self.loopback.is_some_and(|since| now.since(since) >= LOOPBACK_STABLE)
        {
            self.health = Health::Stuck { cause: self.startup_cause() };
            self.next_probe = now.plus(self.interval(now));
        }
    }

    /// Why it is not ready, as far as can be seen from outside.
    fn startup_cause(&self) -> Cause {
        let (wanted, startup) = (self.wanted, self.spec.startup);
        let answered = self.transcript.iter().any(|said| said.outcome.connected());
        if answered || self.seen.contains(&Listening { port: wanted, loopback: false }) {
            let path = self.spec.path.as_deref();
            let what = path.map_or("its port".to_owned(), |path| format!("GET {path}"));
            let mut cause = Cause::new(
                CauseCode::ProbeFailed,
                format!("{what} did not answer well on port {}: {}", self.port, self.last_words()),
            );
            cause.hint = Some(match path {
                Some(path) => format!("`health.path` is `{path}`: it must answer below 400"),
                None => "the port is open, but connections to it do not get through".into(),
            });
            cause.tail = self.transcript_lines();
            return cause;
        }
        let loopback: Vec<String> =
            self.seen.iter().filter(|s| s.loopback).map(|s| s.port.to_string()).collect();
        if !loopback.is_empty() {
            let ports = loopback.join(", ");
            let mut cause = Cause::new(
                CauseCode::ListensOnLoopback,
                format!("it listens on 127.0.0.1 only (port {ports}), where nobody can reach it"),
            );
            cause.hint = Some(format!("bind to 0.0.0.0 and port {wanted} (it is in PORT)"));
            return cause;
        }
        let mut cause = Cause::new(
            CauseCode::NotListening,
            format!("nothing listens on port {wanted} (nor on any other) after {startup}"),
        );
        cause.hint = Some(format!(
            "listen on 0.0.0.0:{wanted} (it is in PORT), set `port`, or make it a `worker`"
        ));
        cause
    }

    fn last_words(&self) -> String {
        self.transcript.last().map_or("nothing was tried".into(), |said| said.outcome.to_string())
    }

    fn say(&mut self, outcome: Outcome, now: Timestamp) {
        match self.transcript.last_mut() {
            Some(said) if said.outcome == outcome => {
                said.last = now;
                said.times = said.times.saturating_add(1);
            }
            Some(_) | None => {
                if self.transcript.len() == CAUSE_TAIL_LINES_MAX {
                    self.transcript.remove(0);
                }
                self.transcript.push(Said { first: now, last: now, times: 1, outcome });
            }
        }
    }

    fn transcript_lines(&self) -> Vec<String> {
        let line = |said: &Said| {
            let from = said.first.since(self.since);
            let times =
                if said.times > 1 { format!(", {} times", said.times) } else { String::new() };
            format!("probe after {from}: {}{times}", said.outcome)
        };
        self.transcript.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// An app described by what it does when; the judge is asked and answered until it has nothing
    /// new to say for a while. Prints every change of its mind.
    fn check(path: Option<&str>, app: impl Fn(u64) -> App, until: Millis, expected: &Expect) {
        let start = Timestamp::from_millis(5_000);
        let spec = HealthSpec {
            path: path.map(str::to_owned),
            startup: Millis::secs(10),
            interval: Millis::secs(5),
            timeout: Millis::secs(3),
        };
        let mut judge = Judge::new(spec, 8080, start);
        let (mut out, mut last, mut asked) = (String::new(), String::new(), 0);
        loop {
            let (at, ask) = judge.next();
            if at.since(start) > until {
                break;
            }
            asked += 1;
            assert!(asked < 5_000, "asks without end");
            let app = app(at.since(start).0);
            match ask {
                Ask::Look => judge.looked(&app.open, at),
                Ask::Probe { port } => {
                    let outcome = match app.open.iter().find(|s| s.port == port && !s.loopback) {
                        Some(_) => app.answer,
                        None => Outcome::Refused,
                    };
                    judge.probed(outcome, at);
                }
            }
            let mind = match judge.health() {
                Health::Starting => "starting".to_owned(),
                Health::Ready => format!("ready on {}", judge.port()),
                Health::Unready { reason } => format!("unready: {reason}"),
                Health::Stuck { cause } => {
                    let hint = cause.hint.as_deref().unwrap_or_default();
                    let code = cause.code.as_str();
                    format!("stuck: {code}: {} [{hint}] {:?}", cause.message, cause.tail)
                }
            };
            if mind != last {
                out.push_str(&format!("{}ms {mind}\n", at.since(start).0));
                if let Some(warning) = judge.warning() {
                    out.push_str(&format!("  warns: {warning}\n"));
                }
                last = mind;
            }
        }
        expected.assert_eq(&out);
    }

    struct App {
        open: Vec<Listening>,
        answer: Outcome,
    }

    fn app(open: &[(u16, bool)], answer: Outcome) -> App {
        let open =
            open.iter().map(|(port, loopback)| Listening { port: *port, loopback: *loopback });
        App { open: open.collect(), answer }
    }

    #[test]
    fn it_is_ready_within_an_instant_of_listening() {
        let slow = |ms| app(if ms < 130 { &[] } else { &[(8080, false)] }, Outcome::Ok);
        check(
            None,
            slow,
            Millis::secs(20),
            &expect![[r#"
            0ms starting
            140ms ready on 8080
        "#]],
        );
    }

    #[test]
    fn it_leaves_the_routes_after_three_failures_and_comes_back() {
        let ill = |ms| {
            let answer =
                if (6_000..12_000).contains(&ms) { Outcome::Status(503) } else { Outcome::Ok };
            app(&[(8080, false)], answer)
        };
        check(
            Some("/healthz"),
            ill,
            Millis::secs(30),
            &expect![[r#"
            0ms ready on 8080
            11000ms unready: it answered 503 (3 times)
            12000ms ready on 8080
        "#]],
        );
    }

    #[test]
    fn another_port_is_found_and_the_right_one_preferred_when_it_opens() {
        let other = |_| app(&[(5000, false), (9229, true)], Outcome::Ok);
        check(
            None,
            other,
            Millis::secs(20),
            &expect![[r#"
            0ms starting
            1250ms ready on 5000
              warns: it listens on 5000, not on PORT (8080); requests are sent to 5000
        "#]],
        );
        let late = |ms| {
            app(
                if ms < 3_000 { &[(9090, false)] } else { &[(8080, false), (9090, false)] },
                Outcome::Ok,
            )
        };
        check(
            None,
            late,
            Millis::secs(20),
            &expect![[r#"
            0ms starting
            1250ms ready on 9090
              warns: it listens on 9090, not on PORT (8080); requests are sent to 9090
            6500ms ready on 8080
        "#]],
        );
    }

    #[test]
    fn loopback_only_is_said_soon_and_with_the_fix() {
        check(
            None,
            |_| app(&[(8080, true)], Outcome::Ok),
            Millis::secs(20),
            &expect![[r#"
            0ms starting
            2250ms stuck: listens_on_loopback: it listens on 127.0.0.1 only (port 8080), where nobody can reach it [bind to 0.0.0.0 and port 8080 (it is in PORT)] []
        "#]],
        );
        // Another loopback port may be a debugger's: that one waits for the end of the start.
        check(
            None,
            |_| app(&[(9229, true)], Outcome::Ok),
            Millis::secs(20),
            &expect![[r#"
            0ms starting
            10000ms stuck: listens_on_loopback: it listens on 127.0.0.1 only (port 9229), where nobody can reach it [bind to 0.0.0.0 and port 8080 (it is in PORT)] []
        "#]],
        );
    }

    #[test]
    fn silence_and_bad_answers_end_the_start_with_what_was_seen() {
        check(
            None,
            |_| app(&[], Outcome::Ok),
            Millis::secs(20),
            &expect![[r#"
            0ms starting
            10000ms stuck: not_listening: nothing listens on port 8080 (nor on any other) after 10s [listen on 0.0.0.0:8080 (it is in PORT), set `port`, or make it a `worker`] []
        "#]],
        );
        let sick = |ms| app(if ms < 500 { &[] } else { &[(8080, false)] }, Outcome::Status(404));
        check(
            Some("/up"),
            sick,
            Millis::secs(20),
            &expect![[r#"
            0ms starting
            10000ms stuck: probe_failed: GET /up did not answer well on port 8080: it answered 404 [`health.path` is `/up`: it must answer below 400] ["probe after 0s: the connection was refused, 25 times", "probe after 500ms: it answered 404, 476 times"]
        "#]],
        );
    }

    #[test]
    fn what_is_adopted_stays_ready_until_it_proves_otherwise() {
        let spec = HealthSpec {
            path: None,
            startup: Millis::secs(10),
            interval: Millis::secs(5),
            timeout: Millis::secs(3),
        };
        let (since, now) = (Timestamp::from_millis(0), Timestamp::from_millis(900_000));
        let mut judge = Judge::adopted(spec, (8080, 5000), since, Health::Ready, now);
        assert_eq!(judge.next(), (now, Ask::Probe { port: 5000 }));
        judge.probed(Outcome::Refused, now);
        assert_eq!(judge.health(), &Health::Ready);
    }
}
