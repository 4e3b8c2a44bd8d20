//! How many deployments have ended, and how, since this server began.
//!
//! Counted from the history, where each end stands once, written in the transaction that made it:
//! a pass that is repeated and a write that was refused are not counted. Nobody follows the history
//! for this; it is read on when somebody asks for the count.

use insula_kit::metrics::Metrics;
use insula_store::events::{self, EventSeq, Of};
use insula_store::{Store, StoreError};
use tokio::sync::Mutex;

/// What the history calls an end, and what the count does.
const OUTCOMES: [(&str, &str); 4] = [
    ("deployment.live", "live"),
    ("deployment.failed", "failed"),
    ("deployment.superseded", "superseded"),
    ("deployment.cancelled", "cancelled"),
];
/// Events that are read at once: a megabyte, and a few milliseconds.
const EVENTS_PER_PAGE: usize = 1_000;
/// After a long silence a reading stays short; the next one goes on where it ended.
const PAGES_PER_READING_MAX: usize = 50;

#[derive(Debug)]
pub struct Outcomes {
    /// Everything up to here is counted.
    counted: Mutex<EventSeq>,
}

impl Outcomes {
    /// Counts what comes after `now`.
    pub fn after(now: EventSeq) -> Self {
        Self { counted: Mutex::new(now) }
    }

    /// Brings the counters up to date.
    pub async fn count(&self, store: &Store, metrics: &Metrics) -> Result<(), StoreError> {
        // Held all the while: two readings at once must not count the same events.
        let mut counted = self.counted.lock().await;
        for _ in 0..PAGES_PER_READING_MAX {
            let after = *counted;
            let page = store
                .read(move |tx| events::since(tx, Of::Platform, after, EVENTS_PER_PAGE))
                .await?;
            let mut ends = [0; OUTCOMES.len()];
            for (seq, event) in &page {
                *counted = *seq;
                for (count, (kind, _)) in ends.iter_mut().zip(OUTCOMES) {
                    *count += u64::from(event.kind == kind);
                }
            }
            for (count, (_, outcome)) in ends.into_iter().zip(OUTCOMES) {
                // Also those that are nought: a rate needs something to rise from.
                metrics
                    .counter(
                        "insula_deployments_ended_total",
                        "Deployments that ended since the server began.",
                        &[("outcome", outcome)],
                    )
                    .add(count);
            }
            if page.len() < EVENTS_PER_PAGE {
                break;
            }
        }
        Ok(())
    }
}
