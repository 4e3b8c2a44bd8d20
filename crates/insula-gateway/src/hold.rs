//! Requests that wait for a node whose relay is away for a moment: its agent begins again.
//!
//! Decides what becomes of a request that nobody took, and bounds how many wait. Only what may be
//! sent (again) waits, and nobody reads its body meanwhile: both are `proxy`'s business. Which of
//! several endpoints is asked is `balance`'s.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use insula_model::AppId;

use crate::limits::Limits;
use crate::way::Way;

/// The pulse hears of an end when a request does, and knows the rest after dialling once more: a
/// round trip, to far-away machines too.
const PULSE_GRACE: Duration = Duration::from_millis(100);

/// A way that led nowhere, when that may have been the fault of its node's relay alone.
#[derive(Debug)]
pub(crate) struct Doubt {
    pub(crate) way: Way,
    pub(crate) asked: Instant,
    pub(crate) failed: Instant,
    /// The pulse had said so already.
    pub(crate) was_dead: bool,
}

/// One endpoint of a route, as a request that found nobody sees it.
#[derive(Debug)]
pub(crate) struct Prospect<'d> {
    pub(crate) tried: bool,
    pub(crate) doubt: Option<&'d Doubt>,
    /// The pulse says so now.
    pub(crate) is_dead: bool,
    /// When the pulse was lost last; the node may be back since.
    pub(crate) lost: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Somebody can be asked.
    Anew,
    /// Until then, or until something is heard of a node or from the server.
    Wait(Instant),
    /// Nobody is expected.
    GiveUp,
}

impl Doubt {
    /// Whether its node was gone since it was asked, and not only the instance.
    pub(crate) fn is_confirmed(&self, lost: Option<Instant>) -> bool {
        self.was_dead || lost.is_some_and(|lost| lost >= self.asked)
    }
}

impl Prospect<'_> {
    pub(crate) fn is_back(&self) -> bool {
        !self.is_dead && self.doubt.is_some_and(|doubt| doubt.is_confirmed(self.lost))
    }

    fn step(&self, hold: Duration) -> Step {
        match self.doubt {
            None if self.tried => Step::GiveUp,
            None if !self.is_dead => Step::Anew,
            Some(_) if self.is_back() => Step::Anew,
            Some(doubt) if !self.is_dead => Step::Wait(doubt.failed + PULSE_GRACE),
            None | Some(_) => self.lost.map_or(Step::GiveUp, |lost| Step::Wait(lost + hold)),
        }
    }
}

/// What a request does that nobody took. `until` is as long as it may wait at all.
pub(crate) fn step<'d>(
    prospects: impl Iterator<Item = Prospect<'d>>,
    hold: Duration,
    now: Instant,
    until: Instant,
) -> Step {
    if now >= until {
        return Step::GiveUp;
    }
    let mut best = None;
    for prospect in prospects {
        match prospect.step(hold) {
            Step::Anew => return Step::Anew,
            Step::Wait(moment) => best = best.max(Some(moment)),
            Step::GiveUp => {}
        }
    }
    match best.map(|moment| moment.min(until)) {
        Some(moment) if moment > now => Step::Wait(moment),
        Some(_) | None => Step::GiveUp,
    }
}

/// Where a thread's requests wait.
#[derive(Debug, Default)]
pub(crate) struct Hall {
    held: RefCell<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_app: HashMap<AppId, usize>,
}

/// A place in the hall, free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    hall: Rc<Hall>,
    app: AppId,
}

