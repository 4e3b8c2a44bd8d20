//! Who is heard, and for how long not: the ledger behind `World::heard`.
//!
//! It counts its own time, made of the ticks that it was given, and never the time of day. A tick
//! that comes late counts as one that came in time: while this process stood still it heard nobody,
//! and that says nothing of the nodes. So neither a clock that is set nor a server that slept can
//! make a node look lost.

use std::collections::BTreeMap;

use insula_model::{Millis, NodeId};
use insula_plan::Presence;

/// For nodes to come back to a control plane that has just begun. Ten heartbeats: thousands of
/// handshakes take that long on two cores.
pub const RETURN_GRACE: Millis = Millis::secs(10);
/// The share of an interval by which a heartbeat may be late without counting as missed.
const LATE_DIVISOR: u64 = 4;
/// The most that one tick counts, in intervals. A tick comes several times in an interval.
const TICK_COUNTS_MAX: u64 = 1;
/// Up to this many intervals a silence is told exactly, beyond it in steps of so many: nothing is
/// decided by a second more of an hour, and each step is a change of the World.
const EXACT_INTERVALS_MAX: u64 = 20;
const COARSE_INTERVALS: u64 = 10;
/// A silence this long is not told any longer.
const INTERVALS_MAX: u64 = 3_600;

/// Where a node stands in the ledger's own time.
#[derive(Debug, Clone, Copy)]
struct Heard {
    /// When it was heard last, as its session's clock said it.
    reading: Option<Millis>,
    /// When it was heard last, in counted time.
    at: Millis,
    /// It has a session and has said what it holds.
    settled: bool,
    /// What was said of it last.
    told: Presence,
}

#[derive(Debug)]
pub struct Ledger {
    heartbeat: Millis,
    /// Time that counts, and the reading of the monotonic clock that it goes up to.
    counted: Millis,
    ticked: Millis,
    /// Who was never heard is silent since then.
    from: Millis,
    nodes: BTreeMap<NodeId, Heard>,
}

impl Ledger {
    /// `now` is read from a clock that never jumps; where it begins does not matter.
    pub fn new(heartbeat: Millis, grace: Millis, now: Millis) -> Self {
        Self {
            heartbeat: Millis(heartbeat.0.max(1)),
            counted: Millis(0),
            ticked: now,
            from: grace,
            nodes: BTreeMap::new(),
        }
    }

    /// Begins to count the silence of a node.
    pub fn know(&mut self, node: NodeId) {
        let at = Millis(self.from.0.max(self.counted.0));
        let told = Presence::Silent { span: Millis(0) };
        self.nodes.entry(node).or_insert(Heard { reading: None, at, settled: false, told });
    }

    pub fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// A message of its own has just come from the node.
    pub fn heard(&mut self, node: NodeId) {
        self.know(node);
        if let Some(heard) = self.nodes.get_mut(&node) {
            // Not before the grace is over: whoever came early is not worse off for it.
            heard.at = Millis(heard.at.0.max(self.counted.0));
        }
    }

    /// Its session has ended, or a new one has begun.
    pub fn unsettle(&mut self, node: NodeId) {
        if let Some(heard) = self.nodes.get_mut(&node) {
            heard.settled = false;
        }
    }

    /// It has a session and has said what it holds.
    pub fn settle(&mut self, node: NodeId) {
        self.heard(node);
        if let Some(heard) = self.nodes.get_mut(&node) {
            heard.settled = true;
            // What the grace gave it is over: from now on it is heard or it is not.
            heard.at = self.counted;
        }
    }

    /// Lets time pass up to `now`, with what the sessions say of when each node was heard last.
    pub fn tick(&mut self, now: Millis, readings: impl IntoIterator<Item = (NodeId, Millis)>) {
        let passed = Millis(now.0.saturating_sub(self.ticked.0));
        let step = passed.0.min(self.heartbeat.0 * TICK_COUNTS_MAX);
        self.ticked = now;
        self.counted = Millis(self.counted.0 + step);
        for (node, reading) in readings {
            let Some(heard) = self.nodes.get_mut(&node) else { continue };
            if heard.reading == Some(reading) {
                continue;
            }
            heard.reading = Some(reading);
            // Somewhen since the last tick; its age counts no more than the tick did.
            let age = now.0.saturating_sub(reading.0).min(step);
            let at = self.counted.0.saturating_sub(age);
            heard.at = Millis(heard.at.0.max(at));
        }
    }

