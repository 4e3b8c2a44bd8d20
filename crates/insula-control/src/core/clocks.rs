//! Whose clock is wrong: a node's, or this server's.
//!
//! A node's clock is seen twice. Its greeting says what it showed, which is ours to compare; and its
//! agent compares it with ours at each heartbeat that is answered and says so if it is away. The
//! first is a number and grows old, the second is always of now and has no number. If most nodes
//! find themselves away in one way, it is not they who are wrong: then none of them is marked, for a
//! fleet that is marked as a whole places nothing, and the operator hears what is wrong with us.

use insula_model::node::{Ailment, AilmentKind};
use insula_model::{Millis, Timestamp};
use tracing::{error, info};

use super::ailments::CLOCK_SKEW_MAX_MS;
use super::report::Reconciler;
use super::{Core, Now};

/// A greeting's time counts so long: by then the agent has compared for itself many times, and a
/// clock that was set right meanwhile is right.
const GREETING_COUNTS: Millis = Millis::secs(60);
/// A greeting can be on its way for so long: held while nobody leads, or while a database that
/// somebody froze lets the server wait. Then the time that it tells is that much in the past.
const GREETING_LATE_MAX_MS: i64 = 120_000;
/// Our time of day ran away from the clock that never jumps by this much: it was set, or we slept.
const STEP_MIN_MS: u64 = 1_000;
/// After a step agents say one after the other what they think of it. Nobody is marked before the
/// slowest has spoken: it looks every few seconds and believes what it sees after some looks.
const STEP_PATIENCE: Millis = Millis::secs(60);
/// Between looks when nobody has said anything new.
const LOOK_INTERVAL: Millis = Millis::secs(2);

/// How a node's clock is to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Away {
    No,
    /// Ahead of ours by so many milliseconds; negative: behind.
    By(i64),
    /// Its agent says so, and we have no number that agrees.
    Somehow,
}

/// Whose clock is wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Of those that are away, each its own.
    #[default]
    Nodes,
    /// Ours.
    Server {
        /// What those who are most agree on within the bound.
        by: Option<i64>,
        away: usize,
        of: usize,
    },
}

/// Decides it from all that are connected.
pub(super) fn judge(nodes: impl IntoIterator<Item = Away>) -> Verdict {
    let (mut of, mut somehow, mut by) = (0, 0, Vec::new());
    for away in nodes {
        of += 1;
        match away {
            Away::No => {}
            Away::By(ms) => by.push(ms),
            Away::Somehow => somehow += 1,
        }
    }
    if of < 2 || 2 * (by.len() + somehow) <= of {
        return Verdict::Nodes;
    }
    let agreed = most_that_agree(by);
    let away = agreed.map_or(0, |(_, count)| count) + somehow;
    if 2 * away <= of {
        return Verdict::Nodes;
    }
    Verdict::Server { by: agreed.map(|(middle, _)| middle), away, of }
}

/// The middle of the largest group that is away in one way and within the bound of each other, and
/// how many they are.
fn most_that_agree(mut by: Vec<i64>) -> Option<(i64, usize)> {
    by.sort_unstable();
    let mut best: Option<(i64, usize)> = None;
    let mut first = 0;
    for last in 0..by.len() {
        while !agree(by[first], by[last]) {
            first += 1;
        }
        let count = last - first + 1;
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((by[first + count / 2], count));
        }
    }
    best
}

fn agree(a: i64, b: i64) -> bool {
    a.signum() == b.signum() && a.abs_diff(b) <= CLOCK_SKEW_MAX_MS
}

/// What is said of a node's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing, whatever its agent says.
    Nothing,
    /// What its agent says, and our number if it says nothing.
    Away(i64),
    /// What its agent says.
    Itself,
}

impl Verdict {
    pub(super) fn said(self, away: Away) -> Said {
        match (self, away) {
            (_, Away::No) => Said::Itself,
            (Self::Nodes, Away::By(ms)) => Said::Away(ms),
            (Self::Nodes, Away::Somehow) => Said::Itself,
            // It agrees with most: they are right, and so is it.
            (Self::Server { by: Some(all), .. }, Away::By(ms)) if !agree(all, ms) => Said::Away(ms),
            (Self::Server { .. }, Away::By(_) | Away::Somehow) => Said::Nothing,
        }
    }

    /// What the operator has to know of this server.
    fn words(self) -> Option<String> {
        let Self::Server { by, away, of } = self else { return None };
        let way = match by {
            Some(ms) if ms > 0 => format!("is {} s behind", ms.unsigned_abs() / 1_000),
            Some(ms) => format!("is {} s ahead of", ms.unsigned_abs() / 1_000),
            None => "is away from".to_owned(),
        };
        Some(format!(
            "the clock of this server {way} those of {away} of {of} nodes: set it right; until then \
             no node is marked for its clock, and all times are wrong"
        ))
    }
}

