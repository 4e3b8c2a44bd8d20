//! When a server heard us last, as far as we can prove it, and what follows for instances that may
//! run only while it does (`failover = "lease"`).
//!
//! A server that has not heard this node for [`FAILOVER_LEASE`], the instance's grace and a little
//! more starts such an instance elsewhere. So that it never runs twice, it must have ended here by
//! then, and nobody can tell us to. Why it has:
//!
//! - What counts is the moment *before* a heartbeat was sent that was answered later. The server
//!   heard it after that moment, so its span begins later than ours and ends later.
//! - Time is the kernel's since boot, with the time that the machine slept: no setting of a clock
//!   and no closed lid makes it longer.
//! - The moment lies on disk, with the id of the boot. The next agent of the same boot goes on from
//!   it: written late or not at all, it is older than the truth, and the lease ends sooner. After a
//!   boot, or without the file, nothing proves any contact, and the lease counts as over; what was
//!   running is stopped, and what was not is not started.
//! - Once over, it stays over until a server has sent a Target *after* it heard us again: contact
//!   alone does not say that the instance is still ours. Each gap therefore begins another epoch,
//!   and a Target speaks for the epoch in which it arrived and for no other, however long it lay
//!   in a queue.
//! - A machine that was frozen finds everything due at once when it goes on: the end of the lease,
//!   and the start of what was being prepared. Whichever comes first, a start asks for its [`Leave`]
//!   last of all.
//!
//! What a hypervisor hides from the kernel is hidden from us: a guest that is told nothing of a pause
//! finds out from the server's answers.
//!
//! Nothing here touches any other instance: losing contact never stops those.
//!
//! [`FAILOVER_LEASE`]: insula_model::limits::FAILOVER_LEASE

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use insula_kit::shutdown::Shutdown;
use insula_model::spec::Failover;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{boot, keeper};

/// A machine that slept wakes a timer late, so the end is looked for at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Since the machine was booted, sleep included.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Uptime(Duration);

impl Uptime {
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The door to that time.
pub trait Ticks: Send + Sync + fmt::Debug {
    fn now(&self) -> Uptime;
}

#[derive(Debug, Clone, Copy)]
pub struct KernelTicks;

impl Ticks for KernelTicks {
    fn now(&self) -> Uptime {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let secs = u64::try_from(now.tv_sec).unwrap_or(0);
        Uptime(Duration::new(secs, u32::try_from(now.tv_nsec).unwrap_or(0)))
    }
}

/// Counts the gaps in contact. What was said in one epoch says nothing about another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(u64);

impl Epoch {
    pub const FIRST: Self = Self(0);

    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Leave to start something.
#[derive(Debug, Clone)]
pub enum Leave {
    Always,
    /// In this epoch of contact alone; never, if there was none.
    Within {
        contact: Contact,
        granted: Option<Epoch>,
    },
}

impl Leave {
    pub fn is_given(&self) -> bool {
        match self {
            Self::Always => true,
            Self::Within { contact, granted } => granted.is_some() && contact.epoch() == *granted,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// Sending time of the last heartbeat that was answered.
    heard: Option<Uptime>,
    epoch: Epoch,
    /// For which a server's Target speaks. What depends on contact runs in no other.
    granted: Option<Epoch>,
}

/// Clones tell of the same contact.
#[derive(Debug, Clone)]
pub struct Contact {
    state: Arc<watch::Sender<State>>,
    ticks: Arc<dyn Ticks>,
    lease: Duration,
}

/// `contact.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    boot: String,
    heard: Uptime,
    /// Whether a Target spoke for the epoch that this moment is of. A build that wrote no such word
    /// took it for granted, and its instances must survive its replacement.
    #[serde(default = "taken_for_granted")]
    granted: bool,
}

fn taken_for_granted() -> bool {
    true
}

impl Contact {
    /// Goes on from what an agent of the same boot left in `file`.
    pub fn open(file: &Path, lease: Duration, ticks: Arc<dyn Ticks>) -> Self {
        let kept: Option<Kept> = insula_kit::files::read_json(file).ok();
        let boot = boot::id().ok();
        let kept = kept.filter(|kept| boot.as_deref() == Some(&kept.boot));
        // A moment that is yet to come proves nothing.
        let kept = kept.filter(|kept| kept.heard <= ticks.now());
        let state = State {
            heard: kept.as_ref().map(|kept| kept.heard),
            epoch: Epoch::FIRST,
            // Of that epoch if it still lasts; and if not, it is over anyway.
            granted: kept.filter(|kept| kept.granted).map(|_| Epoch::FIRST),
        };
        Self { state: Arc::new(watch::Sender::new(state)), ticks, lease }
    }

    pub fn now(&self) -> Uptime {
        self.ticks.now()
    }

    /// A server has answered what we sent at this moment.
    pub fn answered(&self, sent: Uptime) {
        let now = self.now();
        self.state.send_modify(|state| {
            if is_over(state.heard, now, self.lease) {
                state.epoch = state.epoch.next();
            }
            state.heard = state.heard.max(Some(sent));
        });
    }

