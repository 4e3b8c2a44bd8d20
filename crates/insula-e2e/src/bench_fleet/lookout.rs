//! Looks from outside, without patience: a question every few milliseconds, each on its own.
//!
//! One that hangs at something that died holds up no other, so that the first good answer is seen
//! when it comes.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::fleet::ground::Place;

/// Between two questions: what the figures are exact to.
const LOOK: Duration = Duration::from_millis(10);
/// Nothing that heals takes longer.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Asks from within a place until somebody has answered as wanted; when that was, since `since`.
pub fn first<T, A>(place: &Place, since: Instant, what: &str, ask: A) -> Result<(Duration, T)>
where
    T: Send + 'static,
    A: Fn() -> Option<T> + Clone + Send + Sync + 'static,
{
    place.inside(|| {
        let (tell, told) = mpsc::channel();
        while since.elapsed() < TIME_MAX {
            let (ask, tell) = (ask.clone(), tell.clone());
            // Not joined: one that hangs has its own time-out, and nobody to tell.
            std::thread::spawn(move || {
                if let Some(answer) = ask() {
                    let _ = tell.send((since.elapsed(), answer));
                }
            });
            if let Ok(first) = told.recv_timeout(LOOK) {
                return Ok(first);
            }
        }
        bail!("{what}: not within {TIME_MAX:?}")
    })
}

/// A page at a gateway; nothing if it is not a 200.
pub fn page(edge: SocketAddr, host: &str) -> Option<String> {
    let answer = crate::http::get(edge, host, "/").ok()?;
    (answer.status == 200).then(|| answer.text())
}