    pub fn presence(&self, node: NodeId) -> Presence {
        let found = self.nodes.get(&node);
        found.map_or(Presence::Silent { span: Millis(0) }, |heard| self.presence_of(heard))
    }

    fn presence_of(&self, heard: &Heard) -> Presence {
        let missed = self.missed(heard);
        if heard.settled && missed == 0 {
            return Presence::Here;
        }
        let told = match missed {
            0..=EXACT_INTERVALS_MAX => missed,
            more => (more - more % COARSE_INTERVALS).min(INTERVALS_MAX),
        };
        Presence::Silent { span: Millis(told * self.heartbeat.0) }
    }

    /// Whose presence is another than it was when this was asked last. Most ticks of a large fleet
    /// change nobody's.
    pub fn changed(&mut self) -> Vec<NodeId> {
        let mut changed = Vec::new();
        for (node, heard) in &self.nodes {
            let presence = self.presence_of(heard);
            if heard.told != presence {
                changed.push((*node, presence));
            }
        }
        let told = |(node, presence)| {
            if let Some(heard) = self.nodes.get_mut(&node) {
                heard.told = presence;
            }
            node
        };
        changed.into_iter().map(told).collect()
    }

    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.keys().copied()
    }

    /// The age of the oldest last word of a node that is here: how far behind we are.
    pub fn lag(&self) -> Millis {
        let settled = self.nodes.values().filter(|heard| heard.settled);
        let ages = settled.map(|heard| self.counted.0.saturating_sub(heard.at.0));
        Millis(ages.max().unwrap_or(0))
    }

    fn missed(&self, heard: &Heard) -> u64 {
        let silent = self.counted.0.saturating_sub(heard.at.0);
        silent.saturating_sub(self.heartbeat.0 / LATE_DIVISOR) / self.heartbeat.0
    }
}

#[cfg(test)]
mod tests {
    use insula_model::Timestamp;

    use super::*;

    const BEAT: Millis = Millis::secs(1);
    const TICK: u64 = 250;

    fn node(n: u8) -> NodeId {
        NodeId::from_parts(Timestamp::from_millis(1), [n; 10])
    }

    fn silent(intervals: u64) -> Presence {
        Presence::Silent { span: Millis(intervals * BEAT.0) }
    }

    /// A ledger and the clock that it is ticked by.
    struct Story {
        ledger: Ledger,
        now: Millis,
    }

    impl Story {
        fn begins(grace: Millis) -> Self {
            // A monotonic clock begins anywhere.
            let now = Millis(7_777_777);
            Self { ledger: Ledger::new(BEAT, grace, now), now }
        }

        /// Ticks on for a while; the nodes named are heard at each tick.
        fn passes(&mut self, span: Millis, heard: &[NodeId]) {
            for _ in 0..span.0 / TICK {
                self.now.0 += TICK;
                self.ledger.tick(self.now, heard.iter().map(|node| (*node, self.now)));
            }
        }

        fn stands_still(&mut self, span: Millis) {
            self.now.0 += span.0;
            self.ledger.tick(self.now, []);
        }
    }

    #[test]
    fn a_node_is_suspect_after_one_missed_heartbeat_and_given_up_after_three() {
        let mut story = Story::begins(Millis(0));
        let a = node(1);
        story.ledger.settle(a);
        story.passes(BEAT, &[a]);
        assert_eq!(story.ledger.presence(a), Presence::Here);
        // Nearly two intervals: the next heartbeat may be on its way.
        story.passes(BEAT, &[]);
        assert_eq!(story.ledger.presence(a), Presence::Here);
        story.passes(Millis(250), &[]);
        assert_eq!(story.ledger.presence(a), silent(1));
        story.passes(Millis::secs(1), &[]);
        assert_eq!(story.ledger.presence(a), silent(2));
        story.passes(Millis(750), &[]);
        assert_eq!(story.ledger.presence(a), silent(2));
        story.passes(Millis(250), &[]);
        assert_eq!(story.ledger.presence(a), silent(3));
        // One word is enough to be back.
        story.passes(Millis(250), &[a]);
        assert_eq!(story.ledger.presence(a), Presence::Here);
    }

