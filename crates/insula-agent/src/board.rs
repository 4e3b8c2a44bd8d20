//! What the node holds, ready to be reported: the one place where every part writes what it
//! observed, and from which the session reads.
//!
//! A report is always complete, so a session that is late sends the newest and skips the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use insula_model::node::Ailment;
use insula_model::observed::{BuildPhase, BuildReport, InstanceReport, NodeReport};
use insula_model::{BuildId, Generation, InstanceId};
use tokio::sync::watch;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    generation: Generation,
    instances: BTreeMap<InstanceId, InstanceReport>,
    builds: BTreeMap<BuildId, BuildPhase>,
    ailments: Vec<Ailment>,
}

/// Clones write on the same board.
#[derive(Debug, Clone, Default)]
pub struct Board {
    state: Arc<watch::Sender<State>>,
}

/// Sees each change of a board, or the newest of several.
#[derive(Debug)]
pub struct BoardWatch {
    state: watch::Receiver<State>,
}

impl Board {
    pub fn set_generation(&self, generation: Generation) {
        self.change(|state| std::mem::replace(&mut state.generation, generation) != generation);
    }

    pub fn put_instance(&self, report: InstanceReport) {
        self.change(|state| state.instances.insert(report.id, report.clone()) != Some(report));
    }

    pub fn remove_instance(&self, id: InstanceId) {
        self.change(|state| state.instances.remove(&id).is_some());
    }

    pub fn put_build(&self, id: BuildId, phase: BuildPhase) {
        self.change(|state| state.builds.insert(id, phase.clone()) != Some(phase));
    }

    pub fn remove_build(&self, id: BuildId) {
        self.change(|state| state.builds.remove(&id).is_some());
    }

    /// What is wrong with the node itself, all of it.
    pub fn set_ailments(&self, ailments: Vec<Ailment>) {
        self.change(|state| {
            let changed = state.ailments != ailments;
            state.ailments = ailments;
            changed
        });
    }

    pub fn report(&self) -> NodeReport {
        report(&self.state.borrow())
    }

    pub fn watch(&self) -> BoardWatch {
        let mut state = self.state.subscribe();
        // A new session begins with a report, changed or not.
        state.mark_changed();
        BoardWatch { state }
    }

    /// `change` says whether anything is different: half of all probes change nothing, and then
    /// nobody is woken.
    fn change(&self, change: impl FnOnce(&mut State) -> bool) {
        self.state.send_if_modified(change);
    }
}

impl BoardWatch {
    /// The next report; waits for a change if the newest was seen already.
    pub async fn next(&mut self) -> NodeReport {
        // The board may be gone at the end of the process; then nothing changes any more.
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        report(&self.state.borrow_and_update())
    }
}

fn report(state: &State) -> NodeReport {
    NodeReport {
        generation: state.generation,
        instances: state.instances.values().cloned().collect(),
        builds: state
            .builds
            .iter()
            .map(|(id, phase)| BuildReport { id: *id, phase: phase.clone() })
            .collect(),
        ailments: state.ailments.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use insula_model::Timestamp;

    use super::*;

    fn is_pending(future: impl Future<Output = NodeReport>) -> bool {
        matches!(pin!(future).poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
    }

    #[tokio::test]
    async fn a_watch_begins_with_a_report_and_then_tells_only_what_changed() {
        let board = Board::default();
        let build = BuildId::from_parts(Timestamp::from_millis(1), [1; 10]);
        let running = |step: &str| BuildPhase::Running { step: step.into() };
        let mut watch = board.watch();
        assert_eq!(
            watch.next().await,
            NodeReport {
                generation: Generation(0),
                instances: vec![],
                builds: vec![],
                ailments: vec![],
            }
        );
        assert!(is_pending(watch.next()));
        board.put_build(build, running("install"));
        board.put_build(build, running("compile"));
        let seen = watch.next().await;
        assert_eq!(seen.builds, [BuildReport { id: build, phase: running("compile") }]);
        board.put_build(build, running("compile"));
        assert!(is_pending(watch.next()), "the same again is no news");
        board.remove_build(build);
        assert!(watch.next().await.builds.is_empty());
    }
}
