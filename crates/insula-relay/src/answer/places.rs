//! How many connections one member may hold, and all together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use insula_model::fleet::Member;

#[derive(Debug, Clone)]
pub(super) struct Places {
    per_member_max: usize,
    total_max: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_member: HashMap<Member, usize>,
}

/// Given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    member: Member,
    taken: Arc<Mutex<Taken>>,
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    pub(super) fn new(per_member_max: usize, total_max: usize) -> Self {
        Self { per_member_max, total_max, taken: Arc::default() }
    }

    pub(super) fn take(&self, member: Member) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let own = taken.by_member.get(&member).copied().unwrap_or(0);
        if own >= self.per_member_max || taken.total >= self.total_max {
            return None;
        }
        taken.total += 1;
        taken.by_member.insert(member, own + 1);
        Some(Place { member, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.total -= 1;
        if let Some(own) = taken.by_member.get_mut(&self.member) {
            *own -= 1;
            if *own == 0 {
                taken.by_member.remove(&self.member);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use insula_model::{GatewayId, NodeId};

    use super::*;

    #[test]
    fn one_member_cannot_take_the_places_of_others() {
        let places = Places::new(2, 3);
        let node = Member::Node(NodeId::from_u128(1));
        let gateway = Member::Gateway(GatewayId::from_u128(1));
        let held = [places.take(node).unwrap(), places.take(node).unwrap()];
        assert!(places.take(node).is_none());
        let other = places.take(gateway).unwrap();
        assert!(places.take(gateway).is_none(), "all places are taken");
        drop(held);
        assert!(places.take(node).is_some());
        drop(other);
        let taken = lock(&places.taken);
        assert_eq!((taken.total, taken.by_member.len()), (0, 0), "nothing is remembered");
    }
}