    /// The present epoch, unless contact was lost for too long.
    pub fn epoch(&self) -> Option<Epoch> {
        let state = *self.state.borrow();
        (!is_over(state.heard, self.now(), self.lease)).then_some(state.epoch)
    }

    /// The present epoch, if a Target speaks for it.
    pub fn granted(&self) -> Option<Epoch> {
        let granted = self.state.borrow().granted;
        self.epoch().filter(|epoch| granted == Some(*epoch))
    }

    /// A Target that arrived in this epoch is in force, and on disk if it can be.
    pub fn grant(&self, epoch: Epoch) {
        self.state.send_if_modified(|state| {
            let is_new = state.epoch == epoch && state.granted != Some(epoch);
            if is_new {
                state.granted = Some(epoch);
            }
            is_new
        });
    }

    /// For what a Target of this epoch asks for.
    pub fn leave(&self, failover: Failover, granted: Option<Epoch>) -> Leave {
        match failover {
            Failover::Never => Leave::Always,
            Failover::Lease => Leave::Within { contact: self.clone(), granted },
        }
    }

    /// Ready once this epoch is over.
    pub async fn ended(&self, epoch: Epoch) {
        loop {
            if self.epoch() != Some(epoch) {
                return;
            }
            let heard = self.state.borrow().heard.unwrap_or_default();
            let left = self.lease.saturating_sub(self.now().since(heard));
            // Never zero: a timer that fires a little early must not spin.
            let left = left.clamp(Duration::from_millis(1), LOOK_EVERY);
            tokio::time::sleep(left).await;
        }
    }

    /// Tells the keeper in `run` whenever it moves, and now and then to one that may be new, while
    /// somebody depends on it.
    pub async fn tell_keeper(self, run: PathBuf, mut needed: watch::Receiver<bool>) {
        let mut state = self.state.subscribe();
        while needed.wait_for(|needed| *needed).await.is_ok() {
            // A failure means that nobody can say anything new.
            let _ = tokio::time::timeout(LOOK_EVERY, state.changed()).await;
            let heard = state.borrow_and_update().heard;
            if let Some(heard) = heard {
                keeper::tell(&run, keeper::Word { heard, lease: self.lease });
            }
        }
    }

    /// Writes it down whenever it moves, while `needed` says that somebody depends on it. On a
    /// thread of its own: a disk that hangs must not keep the lease from ending.
    pub async fn keep(self, file: PathBuf, mut needed: watch::Receiver<bool>, shutdown: Shutdown) {
        let Ok(boot) = boot::id() else { return };
        let mut state = self.state.subscribe();
        state.mark_changed();
        loop {
            tokio::select! {
                _ = shutdown.requested() => return,
                Ok(()) = state.changed() => {}
                Ok(()) = needed.changed() => {}
                else => return,
            }
            if !*needed.borrow_and_update() {
                continue;
            }
            let State { heard, epoch, granted } = *state.borrow_and_update();
            let Some(heard) = heard else { continue };
            let kept = Kept { boot: boot.clone(), heard, granted: granted == Some(epoch) };
            let file = file.clone();
            let written = tokio::task::spawn_blocking(move || write(&file, &kept)).await;
            if let Ok(Err(error)) = written {
                tracing::debug!(%error, "write down when a server was heard last");
            }
        }
    }
}

fn is_over(heard: Option<Uptime>, now: Uptime, lease: Duration) -> bool {
    heard.is_none_or(|heard| now.since(heard) >= lease)
}

/// Whole or not at all, and not synced: what it tells of does not survive the machine either.
fn write(file: &Path, kept: &Kept) -> std::io::Result<()> {
    let beside = file.with_extension("new");
    std::fs::write(&beside, serde_json::to_vec(kept)?)?;
    std::fs::rename(&beside, file)
}

#[cfg(test)]
pub mod tests {
    use tokio::time::Instant;

    use super::*;

    pub const LEASE: Duration = Duration::from_secs(10);

    /// Runs with tokio's clock, so that tests can pause it.
    #[derive(Debug)]
    pub struct TokioTicks(Instant);

    impl TokioTicks {
        /// The machine was booted an hour ago.
        pub fn new() -> Arc<Self> {
            Arc::new(Self(Instant::now()))
        }
    }

    impl Ticks for TokioTicks {
        fn now(&self) -> Uptime {
            Uptime(Duration::from_secs(3_600) + self.0.elapsed())
        }
    }

