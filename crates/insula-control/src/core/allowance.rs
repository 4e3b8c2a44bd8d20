//! How many rows the word of one node may change.
//!
//! Enough at once for the largest node to start all that it has, several times over, and then a
//! steady rest: one machine that is broken, or not ours any more, must not fill the database and
//! the histories of those whose instances it has. Over it, what the node says waits. A report is
//! complete, so the newest says it all and nothing is lost but what was in between.

use std::collections::BTreeMap;

use insula_model::{Millis, NodeId, limits};

/// Each instance of the largest node: fetched, started, ready, unready, ready again, stopped, gone.
const ROWS_AT_ONCE: i64 = 8 * limits::REPORT_INSTANCES_MAX as i64;
/// A quarter of the largest node's instances in each second, for ever: no node of ours does that.
const ROWS_PER_SECOND: i64 = 256;
/// One row, and a look at every app that the node has something of.
pub(super) const GREETING_ROWS: usize = 16;

/// Nodes that changed anything not long ago.
#[derive(Debug, Default)]
pub(super) struct Allowances(BTreeMap<NodeId, Spent>);

#[derive(Debug)]
struct Spent {
    rows: i64,
    /// On the steady clock.
    as_of: Millis,
}

impl Spent {
    fn pass(&mut self, now: Millis) {
        let passed = i64::try_from(now.0.saturating_sub(self.as_of.0)).unwrap_or(i64::MAX);
        // Whole rows: the rest of the time counts the next time.
        let given_back = passed.saturating_mul(ROWS_PER_SECOND) / 1_000;
        if given_back > 0 {
            (self.rows, self.as_of) = ((self.rows.saturating_sub(given_back)).max(0), now);
        }
    }
}

impl Allowances {
    /// Whether the node has anything left.
    pub(super) fn has_some(&mut self, node: NodeId, now: Millis) -> bool {
        let Some(spent) = self.0.get_mut(&node) else { return true };
        spent.pass(now);
        spent.rows < ROWS_AT_ONCE
    }

    /// These were changed. May go over what is left, once.
    pub(super) fn spend(&mut self, node: NodeId, rows: usize, now: Millis) {
        let spent = self.0.entry(node).or_insert(Spent { rows: 0, as_of: now });
        spent.pass(now);
        spent.rows = spent.rows.saturating_add(i64::try_from(rows).unwrap_or(i64::MAX));
    }

    /// Lets go of those who have all of it again.
    pub(super) fn prune(&mut self, now: Millis) {
        self.0.retain(|_, spent| {
            spent.pass(now);
            spent.rows > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_u128(1);

    #[test]
    fn a_burst_is_let_through_and_what_goes_on_and_on_is_slowed_down() {
        let (mut all, mut now) = (Allowances::default(), Millis(5_000));
        let mut rows = 0;
        // Four a second, a thousand rows each, for ten minutes.
        for _ in 0..2_400 {
            if all.has_some(NODE, now) {
                all.spend(NODE, 1_024, now);
                rows += 1_024;
            }
            now.0 += 250;
        }
        let most = ROWS_AT_ONCE + 600 * ROWS_PER_SECOND + 1_024;
        assert!((most - 2_048..=most).contains(&rows), "{rows} of {most}");
        assert!(all.has_some(NodeId::from_u128(2), now), "another node is not the worse for it");
        now.0 += 60_000;
        all.prune(now);
        assert!(all.0.is_empty(), "nobody is remembered for ever");
        assert!(all.has_some(NODE, now));
    }
}
