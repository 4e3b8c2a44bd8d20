//! Who is heard, and for how long not: the ledger behind `World::heard`.
//!
//! It counts its own time, made of the looks that it was given, and never the time of day. A look
//! that comes late counts as one that came in time: while this process stood still it heard nobody,
//! and that says nothing of the nodes. So neither a clock that is set nor a server that slept can
//! make a node look lost.
//!
//! Nobody asks for every node several times a second. Each stands in a queue by the time at which
//! something else might have to be said of it, and until then what its sessions say is not even
//! read: a heartbeat costs one place in the queue, and a dead node is noticed when its time has come
//! and not at the next tick.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::{Millis, NodeId};
use insula_plan::Presence;

/// For nodes to come back to a control plane that has just begun. Ten heartbeats: thousands of
/// handshakes take that long on two cores.
pub const RETURN_GRACE: Millis = Millis::secs(10);
/// The share of an interval by which a heartbeat may be late without counting as missed.
const LATE_DIVISOR: u64 = 4;
/// The most that one look counts, in intervals. They come at least that often.
const LOOK_COUNTS_MAX: u64 = 1;
/// Between looks at least: with many nodes somebody's time has always come, and what so short a
/// wait adds to three intervals nobody sees.
const LOOK_PAUSE_MIN: Millis = Millis(20);
/// The share of an interval before its time in which a node is looked at together with others.
/// Whoever beats in time has spoken by then, and leaves the queue for the rest of an interval; so
/// a fleet that is well is looked at four times in an interval, and each of its nodes once.
const EARLY_DIVISOR: u64 = 4;
/// The share of an interval after which a node that is connected and silent is looked at again: its
/// next word makes it present.
const RETURN_DIVISOR: u64 = 4;
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
    /// The time that had not been counted when its session was asked last.
    uncounted: Millis,
    /// Its place in the queue.
    due: Millis,
    /// It has a session and has said what it holds.
    settled: bool,
    /// What was said of it last.
    told: Presence,
}

#[derive(Debug)]
pub struct Ledger {
    heartbeat: Millis,
    /// Time that counts, what does not, and the reading of the monotonic clock that they go up to.
    counted: Millis,
    uncounted: Millis,
    looked: Millis,
    /// Who was never heard is silent since then.
    from: Millis,
    nodes: BTreeMap<NodeId, Heard>,
    /// By the counted time at which something else may have to be said. Each known node is in it
    /// once, and never too late: one that was heard since moves on when its turn has come.
    queue: BTreeSet<(Millis, NodeId)>,
}

impl Ledger {
    /// `now` is read from a clock that never jumps; where it begins does not matter.
    pub fn new(heartbeat: Millis, grace: Millis, now: Millis) -> Self {
        Self {
            heartbeat: Millis(heartbeat.0.max(1)),
            counted: Millis(0),
            uncounted: Millis(0),
            looked: now,
            from: grace,
            nodes: BTreeMap::new(),
            queue: BTreeSet::new(),
        }
    }

    /// Begins to count the silence of a node.
    pub fn know(&mut self, node: NodeId) {
        if self.nodes.contains_key(&node) {
            return;
        }
        let mut heard = Heard {
            reading: None,
            at: Millis(self.from.0.max(self.counted.0)),
            uncounted: self.uncounted,
            due: Millis(0),
            settled: false,
            told: Presence::Silent { span: Millis(0) },
        };
        heard.due = self.next_due(&heard);
        self.queue.insert((heard.due, node));
        self.nodes.insert(node, heard);
    }

    pub fn forget(&mut self, node: NodeId) {
        if let Some(heard) = self.nodes.remove(&node) {
            self.queue.remove(&(heard.due, node));
        }
    }