    async fn pass(span: Duration) {
        tokio::time::advance(span).await;
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn the_lease_runs_from_the_sending_of_what_was_answered() {
        let folder = tempfile::tempdir().unwrap();
        let contact = Contact::open(&folder.path().join("c"), LEASE, TokioTicks::new());
        assert_eq!(contact.epoch(), None, "nothing proves any contact");
        let sent = contact.now();
        pass(secs(4)).await;
        contact.answered(sent);
        let epoch = contact.epoch().unwrap();
        pass(secs(5)).await;
        assert_eq!(contact.epoch(), Some(epoch));
        // An older answer that comes late takes nothing back.
        contact.answered(Uptime::default());
        let began = Instant::now();
        contact.ended(epoch).await;
        assert_eq!(began.elapsed(), secs(1));
        assert_eq!(contact.epoch(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gap_begins_another_epoch_and_steady_contact_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let contact = Contact::open(&folder.path().join("c"), LEASE, TokioTicks::new());
        contact.answered(contact.now());
        let first = contact.epoch().unwrap();
        for _ in 0..100 {
            pass(secs(1)).await;
            contact.answered(contact.now());
        }
        assert_eq!(contact.epoch(), Some(first));
        pass(LEASE).await;
        contact.answered(contact.now());
        assert!(contact.epoch().is_some_and(|next| next != first));
        contact.ended(first).await;
    }

    #[tokio::test(start_paused = true)]
    async fn leave_is_given_in_its_epoch_alone_and_always_to_what_does_not_care() {
        let folder = tempfile::tempdir().unwrap();
        let contact = Contact::open(&folder.path().join("c"), LEASE, TokioTicks::new());
        assert!(!contact.leave(Failover::Lease, None).is_given());
        assert!(!contact.leave(Failover::Lease, contact.epoch()).is_given());
        contact.answered(contact.now());
        let (leased, steady) = (
            contact.leave(Failover::Lease, contact.epoch()),
            contact.leave(Failover::Never, contact.epoch()),
        );
        assert!(leased.is_given() && steady.is_given());
        assert!(!contact.leave(Failover::Lease, None).is_given(), "no Target has spoken for it");
        pass(LEASE).await;
        assert!(!leased.is_given() && steady.is_given());
        // Contact alone does not say that it is still ours.
        contact.answered(contact.now());
        assert!(!leased.is_given());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_took_as_long_as_the_lease_proves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let contact = Contact::open(&folder.path().join("c"), LEASE, TokioTicks::new());
        let sent = contact.now();
        pass(LEASE).await;
        contact.answered(sent);
        assert_eq!(contact.epoch(), None);
    }

    #[tokio::test]
    async fn the_next_agent_goes_on_from_the_disk_and_another_boot_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("contact.json");
        let contact = Contact::open(&file, LEASE, Arc::new(KernelTicks));
        let shutdown = Shutdown::new();
        let (needed, is_needed) = watch::channel(false);
        let keeping = tokio::spawn(contact.clone().keep(file.clone(), is_needed, shutdown.clone()));
        contact.answered(contact.now());
        tokio::task::yield_now().await;
        assert!(!file.exists(), "nobody depends on it");
        needed.send_replace(true);
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        shutdown.begin(insula_kit::shutdown::Cause::Own);
        keeping.await.unwrap();

        let again = |file: &Path| Contact::open(file, LEASE, Arc::new(KernelTicks)).epoch();
        assert!(again(&file).is_some());
        let text = std::fs::read_to_string(&file).unwrap();
        let boot = boot::id().unwrap();
        std::fs::write(&file, text.replace(&boot, "another")).unwrap();
        assert_eq!(again(&file), None);
        std::fs::write(&file, "{\"boot\":").unwrap();
        assert_eq!(again(&file), None);
        let ahead = Kept { boot, heard: Uptime(contact.now().0 + secs(60)), granted: true };
        write(&file, &ahead).unwrap();
        assert_eq!(again(&file), None, "from a moment that is yet to come");
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_speaks_for_the_epoch_that_it_arrived_in_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let contact = Contact::open(&folder.path().join("c"), LEASE, TokioTicks::new());
        contact.answered(contact.now());
        let first = contact.epoch().unwrap();
        assert_eq!(contact.granted(), None, "nothing was sent yet");
        contact.grant(first);
        assert_eq!(contact.granted(), Some(first));
        pass(LEASE).await;
        assert_eq!(contact.granted(), None);
        contact.answered(contact.now());
        contact.grant(first);
        assert_eq!(contact.granted(), None, "it lay in a queue");
        contact.grant(contact.epoch().unwrap());
        assert!(contact.granted().is_some());
    }

    #[test]
    fn the_next_agent_has_what_was_granted_and_takes_nothing_else_for_granted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("contact.json");
        let boot = boot::id().unwrap();
        let opened = |text: String| {
            std::fs::write(&file, text).unwrap();
            Contact::open(&file, LEASE, Arc::new(KernelTicks))
        };
        let heard = KernelTicks.now();
        let kept =
            |granted| serde_json::to_string(&Kept { boot: boot.clone(), heard, granted }).unwrap();
        assert_eq!(opened(kept(true)).granted(), Some(Epoch::FIRST));
        let silent = opened(kept(false));
        assert_eq!((silent.epoch(), silent.granted()), (Some(Epoch::FIRST), None));
        let other = opened(kept(true).replace(&boot, "another"));
        other.answered(other.now());
        assert_eq!(other.granted(), None, "it spoke before the boot");
        // Whoever is replaced by this build must not lose what leans on it.
        let of_before = kept(true).replace(",\"granted\":true", "");
        assert!(!of_before.contains("granted"));
        assert_eq!(opened(of_before).granted(), Some(Epoch::FIRST));
    }
}