/// What a session knows of its node's clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// Ahead of ours when it greeted.
    ahead_ms: i64,
    /// How far our time of day was from the clock that never jumps then.
    offset_ms: i64,
    greeted: Millis,
}

/// Our time of day less the clock that never jumps: changes when the former is set.
fn offset_ms(now: Now) -> i64 {
    now.wall.as_millis().saturating_sub(i64::try_from(now.steady.0).unwrap_or(i64::MAX))
}

impl Seen {
    pub(super) fn greeting(clock: Option<Timestamp>, now: Now) -> Self {
        let ahead = |clock: Timestamp| clock.as_millis().saturating_sub(now.wall.as_millis());
        Self { ahead_ms: clock.map_or(0, ahead), offset_ms: offset_ms(now), greeted: now.steady }
    }

    /// `says`: what the agent says of itself.
    fn away(self, says: bool, now: Now) -> Away {
        // If only our clock was set since, the node's is away by so much more now.
        let set_ms = offset_ms(now).saturating_sub(self.offset_ms);
        let ahead_ms = self.ahead_ms.saturating_sub(set_ms);
        let is_away = ahead_ms.unsigned_abs() > CLOCK_SKEW_MAX_MS;
        if says {
            return if is_away { Away::By(ahead_ms) } else { Away::Somehow };
        }
        // One that shares our clock was set with it, and while we slept nothing was set at all: a
        // number from before says nothing of now. The agent does.
        let old = set_ms.unsigned_abs() > STEP_MIN_MS
            || now.steady.0.saturating_sub(self.greeted.0) > GREETING_COUNTS.0;
        // What came late looks like a clock that is behind; the agent, which looks at the way of a
        // heartbeat there and back, knows better.
        let late = (-GREETING_LATE_MAX_MS..0).contains(&ahead_ms);
        if is_away && !old && !late { Away::By(ahead_ms) } else { Away::No }
    }
}

/// What is remembered between looks.
#[derive(Debug)]
pub(super) struct Clocks {
    verdict: Verdict,
    looked: Option<Millis>,
    offset_ms: i64,
    /// Before this, on the steady clock, nobody is marked who was not.
    patience: Millis,
}

impl Clocks {
    /// For as long as nodes have to return it is not known what most of them say.
    pub(super) fn new(grace: Millis, now: Now) -> Self {
        Self {
            verdict: Verdict::default(),
            looked: None,
            offset_ms: offset_ms(now),
            patience: Millis(now.steady.0 + grace.0),
        }
    }