    /// A message of its own has just come from the node.
    pub fn heard(&mut self, node: NodeId) {
        self.know(node);
        let Some(mut heard) = self.nodes.get(&node).copied() else { return };
        // Not before the grace is over: whoever came early is not worse off for it.
        heard.at = Millis(heard.at.0.max(self.counted.0));
        // Something else has to be said of it at once; anybody else stays where he is in the queue.
        if self.presence_of(&heard) == heard.told {
            self.nodes.insert(node, heard);
        } else {
            self.put(node, heard, self.counted);
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
        let Some(mut heard) = self.nodes.get(&node).copied() else { return };
        heard.settled = true;
        // What the grace gave it is over: from now on it is heard or it is not.
        heard.at = self.counted;
        self.put(node, heard, self.next_due(&heard));
    }

    /// Notes what is known of a node, and when it is to be looked at.
    fn put(&mut self, node: NodeId, mut heard: Heard, due: Millis) {
        self.queue.remove(&(heard.due, node));
        heard.due = due;
        self.queue.insert((heard.due, node));
        self.nodes.insert(node, heard);
    }

    /// When something else has to be said of a node that is not heard before, in counted time.
    fn next_due(&self, heard: &Heard) -> Millis {
        let (beat, missed) = (self.heartbeat.0, self.missed(heard));
        let next = match missed {
            0..EXACT_INTERVALS_MAX => missed + 1,
            more => more - more % COARSE_INTERVALS + COARSE_INTERVALS,
        };
        let due = heard.at.0 + beat / LATE_DIVISOR + beat * next;
        let returns = self.counted.0 + beat / RETURN_DIVISOR;
        Millis(if heard.settled && missed > 0 { due.min(returns) } else { due })
    }

    /// Whose sessions have to be asked for the look at `now`.
    pub fn awaited(&self, now: Millis) -> impl Iterator<Item = NodeId> {
        let until = self.counted.0 + self.passed(now).0;
        self.up_to(Millis(until)).map(|(_, node)| node)
    }

    fn up_to(&self, counted: Millis) -> impl Iterator<Item = (Millis, NodeId)> {
        let early = Millis(counted.0 + self.heartbeat.0 / EARLY_DIVISOR);
        self.queue.iter().copied().take_while(move |(due, _)| *due <= early)
    }

    /// The time since the last look, as much of it as counts.
    fn passed(&self, now: Millis) -> Millis {
        let passed = now.0.saturating_sub(self.looked.0);
        Millis(passed.min(self.heartbeat.0 * LOOK_COUNTS_MAX))
    }

    /// When to look again, on the clock of `look`: as soon as something may have to be said.
    pub fn look_at(&self) -> Millis {
        let most = self.heartbeat.0 * LOOK_COUNTS_MAX;
        let first =
            self.queue.first().map_or(most, |(due, _)| due.0.saturating_sub(self.counted.0));
        Millis(self.looked.0 + first.clamp(LOOK_PAUSE_MIN.0.min(most), most))
    }

    /// Lets time pass up to `now`, with what the sessions say of when nodes were heard last: of
    /// those who are awaited at least. Tells whose presence is another than was told last.
    pub fn look(
        &mut self,
        now: Millis,
        readings: impl IntoIterator<Item = (NodeId, Millis)>,
    ) -> Vec<NodeId> {
        let passed = self.passed(now);
        self.uncounted.0 += now.0.saturating_sub(self.looked.0) - passed.0;
        self.looked = now;
        self.counted.0 += passed.0;
        for (node, reading) in readings {
            let Some(heard) = self.nodes.get_mut(&node) else { continue };
            // Of its age nothing counts that did not count for us, since we asked for it last.
            let stood_still = self.uncounted.0 - heard.uncounted.0;
            heard.uncounted = self.uncounted;
            if heard.reading == Some(reading) {
                continue;
            }
            heard.reading = Some(reading);
            let age = now.0.saturating_sub(reading.0).saturating_sub(stood_still);
            heard.at = Millis(heard.at.0.max(self.counted.0.saturating_sub(age)));
        }
        let due: Vec<NodeId> = self.up_to(self.counted).map(|(_, node)| node).collect();
        let mut changed = Vec::new();
        for node in due {
            let Some(mut heard) = self.nodes.get(&node).copied() else { continue };
            let presence = self.presence_of(&heard);
            if heard.told != presence {
                heard.told = presence;
                changed.push(node);
            }
            self.put(node, heard, self.next_due(&heard));
        }
        changed.sort_unstable();
        changed
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
    use insula_kit::random::{Random, SeededRandom};
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
                self.ledger.look(self.now, heard.iter().map(|node| (*node, self.now)));
            }
        }

