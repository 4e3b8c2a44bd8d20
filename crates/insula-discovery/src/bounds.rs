//! How much of the resolver one instance can occupy, so that its neighbours do not notice it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts what is under way, by source and in all.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    per_source_max: usize,
    total_max: usize,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// A place that is given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    source: IpAddr,
    counts: Arc<Mutex<Counts>>,
}

impl Bounds {
    pub(crate) fn new(per_source_max: usize, total_max: usize) -> Self {
        Self { per_source_max, total_max, counts: Arc::default() }
    }

    pub(crate) fn enter(&self, source: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.by_source.get(&source).copied().unwrap_or(0);
        if own >= self.per_source_max || counts.total >= self.total_max {
            return None;
        }
        counts.total += 1;
        counts.by_source.insert(source, own + 1);
        Some(Place { source, counts: Arc::clone(&self.counts) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(own) = counts.by_source.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_the_places_of_others() {
        let bounds = Bounds::new(2, 3);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let held = [bounds.enter(a).unwrap(), bounds.enter(a).unwrap()];
        assert!(bounds.enter(a).is_none());
        let other = bounds.enter(b).unwrap();
        assert!(bounds.enter(b).is_none(), "all places are taken");
        drop(held);
        assert!(bounds.enter(b).is_some());
        drop(other);
        let counts = bounds.counts.lock().unwrap();
        assert_eq!((counts.total, counts.by_source.len()), (0, 0), "nothing is remembered");
    }
}
