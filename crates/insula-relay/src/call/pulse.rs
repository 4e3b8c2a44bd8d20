//! Feels the pulse of one node's relay, on a connection that is used for nothing else.
//!
//! A node that stops between two pings is noticed when the second has not been answered for one
//! interval: after two at the most. One whose process ends is noticed at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Health;
use super::line::{Connection, Line};
use crate::message::{Answer, Request};

/// An agent that is started again is back within this.
const REDIAL_FIRST: Duration = Duration::from_millis(20);
/// Between two dials of a node that has been away for a moment only: requests wait for its return.
const REDIAL_MAX_AT_FIRST: Duration = Duration::from_millis(100);
/// An agent that begins again, and be it a second later by itself, is back within this.
const AT_FIRST: Duration = Duration::from_secs(3);

/// How a connection that was good ended.
enum Loss {
    /// Closed by the other side, which may be there all the same.
    Closed,
    /// It says nothing.
    Silent,
    /// Ours has been used for long enough.
    Old,
}

pub(super) async fn feel(line: Arc<Line>) {
    let end = line.end.clone();
    tokio::select! {
        () = end.cancelled() => {}
        () = Box::pin(keep(&line)) => {}
    }
}

async fn keep(line: &Line) {
    let heartbeat = line.common.settings.heartbeat;
    let mut pause = REDIAL_FIRST;
    loop {
        if let Ok(Ok(connection)) = timeout(heartbeat, line.dial_now()).await {
            match beat(line, connection, heartbeat).await {
                // Heard, and then not: dialled again at once, and that says the rest.
                Some(loss @ (Loss::Closed | Loss::Old)) => {
                    if matches!(loss, Loss::Closed) {
                        line.lose();
                    }
                    pause = REDIAL_FIRST;
                    continue;
                }
                Some(Loss::Silent) => pause = REDIAL_FIRST,
                // Who lets us in and says nothing is no better than who does not let us in.
                None => {}
            }
        }
        line.say(Health::Dead);
        sleep(pause).await;
        let away = line.lost().map(|lost| lost.elapsed()).unwrap_or_default();
        pause = next_pause(pause, away, heartbeat);
    }
}

/// Half an interval at the most: a node that is back is used again soon.
fn next_pause(before: Duration, away: Duration, heartbeat: Duration) -> Duration {
    let most = (heartbeat / 2).max(REDIAL_FIRST);
    let most = if away < AT_FIRST { most.min(REDIAL_MAX_AT_FIRST) } else { most };
    (before * 2).min(most)
}

/// Until the connection is of no more use. Nothing if it never was.
async fn beat(line: &Line, mut connection: Connection, interval: Duration) -> Option<Loss> {
    let mut number = 0;
    loop {
        let next = Instant::now() + interval;
        number += 1;
        match timeout(interval, connection.ask(Request::Ping(number))).await {
            Ok(Ok(Answer::Pong(heard))) if heard == number => line.say(Health::Alive),
            Ok(_) => return (number > 1).then_some(Loss::Closed),
            Err(_) => return (number > 1).then_some(Loss::Silent),
        }
        line.prune();
        if connection.is_old() {
            return Some(Loss::Old);
        }
        tokio::select! {
            () = sleep_until(next) => {}
            // Nothing is said unasked: it was closed.
            _ = connection.framed.heard() => return Some(Loss::Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_just_gone_is_looked_for_often_and_who_stays_away_seldom() {
        let heartbeat = Duration::from_secs(1);
        let (mut pause, mut away, mut dials) = (REDIAL_FIRST, Duration::ZERO, Vec::new());
        while away < Duration::from_secs(6) {
            away += pause;
            dials.push(pause.as_millis());
            pause = next_pause(pause, away, heartbeat);
        }
        assert_eq!(dials[..5], [20, 40, 80, 100, 100]);
        assert_eq!(dials[dials.len() - 3..], [500, 500, 500]);
        assert!(dials.len() < 50, "{dials:?}");
    }
}
