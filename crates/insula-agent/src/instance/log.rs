//! The log of an instance: whose it is, told to the keeper before the app starts, and its last lines.

use std::path::Path;
use std::time::Duration;

use insula_model::limits::{CAUSE_TAIL_LINE_LEN_MAX, CAUSE_TAIL_LINES_MAX};
use insula_model::spec::Failover;
use insula_model::target::InstanceTarget;
use insula_sandbox::SandboxDir;

use crate::keeper::{KeptRecord, LOG_SCHEMA, LogSpec};
use crate::log::{Bound, LogRoot, Stream, tail_lines};
use crate::sandbox::Early;

/// Ten seconds of writing at the full rate, at once: stack traces come in bursts.
const BURST_SECS: u64 = 10;
/// Of one app: a hundred times what people scroll through.
const APP_BOUND: Bound = Bound { bytes: 256 << 20, segments: 2_000 };
/// The keeper needs a millisecond to take what was left in the pipes; beyond this it is not there.
const KEEPER_TIME_MAX: Duration = Duration::from_millis(500);
const KEEPER_LOOK_EVERY: Duration = Duration::from_millis(2);

pub fn log_spec(target: &InstanceTarget) -> LogSpec {
    LogSpec {
        schema: LOG_SCHEMA,
        org: target.place.org,
        app: target.place.app,
        component: target.component.clone(),
        release: target.release,
        instance: target.id,
        rate_bytes_per_s: target.log_rate.0,
        burst_bytes: target.log_rate.0.saturating_mul(BURST_SECS),
        keep: APP_BOUND,
        lease_grace_ms: match target.failover {
            Failover::Lease => Some(target.stop.grace.0),
            Failover::Never => None,
        },
    }
}

/// Puts the keeper's orders into a sandbox's folder as soon as there is one.
#[derive(Debug)]
pub struct TellKeeper(pub LogSpec);

impl Early for TellKeeper {
    fn attempt(&mut self, dir: &SandboxDir) -> bool {
        match self.0.store(dir.path()) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(error = %crate::error::chain(&error), "tell the keeper");
                false
            }
        }
    }
}

/// Waits until all that the sandbox wrote is in the log, if a keeper is there to put it there.
pub async fn drained(sandbox: &Path) {
    let waiting = async {
        while matches!(KeptRecord::load(sandbox), Ok(None)) {
            tokio::time::sleep(KEEPER_LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(KEEPER_TIME_MAX, waiting).await.is_err() {
        tracing::warn!(sandbox = %sandbox.display(), "no keeper has taken the end of this log");
    }
}

/// The last lines that the app wrote, for whoever asks why it ended.
pub async fn tail(root: &LogRoot, target: &InstanceTarget) -> Vec<String> {
    let dir = root.instance(target.place.app, &target.component, target.id);
    let read = tokio::task::spawn_blocking(move || {
        // Some of them may be ours, so a few more are read.
        tail_lines(&dir, CAUSE_TAIL_LINES_MAX * 2).unwrap_or_default()
    });
    let entries = read.await.unwrap_or_default();
    let mut lines: Vec<String> = entries
        .into_iter()
        .filter(|entry| entry.stream != Stream::Platform)
        .map(|entry| shortened(&entry.text))
        .collect();
    lines.drain(..lines.len().saturating_sub(CAUSE_TAIL_LINES_MAX));
    lines
}

pub fn shortened(line: &str) -> String {
    let mut line = line.to_owned();
    if line.len() > CAUSE_TAIL_LINE_LEN_MAX {
        let mut end = CAUSE_TAIL_LINE_LEN_MAX;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line
}
