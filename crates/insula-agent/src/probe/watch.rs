//! Keeps asking one running instance, for as long as it runs, and tells when the answer changes.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use insula_kit::clock::Clock;
use insula_model::spec::{HealthSpec, LivenessSpec};
use insula_model::{Millis, Timestamp};
use tokio::sync::mpsc;

use super::judge::{Ask, Judge, Listening};
use super::{Outcome, Question, ask};
use crate::instance::Health;

/// How the instance is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Health {
        health: Health,
        port: u16,
        warning: Option<String>,
    },
    /// It failed its liveness probe often enough to be restarted.
    Dead {
        reason: String,
    },
}

/// Everything that watching needs.
pub struct Watch<L> {
    pub judge: Judge,
    pub health: HealthSpec,
    pub liveness: Option<LivenessSpec>,
    pub address: IpAddr,
    /// Looks at the instance's open ports.
    pub look: L,
    pub clock: Arc<dyn Clock>,
    pub verdicts: mpsc::Sender<Verdict>,
}

struct Liveness {
    spec: LivenessSpec,
    failures: u32,
    next: Timestamp,
}

impl<L: Fn() -> io::Result<Vec<Listening>>> Watch<L> {
    /// Ends when nobody listens any more, or when the instance is to be restarted.
    pub async fn run(mut self) {
        let mut told = None;
        let mut liveness = self.liveness.take().map(|spec| {
            let next = self.now().plus(spec.interval);
            Liveness { spec, failures: 0, next }
        });
        loop {
            let verdict = Verdict::Health {
                health: self.judge.health().clone(),
                port: self.judge.port(),
                warning: self.judge.warning(),
            };
            if told.as_ref() != Some(&verdict) {
                if self.verdicts.send(verdict.clone()).await.is_err() {
                    return;
                }
                told = Some(verdict);
            }
            let (at, asked) = self.judge.next();
            let started = match self.judge.health() {
                Health::Ready | Health::Unready { .. } => true,
                Health::Starting | Health::Stuck { .. } => false,
            };
            match &mut liveness {
                // Liveness counts from the first readiness: a slow start is not a death.
                Some(liveness) if started && liveness.next < at => {
                    self.sleep_until(liveness.next).await;
                    if let Some(reason) = self.check_liveness(liveness).await {
                        // If nobody listens, the instance is being stopped anyway.
                        let _ = self.verdicts.send(Verdict::Dead { reason }).await;
                        return;
                    }
                }
                Some(_) | None => {
                    self.sleep_until(at).await;
                    self.answer(asked).await;
                }
            }
        }
    }

    async fn answer(&mut self, asked: Ask) {
        match asked {
            Ask::Look => {
                // What cannot be seen is not there; the probe goes on asking.
                let seen = (self.look)().unwrap_or_default();
                self.judge.looked(&seen, self.now());
            }
            Ask::Probe { port } => {
                let path = self.health.path.clone();
                let outcome = self.ask(port, path, self.health.timeout).await;
                self.judge.probed(outcome, self.now());
            }
        }
    }

    async fn check_liveness(&self, liveness: &mut Liveness) -> Option<String> {
        let spec = &liveness.spec;
        let outcome = self.ask(self.judge.port(), Some(spec.path.clone()), spec.timeout).await;
        liveness.next = self.now().plus(spec.interval);
        if outcome == Outcome::Ok {
            liveness.failures = 0;
            return None;
        }
        liveness.failures += 1;
        (liveness.failures >= spec.failures).then(|| {
            format!("liveness GET {} failed {} times: {outcome}", spec.path, liveness.failures)
        })
    }

    async fn ask(&self, port: u16, path: Option<String>, timeout: Millis) -> Outcome {
        let address = (self.address, port).into();
        ask(&Question { address, path, timeout: timeout.as_duration() }).await
    }

    async fn sleep_until(&self, at: Timestamp) {
        let span = at.since(self.now());
        if span > Millis(0) {
            tokio::time::sleep(Duration::from_millis(span.0)).await;
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.now_ms())
    }
}
