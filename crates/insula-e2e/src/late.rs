//! How late this machine is: what a time that is promised is measured against, where two cores do
//! other things too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks at the clock; whoever waits for so long on an idle machine is woken in time.
const STEP: Duration = Duration::from_millis(20);
/// A switch or two between threads is no lateness.
const IN_TIME: Duration = Duration::from_millis(5);

/// A thread that only sleeps, and sums up by how much it was woken too late.
#[derive(Debug)]
pub struct Lateness {
    stop: Arc<AtomicBool>,
    sleeper: Option<JoinHandle<Duration>>,
}

impl Lateness {
    pub fn begin() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let sleeper = std::thread::spawn(move || {
            let mut late = Duration::ZERO;
            while !stops.load(Ordering::Relaxed) {
                let began = Instant::now();
                std::thread::sleep(STEP);
                let over = began.elapsed().saturating_sub(STEP);
                if over > IN_TIME {
                    late += over;
                }
            }
            late
        });
        Self { stop, sleeper: Some(sleeper) }
    }

    /// The sum so far, and the end of it.
    pub fn end(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let slept = self.sleeper.take().map(JoinHandle::join);
        slept.and_then(Result::ok).unwrap_or_default()
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
