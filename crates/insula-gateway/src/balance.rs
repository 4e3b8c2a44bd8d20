//! Which endpoint gets a request: the one with the least to do. Pure.

use std::rc::Rc;
use std::time::Instant;

use crate::endpoint::Endpoint;
use crate::way::Way;

/// The least busy of those not tried yet; avoided ones only when nothing else is left. `turn`
/// goes round, so that equals take turns.
pub(crate) fn choose<'e>(
    endpoints: &'e [Rc<Endpoint>],
    tried: &[Way],
    turn: usize,
    now: Instant,
) -> Option<&'e Rc<Endpoint>> {
    let count = endpoints.len();
    (0..count)
        .map(|i| &endpoints[(turn + i) % count])
        .filter(|endpoint| !tried.contains(&endpoint.way))
        .min_by_key(|endpoint| (endpoint.avoided(now), endpoint.outstanding()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use insula_model::{InstanceId, Timestamp};

    use super::*;
    use crate::endpoint::Ledger;

    fn endpoints(count: u8) -> Vec<Rc<Endpoint>> {
        let ledger = Ledger::default();
        let endpoint = |n: u8| {
            let id = InstanceId::from_parts(Timestamp::from_millis(0), [n; 10]);
            let way = Way::Here(([127, 0, 0, 1], 1_000 + u16::from(n)).into());
            Rc::new(Endpoint::new(way, None, ledger.tally(id)))
        };
        (0..count).map(endpoint).collect()
    }

    fn port(chosen: Option<&Rc<Endpoint>>) -> Option<u16> {
        chosen.and_then(|endpoint| match endpoint.way {
            Way::Here(address) => Some(address.port()),
            Way::There { .. } | Way::Nowhere(_) => None,
        })
    }

    #[test]
    fn equals_take_turns_and_the_busy_rest() {
        let three = endpoints(3);
        let now = Instant::now();
        let turns: Vec<_> = (0..4).map(|turn| port(choose(&three, &[], turn, now))).collect();
        assert_eq!(turns, [Some(1_000), Some(1_001), Some(1_002), Some(1_000)]);
        let _busy = three[0].lease();
        assert_eq!(port(choose(&three, &[], 0, now)), Some(1_001));
    }

    #[test]
    fn one_that_refused_is_asked_last_but_asked() {
        let two = endpoints(2);
        let now = Instant::now();
        two[0].avoid(now + Duration::from_secs(1));
        let _busy = two[1].lease();
        assert_eq!(port(choose(&two, &[], 0, now)), Some(1_001));
        assert_eq!(port(choose(&two, &[two[1].way], 0, now)), Some(1_000));
        assert_eq!(port(choose(&two, &[], 0, now + Duration::from_secs(2))), Some(1_000));
        assert_eq!(port(choose(&two[..1], &[], 0, now)), Some(1_000));
        assert_eq!(port(choose(&[], &[], 0, now)), None);
    }
}