impl Hall {
    /// Nothing when all, or the app, have as many as they may.
    pub(crate) fn place(self: &Rc<Self>, app: AppId, limits: &Limits) -> Option<Place> {
        let mut held = self.held.borrow_mut();
        let own = held.by_app.get(&app).copied().unwrap_or(0);
        if held.all >= limits.held_per_thread_max || own >= limits.held_per_app_max {
            return None;
        }
        held.all += 1;
        held.by_app.insert(app, own + 1);
        Some(Place { hall: Rc::clone(self), app })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.hall.held.borrow_mut();
        held.all -= 1;
        if let Some(own) = held.by_app.get_mut(&self.app) {
            *own -= 1;
            if *own == 0 {
                held.by_app.remove(&self.app);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use insula_model::{InstanceId, NodeId, Timestamp};

    use super::*;

    const HOLD: Duration = Duration::from_secs(2);
    const SECOND: Duration = Duration::from_secs(1);

    fn way() -> Way {
        let relay = ([192, 0, 2, 1], 7444).into();
        let (node, instance) = (NodeId::from_u128(1), InstanceId::from_u128(2));
        Way::There { node, relay, instance }
    }

    fn doubt(asked: Instant, was_dead: bool) -> Doubt {
        Doubt { way: way(), asked, failed: asked, was_dead }
    }

    fn judge(prospects: Vec<Prospect<'_>>, now: Instant, until: Instant) -> Step {
        step(prospects.into_iter(), HOLD, now, until)
    }

    #[test]
    fn a_node_that_has_just_gone_is_waited_for_and_one_long_gone_is_not() {
        let now = Instant::now() + 60 * SECOND;
        let until = now + HOLD;
        let doubt = doubt(now, true);
        let gone = |lost| Prospect { tried: true, doubt: Some(&doubt), is_dead: true, lost };
        let half = SECOND / 2;
        assert_eq!(judge(vec![gone(Some(now - half))], now, until), Step::Wait(until - half));
        assert_eq!(judge(vec![gone(Some(now - HOLD))], now, until), Step::GiveUp);
        assert_eq!(judge(vec![gone(None)], now, until), Step::GiveUp);
        let two = vec![gone(Some(now - 9 * SECOND)), gone(Some(now - half))];
        assert_eq!(judge(two, now, until), Step::Wait(until - half), "the one that may return");
        assert_eq!(judge(vec![gone(Some(now))], until, until), Step::GiveUp, "no longer than that");
        assert_eq!(judge(vec![], now, until), Step::GiveUp);
    }

    #[test]
    fn who_is_back_is_asked_again_and_who_never_left_is_not() {
        let now = Instant::now() + 60 * SECOND;
        let until = now + HOLD;
        let sees = |doubt: Doubt, lost| {
            let doubt = Some(&doubt);
            let prospect = Prospect { tried: true, doubt, is_dead: false, lost };
            judge(vec![prospect], now + SECOND, until)
        };
        assert_eq!(sees(doubt(now, true), Some(now - SECOND)), Step::Anew);
        assert_eq!(sees(doubt(now, false), Some(now)), Step::Anew, "lost after it was asked");
        assert_eq!(sees(doubt(now, false), Some(now - SECOND)), Step::GiveUp, "another time");
        assert_eq!(sees(doubt(now, false), None), Step::GiveUp, "the instance hung up");
        let young = doubt(now + SECOND, false);
        assert_eq!(sees(young, None), Step::Wait(now + SECOND + PULSE_GRACE), "not yet known");
        let (tried, doubt) = (true, doubt(now, true));
        let back = Prospect { tried, doubt: Some(&doubt), is_dead: false, lost: Some(now) };
        assert_eq!(judge(vec![back], until, until), Step::GiveUp, "it comes and goes");
    }

    #[test]
    fn a_healthy_one_that_was_not_asked_comes_before_waiting() {
        let now = Instant::now();
        let doubt = doubt(now, true);
        let gone = Prospect { tried: true, doubt: Some(&doubt), is_dead: true, lost: Some(now) };
        let refused = Prospect { tried: true, doubt: None, is_dead: false, lost: None };
        let healthy = Prospect { tried: false, doubt: None, is_dead: false, lost: None };
        assert_eq!(judge(vec![gone, refused, healthy], now, now + HOLD), Step::Anew);
        let refused = Prospect { tried: true, doubt: None, is_dead: false, lost: None };
        assert_eq!(judge(vec![refused], now, now + HOLD), Step::GiveUp);
        let unasked = Prospect { tried: false, doubt: None, is_dead: true, lost: Some(now) };
        assert_eq!(judge(vec![unasked], now, now + HOLD), Step::Wait(now + HOLD));
    }

    #[test]
    fn an_app_cannot_take_all_places_and_all_together_no_more_than_there_are() {
        let app = |n| AppId::from_parts(Timestamp::from_millis(1), [n; 10]);
        let limits = Limits { held_per_thread_max: 3, held_per_app_max: 2, ..Limits::default() };
        let hall = Rc::new(Hall::default());
        let held: Vec<_> = (0..2).map(|_| hall.place(app(1), &limits).unwrap()).collect();
        assert!(hall.place(app(1), &limits).is_none());
        let other = hall.place(app(2), &limits).unwrap();
        assert!(hall.place(app(3), &limits).is_none());
        drop(other);
        drop(held);
        assert!(hall.held.borrow().by_app.is_empty(), "who has left is forgotten");
        assert!(hall.place(app(3), &limits).is_some());
    }
}
