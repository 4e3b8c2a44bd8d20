//! When an instance that ended is started again. Pure.

use std::time::Duration;

use insula_kit::backoff::Backoff;
use insula_model::{Millis, Timestamp};

/// From a second, which a human does not notice, to a minute, which a crash loop does not cost.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// What ran this long has proved itself: its next end is a first one.
pub const PROVED_AFTER: Millis = Millis::secs(600);

/// Ends in a row, with the one that just happened.
pub fn ends_in_row(before: u32, ran: Millis) -> u32 {
    if ran >= PROVED_AFTER { 1 } else { before.saturating_add(1) }
}

/// At once the first time, then with growing pauses.
pub fn restart_at(ends_in_row: u32, ended: Timestamp) -> Timestamp {
    let pause = BACKOFF.delay(ends_in_row.saturating_sub(1), 1.0);
    ended.plus(Millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_costs_nothing_and_a_loop_settles_at_a_minute() {
        let mut row = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            row = ends_in_row(row, Millis::secs(1));
            let ended = Timestamp::from_millis(1_000);
            pauses.push(restart_at(row, ended).since(ended).0 / 1_000);
        }
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(ends_in_row(9, PROVED_AFTER), 1);
    }
}
