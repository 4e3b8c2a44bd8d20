//! Ends what may run only in contact with a server when its agent cannot.
//!
//! An agent that is frozen, or died and was not started again, stops nothing; but the server, which
//! hears nothing of the node, starts such instances elsewhere. So the agent tells us, as long as it
//! is well, when a server heard it last, and we end what it should have ended by then.
//!
//! On a thread of its own with a socket of its own, and in memory alone: neither a keeper that is
//! busy with a disk nor a disk that takes no writes makes contact look older than it is. Whoever was
//! never told anything ends nothing. Normally the agent has stopped everything a grace earlier.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::contract::LogSpec;
use super::control::with_short_path;
use super::sandbox;
use crate::contact::{KernelTicks, Ticks, Uptime};

const SOCKET_FILE: &str = "lease.sock";
/// Between looks: half of the slack that a server grants beyond lease and grace, in heartbeats.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Of contact that was lost once, the first look may come before word of new contact does.
const LOOKS: u32 = 2;
/// The thread calls nothing deep.
const STACK_BYTES: usize = 128 << 10;

/// What an agent says, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// When what a server answered was sent.
    pub heard: Uptime,
    pub lease: Duration,
}

impl Word {
    /// Whether contact has been lost for the lease and this long besides.
    fn is_over(&self, now: Uptime, grace: Duration) -> bool {
        now.since(self.heard) >= self.lease + grace
    }
}

/// Best effort: without a keeper there is nobody to tell, and one that comes is told soon.
pub fn tell(run: &Path, word: Word) {
    let told = UnixDatagram::unbound().and_then(|socket| {
        socket.set_nonblocking(true)?;
        let word = serde_json::to_vec(&word)?;
        with_short_path(run, SOCKET_FILE, |path| socket.send_to(&word, path)).map(drop)
    });
    if let Err(error) = told {
        tracing::debug!(%error, "tell the keeper of contact");
    }
}

/// The keeper's lock must be held: whatever lies there is of a keeper that is gone.
pub(crate) fn begin(run: PathBuf) -> io::Result<()> {
    match std::fs::remove_file(run.join(SOCKET_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = with_short_path(&run, SOCKET_FILE, |path| UnixDatagram::bind(path))?;
    let thread = std::thread::Builder::new().name("fence".into()).stack_size(STACK_BYTES);
    thread.spawn(move || watch(&run, &socket)).map(drop)
}

fn watch(run: &Path, socket: &UnixDatagram) {
    let mut word: Option<Word> = None;
    let mut over = 0;
    let mut buf = [0; 256];
    loop {
        // Nobody who depends on contact, nothing to look at.
        if socket.set_read_timeout(word.is_some().then_some(LOOK_EVERY)).is_err() {
            return;
        }
        if let Ok(length) = socket.recv(&mut buf)
            && let Ok(said) = serde_json::from_slice::<Word>(&buf[..length])
        {
            word = Some(said);
        }
        let now = KernelTicks.now();
        match word {
            Some(word) if word.is_over(now, Duration::ZERO) => over += 1,
            Some(_) | None => over = 0,
        }
        if let Some(word) = word
            && over >= LOOKS
        {
            end_leased(run, |grace| word.is_over(now, grace));
        }
    }
}

/// Kills the inits of sandboxes that are under a lease, if their grace has passed as well; with an
/// init goes everything in its namespace.
fn end_leased(run: &Path, is_over: impl Fn(Duration) -> bool) {
    for entry in std::fs::read_dir(run).into_iter().flatten().flatten() {
        let dir = entry.path();
        let grace = match LogSpec::load(&dir) {
            Ok(Some(spec)) => spec.lease_grace_ms.map(Duration::from_millis),
            Ok(None) | Err(_) => None,
        };
        if !grace.is_some_and(&is_over) {
            continue;
        }
        if let Ok(Some(init)) = sandbox::init(&dir)
            && let Ok(Some(pidfd)) = init.pidfd()
        {
            // One that has just ended is as good as killed.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_over_once_its_instances_grace_has_passed_as_well() {
        let now = KernelTicks.now();
        let word = Word { heard: now, lease: Duration::from_secs(10) };
        assert!(!word.is_over(now, Duration::ZERO));
        let before = Word { heard: Uptime::default(), lease: now.since(Uptime::default()) };
        assert!(before.is_over(now, Duration::ZERO));
        assert!(!before.is_over(now, Duration::from_secs(30)));
    }
}
