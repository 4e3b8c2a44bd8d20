//! What to do next with one instance. Pure: no clock, no I/O.
//!
//! In: what the Target wants and what is known of the instance. Out: at most one step, and when to
//! ask again. What came of a step is told by `Life::see`, and the question is asked again, until
//! there is nothing left to do. How steps are done is `task`; how health is judged is `probe`.

use insula_kit::backoff::Backoff;
use insula_model::deployment::Cause;
use insula_model::observed::{Exit, ExitNote, InstancePhase};
use insula_model::target::InstanceTarget;
use insula_model::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

use super::restart;

/// What is dead does not need longer; what hangs in the kernel is asked again after this.
const KILL_AGAIN_AFTER: Millis = Millis::secs(5);
/// What listens on no port has proved itself by living this long: an import that fails, or a
/// missing file, shows within it.
pub const SETTLED_AFTER: Millis = Millis::secs(1);
/// Between attempts to fetch and unpack what could not be.
const PREPARE_BACKOFF: Backoff =
    Backoff::new(std::time::Duration::from_secs(1), std::time::Duration::from_secs(60));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Run,
    /// By intent, or because the Target does not name it any more.
    Stop,
}

/// What matters of the Target for the order of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A run: started once, and over when it ends.
    pub once: bool,
    /// Proves itself by answering probes; otherwise by living.
    pub probed: bool,
    /// Between the stop signal and the kill.
    pub grace: Millis,
}

impl Rules {
    pub fn of(target: &InstanceTarget) -> Self {
        let once = target.run.is_some() || !target.kind.stays();
        let probed = !once && target.kind.listens() && target.port.is_some();
        Self { once, probed, grace: target.stop.grace }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Have what it is made of at hand.
    Prepare,
    Launch,
    /// Send the stop signal.
    Signal,
    Kill,
    /// Remove what its process left behind.
    Clean,
    /// Forget that it ever was.
    Forget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Do(Step),
    /// Nothing until something is seen, or until this moment.
    Wait {
        until: Option<Timestamp>,
    },
    /// It is not there any more.
    Gone,
}

/// All that is known of an instance on this node, and kept for the next agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    pub stage: Stage,
    pub restarts: u32,
    pub exits_before_ready: u32,
    /// Decides how long the next pause is.
    pub ends_in_row: u32,
    pub last_exit: Option<ExitNote>,
    pub started: Option<Timestamp>,
    pub ready_since: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// No process, nothing left of one.
    Waiting {
        start: Timestamp,
    },
    Unprepared {
        cause: Cause,
        failures: u32,
        retry: Timestamp,
    },
    Prepared,
    /// A launch was begun; whether a process came of it is not known.
    Launching,
    Running {
        since: Timestamp,
        health: Health,
        stopping: Option<Stopping>,
    },
    /// Its process is gone, the rest is not.
    Ended {
        start: Timestamp,
    },
    /// A run that is over.
    Finished,
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "health", rename_all = "snake_case")]
pub enum Health {
    Starting,
    Ready,
    Unready { reason: String },
    Stuck { cause: Cause },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    pub since: Timestamp,
    pub killed: Option<Timestamp>,
}

/// Something that happened, or what came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Prepared,
    Unprepared {
        cause: Cause,
    },
    /// Written down; the process comes next.
    Launching,
    Launched,
    Signalled,
    Killed,
    /// Also when it never became a process.
    Exited {
        note: ExitNote,
    },
    Cleaned,
    Forgotten,
    Health {
        health: Health,
    },
}

impl Life {
    pub fn new(now: Timestamp) -> Self {
        Self {
            stage: Stage::Waiting { start: now },
            restarts: 0,
            exits_before_ready: 0,
            ends_in_row: 0,
            last_exit: None,
            started: None,
            ready_since: None,
        }
    }

    pub fn is_running(&self) -> bool {
        match self.stage {
            Stage::Running { .. } => true,
            Stage::Waiting { .. }
            | Stage::Unprepared { .. }
            | Stage::Prepared
            | Stage::Launching
            | Stage::Ended { .. }
            | Stage::Finished
            | Stage::Gone => false,
        }
    }

