//! Builds: a source goes through the steps of its plan, in sandboxes with limits, and comes out as a
//! layer.
//!
//! `settings` is what the operator's network needs, `spec` the sandbox of a step, `output` the way of
//! its output into the log, `watch` the bound on disk with `nameless` for what has no name there,
//! `turns` whose build is next, `task` the whole of one build, `state` what is kept of it for the
//! next agent.

mod nameless;
mod output;
mod settings;
mod spec;
mod state;
mod task;
mod turns;
mod watch;

use std::sync::Arc;

use insula_model::target::BuildTarget;
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;
use turns::Turns;

pub use settings::Settings;
pub use task::{BuildTask, end_sandboxes};

/// Builds at once on one node: each may use two cores, and instances come first. Two, as many as an
/// org has at once by default, and one that it cannot take from the others.
const BUILDS_AT_ONCE: usize = 3;
/// Of these for one org.
const BUILDS_AT_ONCE_OF_ORG: usize = BUILDS_AT_ONCE - 1;
/// What the names of sandboxes of builds begin with.
pub const SANDBOX_PREFIX: &str = "bld_";

/// All builds of the node.
#[derive(Debug)]
pub struct Builds {
    shared: Arc<Shared>,
    turns: Turns,
    settings: Arc<Settings>,
}

impl Builds {
    pub fn new(shared: Arc<Shared>) -> Self {
        let settings = Arc::new(Settings::of(&shared.build));
        Self { shared, turns: Turns::new(BUILDS_AT_ONCE, BUILDS_AT_ONCE_OF_ORG), settings }
    }

    /// Visible in reports when this returns. `cancel` is for when nobody wants it (any more).
    pub fn task(&self, target: BuildTarget, cancel: CancellationToken) -> BuildTask {
        let (turn, settings) = (self.turns.enter(target.place.org), Arc::clone(&self.settings));
        BuildTask::new(Arc::clone(&self.shared), target, turn, settings, cancel)
    }
}
