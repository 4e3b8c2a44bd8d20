//! Places: how many of something one credential, or one address, may hold at once, and all
//! together.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Clones share the same places.
#[derive(Debug, Clone)]
pub struct Places<K> {
    each_max: usize,
    all_max: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// Taken until dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash + Copy> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    holder: K,
}

/// Who has taken too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// This one has all that it may have: so many.
    Own(usize),
    /// All together.
    All,
}

impl<K: Eq + Hash + Copy> Places<K> {
    pub fn new(each_max: usize, all_max: usize) -> Self {
        Self { each_max, all_max, taken: Arc::default() }
    }

    pub fn take(&self, holder: K) -> Result<Place<K>, Full> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        if taken.get(&holder).is_some_and(|own| *own >= self.each_max) {
            return Err(Full::Own(self.each_max));
        }
        if all >= self.all_max {
            return Err(Full::All);
        }
        *taken.entry(holder).or_default() += 1;
        Ok(Place { taken: Arc::clone(&self.taken), holder })
    }
}

impl<K: Eq + Hash + Copy> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.holder) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cannot_take_what_is_for_all_and_all_cannot_take_too_much() {
        let places = Places::new(2, 3);
        let held = (places.take(1).unwrap(), places.take(1).unwrap());
        assert_eq!(places.take(1).unwrap_err(), Full::Own(2));
        let other = places.take(2).unwrap();
        assert_eq!(places.take(3).unwrap_err(), Full::All);
        drop(held);
        places.take(3).unwrap();
        drop(other);
        assert!(places.taken.lock().unwrap().is_empty(), "nothing is remembered of who has gone");
    }
}