    pub fn is_ready(&self) -> bool {
        matches!(&self.stage, Stage::Running { health: Health::Ready, .. })
    }

    /// Takes in what happened.
    pub fn see(&mut self, seen: Seen, rules: Rules, now: Timestamp) {
        match seen {
            Seen::Prepared => self.stage = Stage::Prepared,
            Seen::Unprepared { cause } => {
                let failures = match &self.stage {
                    Stage::Unprepared { failures, .. } => failures.saturating_add(1),
                    Stage::Waiting { .. }
                    | Stage::Prepared
                    | Stage::Launching
                    | Stage::Running { .. }
                    | Stage::Ended { .. }
                    | Stage::Finished
                    | Stage::Gone => 1,
                };
                let pause = PREPARE_BACKOFF.delay(failures, 1.0).as_millis();
                let retry = now.plus(Millis(u64::try_from(pause).unwrap_or(u64::MAX)));
                self.stage = Stage::Unprepared { cause, failures, retry };
            }
            Seen::Launching => {
                self.restarts += u32::from(self.started.is_some());
                self.started = Some(now);
                self.stage = Stage::Launching;
            }
            Seen::Launched => {
                // A run is followed by its end; there is nothing to wait for.
                let health = if rules.once { Health::Ready } else { Health::Starting };
                self.stage = Stage::Running { since: now, health, stopping: None };
                self.note_ready(now);
            }
            Seen::Signalled => self.change_stopping(|_| Stopping { since: now, killed: None }),
            Seen::Killed => self.change_stopping(|before| Stopping {
                since: before.map_or(now, |stopping| stopping.since),
                killed: Some(now),
            }),
            Seen::Exited { note } => self.end(note, now),
            Seen::Cleaned => {
                self.stage = match (&self.stage, rules.once) {
                    (Stage::Ended { .. }, true) => Stage::Finished,
                    (Stage::Ended { start }, false) => Stage::Waiting { start: *start },
                    // A launch that was cut off.
                    (_, true) if self.started.is_some() => Stage::Finished,
                    (_, true | false) => Stage::Waiting { start: now },
                };
            }
            Seen::Forgotten => self.stage = Stage::Gone,
            Seen::Health { health: seen } => {
                if let Stage::Running { health, .. } = &mut self.stage {
                    *health = seen;
                }
                self.note_ready(now);
            }
        }
    }

    fn note_ready(&mut self, now: Timestamp) {
        if self.is_ready() {
            self.ready_since.get_or_insert(now);
            self.exits_before_ready = 0;
        }
    }

    fn change_stopping(&mut self, change: impl FnOnce(Option<Stopping>) -> Stopping) {
        if let Stage::Running { stopping, .. } = &mut self.stage {
            *stopping = Some(change(*stopping));
        }
    }

    fn end(&mut self, note: ExitNote, now: Timestamp) {
        let (ran, asked, proved) = match &self.stage {
            Stage::Running { since, health, stopping } => {
                let proved = matches!(health, Health::Ready | Health::Unready { .. });
                (note.at.since(*since), stopping.is_some(), proved)
            }
            Stage::Waiting { .. }
            | Stage::Unprepared { .. }
            | Stage::Prepared
            | Stage::Launching
            | Stage::Ended { .. }
            | Stage::Finished
            | Stage::Gone => (Millis(0), false, false),
        };
        self.ends_in_row = restart::ends_in_row(self.ends_in_row, ran);
        if !asked && !proved {
            self.exits_before_ready = self.exits_before_ready.saturating_add(1);
        }
        self.last_exit = Some(note);
        self.stage = Stage::Ended { start: restart::restart_at(self.ends_in_row, now) };
    }

    /// Whether it did not end in its grace, and we made an end.
    pub fn was_killed(&self) -> bool {
        match &self.stage {
            Stage::Running { stopping, .. } => stopping.is_some_and(|s| s.killed.is_some()),
            _ => false,
        }
    }

