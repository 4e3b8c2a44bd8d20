//! How a process ends: one signal that everybody can await, and a wait for everybody to be done.
//!
//! Ctrl-C and SIGTERM are told apart because they mean different things to the apps: the first
//! takes them along, the second leaves them running for the next start.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
    /// SIGTERM: the service manager, or an upgrade.
    Terminate,
    /// The process itself, by request or because a part of it failed for good.
    Own,
}

#[derive(Debug, Default)]
struct State {
    cause: Option<Cause>,
    insisted: bool,
    running: BTreeMap<&'static str, usize>,
}

/// Clones are handles on the same signal.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    state: Arc<watch::Sender<State>>,
}

/// Work that an orderly end waits for, until dropped.
#[derive(Debug)]
#[must_use]
pub struct Guard {
    name: &'static str,
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, thiserror::Error)]
#[error("still running after {waited:?}: {}", .names.join(", "))]
pub struct StillRunning {
    pub waited: Duration,
    pub names: Vec<&'static str>,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everybody to end. The first cause stays; asking again means insisting.
    pub fn begin(&self, cause: Cause) {
        self.state.send_modify(|state| match state.cause {
            None => state.cause = Some(cause),
            Some(_) => state.insisted = true,
        });
    }

    pub fn cause(&self) -> Option<Cause> {
        self.state.borrow().cause
    }

    pub fn begun(&self) -> bool {
        self.cause().is_some()
    }

    /// Ready once an end was asked for. Safe to drop and call again, as `select!` does.
    pub async fn requested(&self) -> Cause {
        let mut state = self.state.subscribe();
        loop {
            if let Some(cause) = state.borrow_and_update().cause {
                return cause;
            }
            // The sender lives in `self`, so this cannot fail while we are awaited.
            let _ = state.changed().await;
        }
    }

    /// Ready once somebody asked a second time: stop waiting for what drains.
    pub async fn insisted(&self) {
        let mut state = self.state.subscribe();
        while !state.borrow_and_update().insisted {
            let _ = state.changed().await;
        }
    }

    pub fn guard(&self, name: &'static str) -> Guard {
        self.state.send_modify(|state| *state.running.entry(name).or_default() += 1);
        Guard { name, state: Arc::clone(&self.state) }
    }

    /// Waits until every guard is gone.
    pub async fn completed(&self) {
        let mut state = self.state.subscribe();
        while !state.borrow_and_update().running.is_empty() {
            let _ = state.changed().await;
        }
    }

    pub async fn completed_within(&self, waited: Duration) -> Result<(), StillRunning> {
        if tokio::time::timeout(waited, self.completed()).await.is_ok() {
            return Ok(());
        }
        let names: Vec<_> = self.state.borrow().running.keys().copied().collect();
        if names.is_empty() { Ok(()) } else { Err(StillRunning { waited, names }) }
    }

    /// Turns SIGINT and SIGTERM into `begin`, for as long as the process lives. The handlers are
    /// in place when this returns.
    pub fn listen_to_signals(&self) -> io::Result<JoinHandle<()>> {
        let mut interrupts = signal(SignalKind::interrupt())?;
        let mut terminations = signal(SignalKind::terminate())?;
        let shutdown = self.clone();
        Ok(tokio::spawn(async move {
            loop {
                let cause = tokio::select! {
                    Some(()) = interrupts.recv() => Cause::Interrupt,
                    Some(()) = terminations.recv() => Cause::Terminate,
                    else => return,
                };
                tracing::info!(?cause, "asked to end");
                shutdown.begin(cause);
            }
        }))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.state.send_modify(|state| {
            if let Some(count) = state.running.get_mut(self.name) {
                *count -= 1;
                if *count == 0 {
                    state.running.remove(self.name);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_hears_it_and_the_first_cause_stays() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        });
        assert!(!shutdown.begun());
        shutdown.begin(Cause::Terminate);
        shutdown.begin(Cause::Interrupt);
        assert_eq!(waiting.await.unwrap(), Cause::Terminate);
        assert_eq!(shutdown.requested().await, Cause::Terminate);
        shutdown.insisted().await;
    }

    #[tokio::test]
    async fn the_end_waits_for_guards_and_names_who_is_late() {
        let shutdown = Shutdown::new();
        let quick = shutdown.guard("listener");
        let slow = (shutdown.guard("builds"), shutdown.guard("builds"));
        drop(quick);
        let late = shutdown.completed_within(Duration::ZERO).await.unwrap_err();
        assert_eq!(late.to_string(), "still running after 0ns: builds");
        drop(slow.0);
        assert!(shutdown.completed_within(Duration::ZERO).await.is_err());
        drop(slow.1);
        shutdown.completed_within(Duration::ZERO).await.unwrap();
        shutdown.completed().await;
    }

    #[tokio::test]
    async fn ctrl_c_and_sigterm_are_told_apart() {
        use rustix::process::{Signal, getpid, kill_process};
        for (sent, cause) in [(Signal::INT, Cause::Interrupt), (Signal::TERM, Cause::Terminate)] {
            let shutdown = Shutdown::new();
            let listening = shutdown.listen_to_signals().unwrap();
            kill_process(getpid(), sent).unwrap();
            assert_eq!(shutdown.requested().await, cause);
            listening.abort();
        }
    }
}
