//! Whether a request that failed is sent once more, and after how long. Pure.
//!
//! A server that is being restarted is gone for a second, which must not fail a command. A server
//! that was never there is said to be so soon.

use std::time::Duration;

/// Before anything was heard of the server: somebody may wait at a terminal for the bad news.
const FIRST_PATIENCE: Duration = Duration::from_secs(3);
/// Once it has answered this command: it was there, so it will be back.
const LATER_PATIENCE: Duration = Duration::from_secs(60);
/// While the server, or a proxy before it, says that it is there and cannot right now.
const POLITE_PATIENCE: Duration = Duration::from_secs(20);
const PAUSE_FIRST: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was sent.
    NotConnected,
    /// It may have been received.
    Lost,
    /// The server, or a proxy before it, asks for patience.
    NotNow { retry_after: Option<Duration> },
}

#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// 0 for the first.
    pub number: u32,
    /// Since the first one began to fail.
    pub failing_for: Duration,
    /// Whether this server has answered this command before.
    pub heard: bool,
    /// Whether sending it twice does what sending it once does.
    pub repeatable: bool,
}

/// How long to wait before the next attempt; nothing if there is none.
pub fn pause(fault: Fault, attempt: Attempt) -> Option<Duration> {
    let patience = match fault {
        Fault::NotConnected | Fault::Lost if !attempt.heard => FIRST_PATIENCE,
        Fault::NotConnected | Fault::Lost => LATER_PATIENCE,
        Fault::NotNow { .. } => POLITE_PATIENCE,
    };
    let doubled = PAUSE_FIRST.saturating_mul(1 << attempt.number.min(10)).min(PAUSE_MAX);
    let pause = match fault {
        Fault::NotNow { retry_after: Some(asked) } => asked.max(PAUSE_FIRST),
        Fault::NotConnected | Fault::Lost | Fault::NotNow { retry_after: None } => doubled,
    };
    let may = attempt.repeatable || fault == Fault::NotConnected;
    (may && attempt.failing_for + pause <= patience).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Attempt =
        Attempt { number: 0, failing_for: Duration::ZERO, heard: false, repeatable: true };

    #[test]
    fn a_server_that_was_never_there_is_given_up_soon() {
        let late = Attempt { number: 9, failing_for: Duration::from_secs(3), ..FIRST };
        assert_eq!(pause(Fault::NotConnected, FIRST), Some(PAUSE_FIRST));
        assert_eq!(pause(Fault::NotConnected, late), None);
    }

    #[test]
    fn a_server_that_answered_before_is_waited_for() {
        let late =
            Attempt { number: 9, failing_for: Duration::from_secs(30), heard: true, ..FIRST };
        assert_eq!(pause(Fault::Lost, late), Some(PAUSE_MAX));
        let too_late = Attempt { failing_for: Duration::from_secs(60), ..late };
        assert_eq!(pause(Fault::Lost, too_late), None);
    }

    #[test]
    fn what_may_have_been_done_is_not_done_twice() {
        let once = Attempt { repeatable: false, heard: true, ..FIRST };
        assert_eq!(pause(Fault::Lost, once), None);
        assert!(pause(Fault::NotConnected, once).is_some(), "nothing was sent");
    }

    #[test]
    fn who_asks_for_patience_gets_as_much_as_there_is() {
        let asked = |secs| Fault::NotNow { retry_after: Some(Duration::from_secs(secs)) };
        assert_eq!(pause(asked(2), FIRST), Some(Duration::from_secs(2)));
        assert_eq!(pause(asked(300), FIRST), None);
    }
}