    /// Whether one that was not marked may be now. One node alone has nobody to ask.
    pub(super) fn may_mark(&self, nodes: usize, now: Now) -> bool {
        nodes < 2 || now.steady >= self.patience
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether our time of day was set since the last look.
    fn see_step(&mut self, now: Now) -> bool {
        let offset = offset_ms(now);
        let stepped = offset.abs_diff(self.offset_ms) > STEP_MIN_MS;
        if stepped {
            self.patience = Millis(self.patience.0.max(now.steady.0 + STEP_PATIENCE.0));
        }
        self.offset_ms = offset;
        stepped
    }
}

impl super::Session {
    pub(super) fn away(&self, now: Now) -> Away {
        let says = |ailment: &Ailment| ailment.kind == AilmentKind::Clock;
        let says = self.ailments.as_ref().is_some_and(|said| said.iter().any(says));
        self.clock.away(says, now)
    }
}

impl Core {
    /// Looks at all clocks when anybody said anything, and now and then. Who may have to be marked,
    /// or not any more, is noted.
    pub(super) fn look_at_clocks(&mut self, now: Now) {
        if self.clocks.see_step(now) {
            // What is due at some time of day may be due at another now.
            self.due.everything(&self.world);
        }
        let waited = self.clocks.looked.map(|at| now.steady.0.saturating_sub(at.0));
        let is_time = waited.is_none_or(|waited| waited >= LOOK_INTERVAL.0);
        if !is_time && self.ailing.is_empty() {
            return;
        }
        let verdict = judge(self.sessions.values().map(|session| session.away(now)));
        let same = std::mem::discriminant(&verdict) == std::mem::discriminant(&self.clocks.verdict);
        self.clocks.verdict = verdict;
        if !same {
            match verdict.words() {
                Some(words) => error!(words, "this server's clock is wrong"),
                None => info!("most nodes agree with this server's clock again"),
            }
            self.ailing.extend(self.sessions.keys());
        }
        if !is_time {
            return;
        }
        self.clocks.looked = Some(now.steady);
        let mut pass = self.pass();
        pass.error = verdict.words();
        // Greetings grow old, and patience ends.
        for (id, session) in &self.sessions {
            let Some(row) = self.world.nodes.get(id) else { continue };
            let is_marked = row.ailments.iter().any(|ailment| ailment.kind == AilmentKind::Clock);
            if session.away(now) != Away::No || is_marked {
                pass.wait(|| format!("the clock of {} is away from this server's", row.name));
                self.ailing.insert(*id);
            }
        }
        self.note(Reconciler::Clocks, pass, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn now(steady: u64, set_ms: i64) -> Now {
        let wall = 1_700_000_000_000 + i64::try_from(steady).unwrap() + set_ms;
        Now { wall: Timestamp::from_millis(wall), steady: Millis(steady) }
    }

    #[test]
    fn one_of_three_is_wrong_itself_and_three_of_three_are_right() {
        assert_eq!(judge([Away::By(HOUR), Away::No, Away::No]), Verdict::Nodes);
        let verdict = judge([Away::By(HOUR), Away::By(HOUR + 900), Away::By(HOUR - 900)]);
        assert_eq!(verdict, Verdict::Server { by: Some(HOUR), away: 3, of: 3 });
        let words = verdict.words().unwrap();
        assert!(words.starts_with("the clock of this server is 3600 s behind those of 3 of 3"));
        let ahead = judge([Away::By(-HOUR), Away::By(-HOUR)]).words().unwrap();
        assert!(ahead.contains("is 3600 s ahead of those of 2 of 2 nodes"), "{ahead}");
    }

    #[test]
    fn who_disagrees_outvotes_nobody_and_one_alone_is_believed_less_than_we_are() {
        for others in [
            vec![Away::By(HOUR)],
            vec![Away::By(HOUR), Away::By(-HOUR)],
            vec![Away::By(HOUR), Away::By(2 * HOUR)],
            vec![Away::By(HOUR), Away::By(HOUR), Away::No, Away::No],
            vec![Away::By(3_000_000), Away::By(2_000_000), Away::By(1_000_000), Away::No],
            vec![Away::Somehow],
            vec![],
        ] {
            assert_eq!(judge(others.clone()), Verdict::Nodes, "{others:?}");
        }
    }

    #[test]
    fn a_node_that_is_away_from_most_is_marked_even_if_the_server_is_wrong() {
        let nodes = [Away::By(HOUR), Away::By(HOUR), Away::Somehow, Away::By(-HOUR)];
        let verdict = judge(nodes);
        let said = nodes.map(|away| verdict.said(away));
        assert_eq!(said, [Said::Nothing, Said::Nothing, Said::Nothing, Said::Away(-HOUR)]);
    }

    #[test]
    fn a_greeting_that_came_late_is_no_clock_that_is_behind_and_one_of_the_future_is_ahead() {
        let heard = now(5_000, 0);
        let seen = |ahead_ms: i64| {
            let clock = Timestamp::from_millis(heard.wall.as_millis() + ahead_ms);
            Seen::greeting(Some(clock), heard)
        };
        for late in [-8_000, -60_000, -119_000] {
            assert_eq!(seen(late).away(false, now(6_000, 0)), Away::No);
            assert_eq!(seen(late).away(true, now(6_000, 0)), Away::By(late), "its agent says so");
        }
        for ahead in [8_000, HOUR, -HOUR] {
            assert_eq!(seen(ahead).away(false, now(6_000, 0)), Away::By(ahead));
        }
    }

    #[test]
    fn most_say_it_of_themselves_without_a_number() {
        let verdict = judge([Away::Somehow, Away::Somehow, Away::No]);
        assert_eq!(verdict, Verdict::Server { by: None, away: 2, of: 3 });
    }

    #[test]
    fn the_time_of_a_greeting_grows_old_and_the_word_of_the_agent_does_not() {
        let greeted = now(5_000, 0);
        let clock = greeted.wall.as_millis() + HOUR;
        let seen = Seen::greeting(Some(Timestamp::from_millis(clock)), greeted);
        assert_eq!(seen.away(false, now(6_000, 0)), Away::By(HOUR));
        assert_eq!(seen.away(true, now(500_000, 0)), Away::By(HOUR));
        assert_eq!(seen.away(false, now(500_000, 0)), Away::No, "it was set right");
        // Our clock was an hour behind and is right again; the agent has not noticed yet.
        assert_eq!(seen.away(true, now(6_000, HOUR)), Away::Somehow);
        assert_eq!(seen.away(false, now(6_000, HOUR)), Away::No);
        // Our clock jumped, or we slept: only the agent knows what that means.
        let seen = Seen::greeting(Some(greeted.wall), greeted);
        assert_eq!(seen.away(false, now(6_000, HOUR)), Away::No);
        assert_eq!(seen.away(true, now(6_000, HOUR)), Away::By(-HOUR));
    }
}