    #[test]
    fn nobody_is_silent_before_nodes_had_time_to_come_back() {
        let mut story = Story::begins(RETURN_GRACE);
        let (a, b) = (node(1), node(2));
        story.ledger.know(a);
        story.ledger.know(b);
        story.passes(RETURN_GRACE, &[]);
        assert_eq!(story.ledger.presence(a), silent(0));
        story.passes(Millis(3_250), &[]);
        assert_eq!(story.ledger.presence(a), silent(3));
    }

    #[test]
    fn who_came_early_and_died_is_not_hidden_by_the_grace() {
        let mut story = Story::begins(RETURN_GRACE);
        let a = node(1);
        story.ledger.know(a);
        story.passes(BEAT, &[]);
        story.ledger.settle(a);
        story.passes(BEAT, &[a]);
        story.passes(Millis(3_250), &[]);
        assert_eq!(story.ledger.presence(a), silent(3));
    }

    #[test]
    fn a_server_that_stood_still_for_a_minute_concludes_nothing() {
        let mut story = Story::begins(Millis(0));
        let a = node(1);
        story.ledger.settle(a);
        story.passes(BEAT, &[a]);
        story.stands_still(Millis::secs(60));
        assert_eq!(story.ledger.presence(a), Presence::Here);
        // Its heartbeats lay in the socket meanwhile.
        story.passes(Millis(250), &[a]);
        assert_eq!(story.ledger.presence(a), Presence::Here);
        // Whoever is really gone is found as fast as ever.
        story.passes(Millis(3_250), &[]);
        assert_eq!(story.ledger.presence(a), silent(3));
    }

    #[test]
    fn a_reading_from_before_the_standstill_is_not_a_sign_of_life_and_not_old_either() {
        let mut story = Story::begins(Millis(0));
        let a = node(1);
        story.ledger.settle(a);
        story.passes(BEAT, &[a]);
        let last = story.now;
        story.now.0 += 60_000;
        story.ledger.tick(story.now, [(a, Millis(last.0 + 100))]);
        assert_eq!(story.ledger.presence(a), Presence::Here);
        // It counts as heard a whole tick ago.
        story.passes(Millis(2_250), &[]);
        assert_eq!(story.ledger.presence(a), silent(3));
    }

    #[test]
    fn a_monotonic_clock_that_steps_back_costs_nothing() {
        let mut story = Story::begins(Millis(0));
        let a = node(1);
        story.ledger.settle(a);
        story.passes(BEAT, &[a]);
        story.now.0 -= 5_000;
        story.ledger.tick(story.now, []);
        assert_eq!(story.ledger.presence(a), Presence::Here);
    }

    #[test]
    fn a_node_without_a_session_is_not_here_however_much_it_was_heard() {
        let mut story = Story::begins(Millis(0));
        let a = node(1);
        story.ledger.settle(a);
        story.passes(BEAT, &[a]);
        story.ledger.unsettle(a);
        assert_eq!(story.ledger.presence(a), silent(0));
        story.passes(Millis(3_250), &[]);
        assert_eq!(story.ledger.presence(a), silent(3));
    }

    #[test]
    fn only_what_changed_is_told_and_only_once() {
        let mut story = Story::begins(Millis(0));
        let (a, b) = (node(1), node(2));
        story.ledger.settle(a);
        story.ledger.settle(b);
        assert_eq!(story.ledger.changed(), [a, b]);
        story.passes(Millis::secs(2), &[a]);
        assert_eq!(story.ledger.changed(), [b]);
        assert_eq!(story.ledger.changed(), []);
    }

    #[test]
    fn a_long_silence_is_told_in_long_steps_and_ends_somewhere() {
        let mut story = Story::begins(Millis(0));
        let a = node(1);
        story.ledger.know(a);
        story.passes(Millis::secs(27), &[]);
        assert_eq!(story.ledger.presence(a), silent(20));
        story.passes(Millis::secs(5_000), &[]);
        assert_eq!(story.ledger.presence(a), silent(INTERVALS_MAX));
    }
}
