//! Builds: a source goes through the steps of its plan, in sandboxes with limits, and comes out as a
//! layer.
//!
//! `settings` is what the operator's network needs, `spec` the sandbox of a step, `output` the way of
//! its output into the log, `watch` the bound on disk, `task` the whole of one build, `state` what
//! is kept of it for the next agent.

mod output;
mod settings;
mod spec;
mod state;
mod task;
mod watch;

use std::sync::Arc;

use insula_model::target::BuildTarget;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

pub use settings::Settings;
pub use task::{BuildTask, end_sandboxes};

/// Builds at once on one node: each may use two cores, and instances come first.
const BUILDS_AT_ONCE: usize = 2;
/// What the names of sandboxes of builds begin with.
pub const SANDBOX_PREFIX: &str = "bld_";

/// All builds of the node.
#[derive(Debug)]
pub struct Builds {
    shared: Arc<Shared>,
    turns: Arc<Semaphore>,
    settings: Arc<Settings>,
}

impl Builds {
    pub fn new(shared: Arc<Shared>) -> Self {
        let settings = Arc::new(Settings::of(&shared.build));
        Self { shared, turns: Arc::new(Semaphore::new(BUILDS_AT_ONCE)), settings }
    }

    /// Visible in reports when this returns. `cancel` is for when nobody wants it (any more).
    pub fn task(&self, target: BuildTarget, cancel: CancellationToken) -> BuildTask {
        let (turns, settings) = (Arc::clone(&self.turns), Arc::clone(&self.settings));
        BuildTask::new(Arc::clone(&self.shared), target, turns, settings, cancel)
    }
}