    /// What to tell the server.
    pub fn phase(&self, wanted: Wanted) -> InstancePhase {
        match &self.stage {
            Stage::Finished => InstancePhase::Finished,
            _ if wanted == Wanted::Stop => InstancePhase::Stopping,
            Stage::Waiting { start } | Stage::Ended { start } => match &self.last_exit {
                Some(exit) if *start > exit.at => InstancePhase::BackingOff { until: *start },
                Some(_) | None => InstancePhase::Preparing,
            },
            Stage::Unprepared { cause, .. } => InstancePhase::Stuck { cause: cause.clone() },
            Stage::Prepared | Stage::Launching => InstancePhase::Preparing,
            Stage::Running { stopping: Some(_), .. } => {
                InstancePhase::Unready { reason: "it is being restarted".into() }
            }
            Stage::Running { health, stopping: None, .. } => match health {
                Health::Starting => InstancePhase::Starting,
                Health::Ready => InstancePhase::Ready,
                Health::Unready { reason } => InstancePhase::Unready { reason: reason.clone() },
                Health::Stuck { cause } => InstancePhase::Stuck { cause: cause.clone() },
            },
            Stage::Gone => InstancePhase::Stopping,
        }
    }
}

pub fn decide(wanted: Wanted, rules: Rules, life: &Life, now: Timestamp) -> Next {
    match (&life.stage, wanted) {
        (Stage::Gone, _) => Next::Gone,
        (Stage::Ended { .. } | Stage::Launching, _) => Next::Do(Step::Clean),
        (
            Stage::Waiting { .. } | Stage::Unprepared { .. } | Stage::Prepared | Stage::Finished,
            Wanted::Stop,
        ) => Next::Do(Step::Forget),
        (Stage::Waiting { start }, Wanted::Run) => when(*start, now, Step::Prepare),
        (Stage::Unprepared { retry, .. }, Wanted::Run) => when(*retry, now, Step::Prepare),
        (Stage::Prepared, Wanted::Run) => Next::Do(Step::Launch),
        (Stage::Finished, Wanted::Run) => Next::Wait { until: None },
        (Stage::Running { stopping: Some(stopping), .. }, _) => {
            let kill = match stopping.killed {
                None => stopping.since.plus(rules.grace),
                Some(last) => last.plus(KILL_AGAIN_AFTER),
            };
            when(kill, now, Step::Kill)
        }
        (Stage::Running { stopping: None, .. }, Wanted::Stop) => Next::Do(Step::Signal),
        (Stage::Running { stopping: None, .. }, Wanted::Run) => Next::Wait { until: None },
    }
}

fn when(due: Timestamp, now: Timestamp, step: Step) -> Next {
    if now >= due { Next::Do(step) } else { Next::Wait { until: Some(due) } }
}

