//! Places: how many of something one credential may hold at once, and all together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use insula_model::TokenId;

/// Clones share the same places.
#[derive(Debug, Clone)]
pub struct Places {
    each_max: usize,
    all_max: usize,
    taken: Arc<Mutex<HashMap<TokenId, usize>>>,
}

/// Taken until dropped.
#[derive(Debug)]
pub struct Place {
    taken: Arc<Mutex<HashMap<TokenId, usize>>>,
    credential: TokenId,
}

/// Who has taken too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// This credential has all that it may have: so many.
    Own(usize),
    /// All credentials together.
    All,
}

impl Places {
    pub fn new(each_max: usize, all_max: usize) -> Self {
        Self { each_max, all_max, taken: Arc::default() }
    }

    pub fn take(&self, credential: TokenId) -> Result<Place, Full> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        if taken.get(&credential).is_some_and(|own| *own >= self.each_max) {
            return Err(Full::Own(self.each_max));
        }
        if all >= self.all_max {
            return Err(Full::All);
        }
        *taken.entry(credential).or_default() += 1;
        Ok(Place { taken: Arc::clone(&self.taken), credential })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.credential) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.credential);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use insula_model::Timestamp;

    use super::*;

    #[test]
    fn one_cannot_take_what_is_for_all_and_all_cannot_take_too_much() {
        let who = |n| TokenId::from_parts(Timestamp::from_millis(0), [n; 10]);
        let places = Places::new(2, 3);
        let held = (places.take(who(1)).unwrap(), places.take(who(1)).unwrap());
        assert_eq!(places.take(who(1)).unwrap_err(), Full::Own(2));
        let other = places.take(who(2)).unwrap();
        assert_eq!(places.take(who(3)).unwrap_err(), Full::All);
        drop(held);
        places.take(who(3)).unwrap();
        drop(other);
        assert!(places.taken.lock().unwrap().is_empty(), "nothing is remembered of who has gone");
    }
}
