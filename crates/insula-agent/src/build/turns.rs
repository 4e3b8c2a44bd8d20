//! Who builds next: a node has few places for builds, and orgs share them.
//!
//! No org can hold them all, so that another one's build need not wait for builds that do not end;
//! and a place that becomes free goes to the org that holds the fewest, not to whoever asked most.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use insula_model::OrgId;
use tokio::sync::oneshot;

/// Clones share the places.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Mutex<Queue>>);

/// A place, or a wait for one: dropping it gives up either.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    ticket: u64,
    org: OrgId,
    begin: oneshot::Receiver<()>,
    begun: bool,
}

#[derive(Debug)]
struct Queue {
    places: usize,
    org_max: usize,
    tickets: u64,
    held: BTreeMap<OrgId, usize>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    org: OrgId,
    begin: oneshot::Sender<()>,
}

impl Turns {
    /// At most `org_max` of the places are for one org.
    pub fn new(places: usize, org_max: usize) -> Self {
        let (tickets, held, waiting) = (0, BTreeMap::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(Queue { places, org_max, tickets, held, waiting })))
    }

    /// Takes its place in the queue at once; see `Turn::begins` for when it is over.
    pub fn enter(&self, org: OrgId) -> Turn {
        let (sender, begin) = oneshot::channel();
        let mut queue = self.lock();
        let ticket = queue.tickets;
        queue.tickets += 1;
        queue.waiting.push_back(Waiting { ticket, org, begin: sender });
        queue.serve();
        Turn { turns: self.clone(), ticket, org, begin, begun: false }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Whether the place is there already.
    pub fn has_begun(&mut self) -> bool {
        self.begun = self.begun || self.begin.try_recv().is_ok();
        self.begun
    }

    /// Returns once the place is there; it is held until the turn is dropped.
    pub async fn begins(&mut self) {
        if !self.has_begun() {
            // The other end stays in the queue until it is used.
            let _ = (&mut self.begin).await;
            self.begun = true;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.turns.lock();
        match queue.waiting.iter().position(|waiting| waiting.ticket == self.ticket) {
            Some(at) => drop(queue.waiting.remove(at)),
            None => queue.release(self.org),
        }
        queue.serve();
    }
}

impl Queue {
    fn serve(&mut self) {
        while let Some(next) = self.next().and_then(|at| self.waiting.remove(at)) {
            *self.held.entry(next.org).or_default() += 1;
            // One that nobody waits for any more is dropped in a moment, and gives its place back.
            let _ = next.begin.send(());
        }
    }

    /// Of the orgs that may have another place the one with the fewest; of those the first to ask.
    fn next(&self) -> Option<usize> {
        if self.held.values().sum::<usize>() >= self.places {
            return None;
        }
        let held = |org| self.held.get(org).copied().unwrap_or(0);
        let may = self.waiting.iter().enumerate().filter(|(_, it)| held(&it.org) < self.org_max);
        may.min_by_key(|(at, it)| (held(&it.org), *at)).map(|(at, _)| at)
    }

    fn release(&mut self, org: OrgId) {
        if let Some(held) = self.held.get_mut(&org) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(&org);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use insula_model::Timestamp;

    use super::*;

    fn org(n: u8) -> OrgId {
        OrgId::from_parts(Timestamp::from_millis(1), [n; 10])
    }

    #[test]
    fn builds_of_one_org_that_never_end_leave_a_place_for_another() {
        let turns = Turns::new(2, 1);
        let mut endless = [turns.enter(org(1)), turns.enter(org(1))];
        let mut other = turns.enter(org(2));
        assert!(endless[0].has_begun());
        assert!(!endless[1].has_begun());
        assert!(other.has_begun(), "at once");
    }

    #[test]
    fn a_free_place_goes_to_the_org_that_holds_the_fewest() {
        let turns = Turns::new(3, 2);
        let (first, _second) = (turns.enter(org(1)), turns.enter(org(1)));
        let _third = turns.enter(org(2));
        // All are taken; the greedy one asks first.
        let (mut greedy, mut modest) = (turns.enter(org(1)), turns.enter(org(3)));
        assert!(!greedy.has_begun() && !modest.has_begun());
        drop(first);
        assert!(!greedy.has_begun() && modest.has_begun());
        drop(modest);
        assert!(greedy.has_begun());
    }

    #[test]
    fn who_leaves_the_queue_takes_no_place_with_him() {
        let turns = Turns::new(1, 1);
        let mut first = turns.enter(org(1));
        assert!(first.has_begun());
        let (left, mut last) = (turns.enter(org(2)), turns.enter(org(3)));
        drop(left);
        assert!(!last.has_begun());
        // Given a place, and dropped before it knew.
        let unaware = turns.enter(org(2));
        drop(first);
        assert!(last.has_begun());
        drop(last);
        drop(unaware);
        assert!(turns.enter(org(1)).has_begun());
    }

    #[tokio::test]
    async fn a_turn_is_awaited_as_often_as_one_likes() {
        let turns = Turns::new(1, 1);
        let (mut first, mut second) = (turns.enter(org(1)), turns.enter(org(2)));
        first.begins().await;
        first.begins().await;
        drop(first);
        second.begins().await;
        assert!(second.has_begun());
    }
}