        fn stands_still(&mut self, span: Millis) {
            self.now.0 += span.0;
            self.ledger.look(self.now, []);
        }
    }

    /// A fleet whose nodes beat in their own time, and a ledger that looks when it wants to.
    struct Fleet {
        story: Story,
        /// When each beats next, and beat last.
        beats: BTreeMap<NodeId, (Millis, Millis)>,
        dead: BTreeSet<NodeId>,
        late_ms: u64,
        random: SeededRandom,
        looks: u64,
        asked: u64,
    }

    impl Fleet {
        fn of(nodes: u32) -> Self {
            let (mut story, random) = (Story::begins(Millis(0)), SeededRandom::new(1));
            let now = story.now;
            let mut beats = BTreeMap::new();
            for n in 0..nodes {
                let id = NodeId::from_u128(u128::from(n) + 1);
                let phase = Millis(now.0 - below(&random, BEAT.0));
                story.ledger.settle(id);
                beats.insert(id, (Millis(phase.0 + BEAT.0), phase));
            }
            let dead = BTreeSet::new();
            Self { story, beats, dead, late_ms: 0, random, looks: 0, asked: 0 }
        }

        fn dies(&mut self, node: NodeId) -> Millis {
            self.dead.insert(node);
            self.beats[&node].1
        }

        /// Until the time has come, or something was told.
        fn until(&mut self, end: Millis) -> Vec<NodeId> {
            loop {
                let at = self.story.ledger.look_at();
                assert!(at > self.story.now, "the clock moves on");
                if at > end {
                    return vec![];
                }
                self.story.now = at;
                let awaited: Vec<NodeId> = self.story.ledger.awaited(at).collect();
                self.looks += 1;
                self.asked += awaited.len() as u64;
                let read = awaited.into_iter().map(|id| (id, self.spoke(id, at)));
                let read: Vec<(NodeId, Millis)> = read.collect();
                let told = self.story.ledger.look(at, read);
                if !told.is_empty() {
                    return told;
                }
            }
        }

        /// When a node was heard last.
        fn spoke(&mut self, node: NodeId, now: Millis) -> Millis {
            let Some((next, last)) = self.beats.get_mut(&node) else { return now };
            while *next <= now && !self.dead.contains(&node) {
                *last = *next;
                let late = if self.late_ms > 0 { below(&self.random, self.late_ms) } else { 0 };
                // Beats keep their own time: one that was late does not delay the next.
                next.0 += BEAT.0;
                last.0 = (last.0 + late).min(now.0);
            }
            *last
        }
    }

    fn below(random: &SeededRandom, bound: u64) -> u64 {
        random.next_u64() % bound
    }

    #[test]
    fn a_dead_node_is_given_up_at_the_very_moment() {
        for nodes in [1, 3, 100] {
            let mut fleet = Fleet::of(nodes);
            let end = Millis(fleet.story.now.0 + 10_000);
            while !fleet.until(end).is_empty() {}
            let dies = NodeId::from_u128(1);
            let last = fleet.dies(dies);
            for intervals in 1..=3 {
                let end = Millis(fleet.story.now.0 + 5_000);
                assert_eq!(fleet.until(end), [dies]);
                assert_eq!(fleet.story.ledger.presence(dies), silent(intervals));
                let late = fleet.story.now.0 - (last.0 + intervals * BEAT.0 + 250);
                assert!(late <= LOOK_PAUSE_MIN.0, "{late} ms late of {nodes} nodes");
            }
        }
    }

    #[test]
    fn a_fleet_that_is_well_is_asked_once_for_each_heartbeat() {
        let mut fleet = Fleet::of(10_000);
        fleet.late_ms = 100;
        let end = Millis(fleet.story.now.0 + 3_000);
        while !fleet.until(end).is_empty() {}
        (fleet.looks, fleet.asked) = (0, 0);
        let end = Millis(fleet.story.now.0 + 60_000);
        assert_eq!(fleet.until(end), [], "nobody is missed though all are late now and then");
        assert!(fleet.looks <= 60 * 10, "{} looks in a minute", fleet.looks);
        let per_beat = fleet.asked as f64 / (60.0 * 10_000.0);
        assert!(per_beat < 1.5, "each node is asked for {per_beat} times in an interval");
        // One node alone: once in an interval, no more.
        let mut alone = Fleet::of(1);
        let end = Millis(alone.story.now.0 + 60_000);
        while !alone.until(end).is_empty() {}
        assert!((48..=62).contains(&alone.looks), "{} looks in a minute", alone.looks);
    }

    #[test]
    fn a_node_that_speaks_again_is_present_soon_without_a_new_session() {
        let mut fleet = Fleet::of(3);
        let end = Millis(fleet.story.now.0 + 3_000);
        while !fleet.until(end).is_empty() {}
        let node = NodeId::from_u128(2);
        fleet.dies(node);
        while fleet.story.ledger.presence(node) != silent(30) {
            fleet.until(Millis(fleet.story.now.0 + 60_000));
        }
        fleet.dead.clear();
        let before = fleet.story.now;
        fleet.beats.insert(node, (before, before));
        assert_eq!(fleet.until(Millis(before.0 + 1_000)), [node]);
        assert_eq!(fleet.story.ledger.presence(node), Presence::Here);
        assert!(fleet.story.now.0 - before.0 <= BEAT.0 / RETURN_DIVISOR);
    }

    #[test]
    fn a_word_that_is_not_a_heartbeat_counts_at_once() {
        let mut story = Story::begins(Millis(0));
        let a = node(1);
        story.ledger.know(a);
        story.passes(Millis::secs(100), &[]);
        assert_eq!(story.ledger.presence(a), silent(90));
        story.ledger.heard(a);
        story.now = story.ledger.look_at();
        assert_eq!(story.ledger.look(story.now, []), [a]);
        assert_eq!(story.ledger.presence(a), silent(0));
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
        story.ledger.look(story.now, [(a, Millis(last.0 + 100))]);
        assert_eq!(story.ledger.presence(a), Presence::Here);
        // One interval of the standstill counts, and it spoke a tenth after its beginning.
        story.passes(Millis(2_250), &[]);
        assert_eq!(story.ledger.presence(a), silent(2));
        story.passes(Millis(250), &[]);
        assert_eq!(story.ledger.presence(a), silent(3));
    }

    #[test]
    fn a_monotonic_clock_that_steps_back_costs_nothing() {
        let mut story = Story::begins(Millis(0));
        let a = node(1);
        story.ledger.settle(a);
        story.passes(BEAT, &[a]);
        story.now.0 -= 5_000;
        story.ledger.look(story.now, []);
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
        let mut told = Vec::new();
        for _ in 0..12 {
            story.now.0 += TICK;
            told.push(story.ledger.look(story.now, [(a, story.now)]));
        }
        told.retain(|told| !told.is_empty());
        assert_eq!(told, [vec![a, b], vec![b], vec![b]]);
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
