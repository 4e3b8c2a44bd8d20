//! One instance on a machine: its process, from preparing it to its end.

use insula_model::deployment::{Cause, CauseCode};
use insula_model::observed::{Exit, ExitNote, InstancePhase, InstanceReport};
use insula_model::target::InstanceTarget;
use insula_model::{InstanceId, Timestamp};

use super::Happened;
use crate::behaviour::Behaviour;
use crate::chance::Chance;

/// Between an exit and the next start.
const BACK_OFF_MS: u64 = 1_000;

#[derive(Debug)]
pub struct Held {
    pub target: InstanceTarget,
    pub life: Life,
    pub(super) wanted: bool,
    restarts: u32,
    exits_before_ready: u32,
    last_exit: Option<ExitNote>,
    started: Option<u64>,
    ready_since: Option<u64>,
    /// Its probe fails until then.
    pub unready_until: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Preparing {
        until: u64,
    },
    Starting {
        since: u64,
    },
    Ready,
    BackingOff {
        until: u64,
    },
    /// It runs, and will never be ready.
    Stuck,
    Stopping {
        until: u64,
    },
}

impl Held {
    /// Whether a process of it exists.
    pub fn runs(&self) -> bool {
        match self.life {
            Life::Starting { .. } | Life::Ready | Life::Stuck | Life::Stopping { .. } => true,
            Life::Preparing { .. } | Life::BackingOff { .. } => false,
        }
    }

    pub fn serves(&self, now: u64) -> bool {
        self.life == Life::Ready && self.unready_until <= now
    }

    pub fn is_stopping(&self) -> bool {
        matches!(self.life, Life::Stopping { .. })
    }

    pub(super) fn grace(&self) -> u64 {
        self.target.stop.grace.0
    }

    pub(super) fn ended(&mut self, exit: Exit, now: u64) {
        if self.ready_since.is_none() {
            self.exits_before_ready += 1;
        }
        self.last_exit = Some(ExitNote { exit, at: at(now), tail: Vec::new() });
        self.life = Life::BackingOff { until: now + BACK_OFF_MS };
    }

    pub(super) fn new(target: InstanceTarget, prepared: u64) -> Self {
        Self {
            target,
            life: Life::Preparing { until: prepared },
            wanted: true,
            restarts: 0,
            exits_before_ready: 0,
            last_exit: None,
            started: None,
            ready_since: None,
            unready_until: 0,
        }
    }

    /// When its start is decided.
    pub(super) fn starts(&self, since: u64) -> Option<u64> {
        Some(match Behaviour::of(&self.target.artifact) {
            Behaviour::Good { ready_after } | Behaviour::Flaky { ready_after } => {
                since + ready_after
            }
            Behaviour::Crashes { after } => since + after,
            Behaviour::Mute => since + self.target.health.startup.0,
        })
    }

    pub(super) fn step(
        &mut self,
        now: u64,
        flaky: bool,
        chance: &mut Chance,
        happened: &mut Vec<Happened>,
    ) {
        match self.life {
            Life::Preparing { until } | Life::BackingOff { until } if now >= until => {
                self.restarts += u32::from(matches!(self.life, Life::BackingOff { .. }));
                self.life = Life::Starting { since: now };
                self.started = Some(now);
                happened.push(Happened::Began(self.target.id));
            }
            Life::Starting { since } if self.starts(since).is_some_and(|at| now >= at) => {
                match Behaviour::of(&self.target.artifact) {
                    Behaviour::Good { .. } | Behaviour::Flaky { .. } => {
                        self.life = Life::Ready;
                        self.exits_before_ready = 0;
                        self.ready_since.get_or_insert(now);
                        happened.push(Happened::BecameReady(self.target.id));
                    }
                    Behaviour::Crashes { .. } => {
                        happened.push(Happened::Gone(self.target.id));
                        self.ended(Exit::Code { code: 1 }, now);
                    }
                    Behaviour::Mute => self.life = Life::Stuck,
                }
            }
            Life::Ready => {
                let weak = matches!(Behaviour::of(&self.target.artifact), Behaviour::Flaky { .. });
                if flaky && weak && chance.permille(4) {
                    happened.push(Happened::Gone(self.target.id));
                    self.ended(Exit::OutOfMemory, now);
                }
            }
            Life::Preparing { .. }
            | Life::Starting { .. }
            | Life::BackingOff { .. }
            | Life::Stuck
            | Life::Stopping { .. } => {}
        }
    }

    pub(super) fn report(&self, id: InstanceId, now: u64) -> InstanceReport {
        let phase = match self.life {
            Life::Preparing { .. } => InstancePhase::Preparing,
            Life::Starting { .. } => InstancePhase::Starting,
            Life::Ready if self.unready_until > now => {
                InstancePhase::Unready { reason: "its probe was not answered".to_owned() }
            }
            Life::Ready => InstancePhase::Ready,
            Life::BackingOff { until } => InstancePhase::BackingOff { until: at(until) },
            Life::Stuck => InstancePhase::Stuck {
                cause: Cause::new(CauseCode::ProbeFailed, "it never answered its probe"),
            },
            Life::Stopping { .. } => InstancePhase::Stopping,
        };
        let low = id.as_u128();
        let port = u16::try_from(low & 0xffff).unwrap_or(1);
        let listens = self.life == Life::Ready && self.target.port.is_some();
        InstanceReport {
            id,
            phase,
            endpoint: listens.then(|| ([10, 0, 0, 1], port).into()),
            restarts: self.restarts,
            exits_before_ready: self.exits_before_ready,
            last_exit: self.last_exit.clone(),
            started: self.started.map(at),
            ready_since: self.ready_since.map(at),
            warnings: Vec::new(),
        }
    }
}

/// Nodes' own times of day are only shown.
fn at(now: u64) -> Timestamp {
    Timestamp::from_millis(crate::server::WALL_BEGINS_MS + i64::try_from(now).unwrap_or(0))
}
