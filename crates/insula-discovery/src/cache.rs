//! Keeps answers of upstreams for as long as they allow, and for no longer than we do. Bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{Answer, Query};
use crate::name::Name;

/// With [`ANSWER_BYTES_MAX`], 8 MiB at the very most; in practice below one.
const ANSWERS_MAX: usize = 4_096;
/// A longer answer is rare and asked for by few.
const ANSWER_BYTES_MAX: usize = 2_048;
/// Short enough that a change somewhere is noticed soon.
const KEEP_MAX: Duration = Duration::from_secs(300);

/// Everything in a question that can change the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    name: Name,
    kind: u16,
    edns: bool,
    dnssec_ok: bool,
    checking_disabled: bool,
}

impl Key {
    pub(crate) fn of(query: &Query) -> Self {
        Self {
            name: query.question.name.lowercase(),
            kind: query.question.kind,
            edns: query.edns.is_some(),
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: query.checking_disabled,
        }
    }
}

#[derive(Debug)]
struct Kept {
    answer: Arc<Answer>,
    since: Instant,
    until: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Cache {
    answers: HashMap<Key, Kept>,
    /// Oldest first; a key stands here once for each time that it was put in.
    order: VecDeque<(Key, Instant)>,
}

impl Cache {
    /// The answer, and its age in seconds.
    pub(crate) fn find(&self, key: &Key, now: Instant) -> Option<(Arc<Answer>, u32)> {
        let kept = self.answers.get(key).filter(|kept| now < kept.until)?;
        let age = now.duration_since(kept.since).as_secs();
        Some((Arc::clone(&kept.answer), u32::try_from(age).unwrap_or(u32::MAX)))
    }

    pub(crate) fn put(&mut self, key: Key, answer: Arc<Answer>, now: Instant) {
        let Some(keep_s) = answer.keep_s.filter(|seconds| *seconds > 0) else { return };
        if answer.len() > ANSWER_BYTES_MAX {
            return;
        }
        let keep = Duration::from_secs(u64::from(keep_s)).min(KEEP_MAX);
        self.order.push_back((key.clone(), now));
        self.answers.insert(key, Kept { answer, since: now, until: now + keep });
        while self.order.len() > ANSWERS_MAX {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((key, since)) = self.order.pop_front() else { return };
        // Put in again since then: its newer place in the order counts.
        if self.answers.get(&key).is_some_and(|kept| kept.since == since) {
            self.answers.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{read_answer, read_query};

    fn query(number: u32) -> Query {
        let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8];
        bytes.extend_from_slice(format!("{number:08}").as_bytes());
        bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
        read_query(&bytes).unwrap()
    }

    fn answer(query: &Query, ttl_s: u32) -> Arc<Answer> {
        let bytes = query.answer(&[std::net::Ipv4Addr::LOCALHOST], ttl_s);
        Arc::new(read_answer(query, bytes).unwrap())
    }

    #[test]
    fn an_answer_ages_and_goes() {
        let (mut cache, now, query) = (Cache::default(), Instant::now(), query(1));
        let key = Key::of(&query);
        cache.put(key.clone(), answer(&query, 60), now);
        let later = now + Duration::from_secs(20);
        let (found, age_s) = cache.find(&key, later).unwrap();
        assert_eq!(age_s, 20);
        let ttl = found.len() - 10;
        assert_eq!(found.for_query(&query, age_s)[ttl..ttl + 4], 40_u32.to_be_bytes());
        assert!(cache.find(&key, now + Duration::from_secs(60)).is_none());
    }

    #[test]
    fn nothing_is_kept_for_longer_than_we_want_or_without_leave() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (long, none) = (query(1), query(2));
        cache.put(Key::of(&long), answer(&long, u32::MAX), now);
        cache.put(Key::of(&none), answer(&none, 0), now);
        assert!(cache.find(&Key::of(&long), now + KEEP_MAX / 2).is_some());
        assert!(cache.find(&Key::of(&long), now + KEEP_MAX).is_none());
        assert!(cache.find(&Key::of(&none), now).is_none());
    }

    #[test]
    fn a_flood_of_names_is_bounded_and_the_newest_stay() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let count = u32::try_from(ANSWERS_MAX).unwrap() + 100;
        for number in 0..count {
            let query = query(number);
            cache.put(
                Key::of(&query),
                answer(&query, 60),
                now + Duration::from_millis(number.into()),
            );
        }
        assert_eq!(cache.answers.len(), ANSWERS_MAX);
        assert_eq!(cache.order.len(), ANSWERS_MAX);
        let now = now + Duration::from_secs(5);
        assert!(cache.find(&Key::of(&query(99)), now).is_none());
        assert!(cache.find(&Key::of(&query(count - 1)), now).is_some());
    }
}