/// For a launch that was refused before there was a process.
pub fn not_started(reason: String, now: Timestamp) -> ExitNote {
    ExitNote { exit: Exit::NotStarted { reason }, at: now, tail: Vec::new() }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use insula_model::deployment::CauseCode;

    use super::*;

    const SERVICE: Rules = Rules { once: false, probed: true, grace: Millis::secs(30) };
    const RUN: Rules = Rules { once: true, probed: false, grace: Millis::secs(5) };

    /// Plays events against a life. Steps succeed at once unless the script says otherwise; after
    /// each event the question is asked until nothing is left to do, which must come soon.
    struct Play {
        rules: Rules,
        life: Life,
        wanted: Wanted,
        now: Timestamp,
        fail: Option<&'static str>,
        out: String,
    }

    impl Play {
        fn settle(&mut self) {
            for _ in 0..8 {
                match decide(self.wanted, self.rules, &self.life, self.now) {
                    Next::Gone => return self.line("  gone"),
                    Next::Wait { until } => {
                        let phase = self.life.phase(self.wanted).as_str();
                        let until = until.map_or(String::new(), |until| {
                            format!(" until +{}ms", until.since(self.now).0)
                        });
                        let (n, e) = (self.life.restarts, self.life.exits_before_ready);
                        return self.line(&format!("  {phase}, restarts {n}, unproved {e}{until}"));
                    }
                    Next::Do(step) => {
                        self.line(&format!("  do {step:?}"));
                        self.done(step);
                    }
                }
            }
            panic!("no fixed point after:\n{}", self.out);
        }

        fn done(&mut self, step: Step) {
            let fail = self.fail.take_if(|fail| *fail == format!("{step:?}"));
            let seen = match (step, fail) {
                (Step::Prepare, Some(_)) => {
                    Seen::Unprepared { cause: Cause::new(CauseCode::SourceLost, "lost") }
                }
                (Step::Prepare, None) => Seen::Prepared,
                (Step::Launch, Some(_)) => {
                    self.see(Seen::Launching);
                    Seen::Exited { note: not_started("no memory".into(), self.now) }
                }
                (Step::Launch, None) => {
                    self.see(Seen::Launching);
                    Seen::Launched
                }
                (Step::Signal, _) => Seen::Signalled,
                (Step::Kill, _) => Seen::Killed,
                (Step::Clean, _) => Seen::Cleaned,
                (Step::Forget, _) => Seen::Forgotten,
            };
            self.see(seen);
        }

        fn see(&mut self, seen: Seen) {
            self.life.see(seen, self.rules, self.now);
        }

        fn line(&mut self, line: &str) {
            self.out.push_str(line);
            self.out.push('\n');
        }
    }

    fn check(rules: Rules, script: &str, expected: &Expect) {
        let start = Timestamp::from_millis(1_000_000);
        let mut play = Play {
            rules,
            life: Life::new(start),
            wanted: Wanted::Run,
            now: start,
            fail: None,
            out: String::new(),
        };
        for event in script.split(';').map(str::trim) {
            play.line(event);
            let (verb, rest) = event.split_once(' ').unwrap_or((event, ""));
            match verb {
                "run" => play.wanted = Wanted::Run,
                "stop" => play.wanted = Wanted::Stop,
                "wait" => {
                    let span: Millis = rest.parse().unwrap();
                    play.now = play.now.plus(span);
                }
                "failing" => {
                    play.fail = Some(Box::leak(rest.to_owned().into_boxed_str()));
                    continue;
                }
                "exit" => {
                    let exit = Exit::Code { code: rest.parse().unwrap() };
                    let note = ExitNote { exit, at: play.now, tail: vec![] };
                    play.see(Seen::Exited { note });
                }
                "ready" => play.see(Seen::Health { health: Health::Ready }),
                "unready" => {
                    play.see(Seen::Health { health: Health::Unready { reason: "slow".into() } });
                }
                "stuck" => {
                    let cause = Cause::new(CauseCode::NotListening, "silent");
                    play.see(Seen::Health { health: Health::Stuck { cause } });
                }
                "restart" => play.see(Seen::Signalled),
                "crashed-launching" => play.see(Seen::Launching),
                other => panic!("no such event: {other}"),
            }
            play.settle();
        }
        expected.assert_eq(&play.out);
    }

    #[test]
    fn a_service_starts_serves_and_stops() {
        check(
            SERVICE,
            "run; ready; unready; ready; stop; wait 10s; wait 20s; exit 137",
            &expect![[r#"
                run
                  do Prepare
                  do Launch
                  starting, restarts 0, unproved 0
                ready
                  ready, restarts 0, unproved 0
                unready
                  unready, restarts 0, unproved 0
                ready
                  ready, restarts 0, unproved 0
                stop
                  do Signal
                  stopping, restarts 0, unproved 0 until +30000ms
                wait 10s
                  stopping, restarts 0, unproved 0 until +20000ms
                wait 20s
                  do Kill
                  stopping, restarts 0, unproved 0 until +5000ms
                exit 137
                  do Clean
                  do Forget
                  gone
            "#]],
        );
    }

    #[test]
    fn a_crash_costs_nothing_once_and_then_waits() {
        check(
            SERVICE,
            "run; ready; exit 1; exit 1; wait 1s; exit 1; wait 1s; wait 1s; ready; wait 11m; exit 1",
            &expect![[r#"
                run
                  do Prepare
                  do Launch
                  starting, restarts 0, unproved 0
                ready
                  ready, restarts 0, unproved 0
                exit 1
                  do Clean
                  do Prepare
                  do Launch
                  starting, restarts 1, unproved 0
                exit 1
                  do Clean
                  backing off, restarts 1, unproved 1 until +1000ms
                wait 1s
                  do Prepare
                  do Launch
                  starting, restarts 2, unproved 1
                exit 1
                  do Clean
                  backing off, restarts 2, unproved 2 until +2000ms
                wait 1s
                  backing off, restarts 2, unproved 2 until +1000ms
                wait 1s
                  do Prepare
                  do Launch
                  starting, restarts 3, unproved 2
                ready
                  ready, restarts 3, unproved 0
                wait 11m
                  ready, restarts 3, unproved 0
                exit 1
                  do Clean
                  do Prepare
                  do Launch
                  starting, restarts 4, unproved 0
            "#]],
        );
    }

    #[test]
    fn a_run_is_started_once_whatever_comes() {
        check(
            RUN,
            "run; exit 3; wait 1h; stop",
            &expect![[r#"
                run
                  do Prepare
                  do Launch
                  ready, restarts 0, unproved 0
                exit 3
                  do Clean
                  finished, restarts 0, unproved 0
                wait 1h
                  finished, restarts 0, unproved 0
                stop
                  do Forget
                  gone
            "#]],
        );
        // Cut off in the middle of the launch: nobody knows whether it ran, so it does not run again.
        check(
            RUN,
            "crashed-launching; stop",
            &expect![[r#"
                crashed-launching
                  do Clean
                  finished, restarts 0, unproved 0
                stop
                  do Forget
                  gone
            "#]],
        );
    }

    #[test]
    fn what_cannot_be_prepared_or_launched_says_so_and_is_tried_again() {
        check(
            SERVICE,
            "failing Prepare; run; failing Launch; wait 1s; run",
            &expect![[r#"
                failing Prepare
                run
                  do Prepare
                  stuck, restarts 0, unproved 0 until +1000ms
                failing Launch
                wait 1s
                  do Prepare
                  do Launch
                  do Clean
                  do Prepare
                  do Launch
                  starting, restarts 1, unproved 1
                run
                  starting, restarts 1, unproved 1
            "#]],
        );
    }

    #[test]
    fn a_launch_that_was_cut_off_is_cleaned_and_begun_again() {
        check(
            SERVICE,
            "crashed-launching; stop; exit 0",
            &expect![[r#"
                crashed-launching
                  do Clean
                  do Prepare
                  do Launch
                  starting, restarts 1, unproved 0
                stop
                  do Signal
                  stopping, restarts 1, unproved 0 until +30000ms
                exit 0
                  do Clean
                  do Forget
                  gone
            "#]],
        );
    }

    #[test]
    fn stuck_stays_running_for_whoever_wants_to_look_and_liveness_restarts() {
        check(
            SERVICE,
            "run; stuck; ready; restart; exit 0; stop; wait 1m; exit 0",
            &expect![[r#"
                run
                  do Prepare
                  do Launch
                  starting, restarts 0, unproved 0
                stuck
                  stuck, restarts 0, unproved 0
                ready
                  ready, restarts 0, unproved 0
                restart
                  unready, restarts 0, unproved 0 until +30000ms
                exit 0
                  do Clean
                  do Prepare
                  do Launch
                  starting, restarts 1, unproved 0
                stop
                  do Signal
                  stopping, restarts 1, unproved 0 until +30000ms
                wait 1m
                  do Kill
                  stopping, restarts 1, unproved 0 until +5000ms
                exit 0
                  do Clean
                  do Forget
                  gone
            "#]],
        );
    }
}
