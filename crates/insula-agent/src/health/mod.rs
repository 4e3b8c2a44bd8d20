//! What is wrong with the node itself: looked for now and then, and said on the board.
//!
//! A node that says anything here gets no new instances, so a word that comes and goes would move
//! load back and forth: `steady` says a thing once it was so for a while, and takes it back once it
//! was well for longer. Words have no figures that change from look to look, for each change of
//! them is a report. Nothing here stops or moves what runs, and repairs are others' work (`host`).

mod clock;
mod disk;
mod host;
mod network;
mod steady;
mod usage;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use insula_kit::shutdown::Shutdown;
use insula_model::node::{Ailment, AilmentKind};
use tokio::time::{Instant, MissedTickBehavior};

use crate::board::Board;
use disk::WriteProbe;
use steady::Steady;

pub use disk::size as disk_size;
pub use usage::NodeMeter;

/// A look is a few system calls; what is found is believed after some of them.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Rules of ours that somebody changed are put right at once; that it happens is worth knowing for
/// a while, and whoever does it once often does it again.
const RULES_TOLD_FOR: Duration = Duration::from_secs(120);

/// What other parts have noticed, for the next look. Clones write on the same page.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    noticed: Arc<Mutex<Noticed>>,
}

#[derive(Debug, Default)]
struct Noticed {
    network: network::Network,
    skew: clock::Skew,
    rules: Option<(Instant, Vec<String>)>,
    keeper: Option<String>,
}

impl Vitals {
    /// A heartbeat came back after this long, and said what the server's clock showed.
    pub fn round_trip(&self, took: Duration, server_ms: i64, our_ms: i64) {
        let mut noticed = self.lock();
        noticed.network.round_trip(took);
        // A server of the version before says no time.
        if server_ms != 0 {
            noticed.skew.see(took, server_ms, our_ms);
        }
    }

    /// A server that was there fell silent, without a word of farewell.
    pub fn silence(&self) {
        self.lock().network.silence(Instant::now());
    }

    /// What of the host's rules was not as we had left it; nothing of it needs to be so any more.
    pub fn rules_changed(&self, found: Vec<String>) {
        if !found.is_empty() {
            self.lock().rules = Some((Instant::now(), found));
        }
    }

    /// Why there is no keeper, or that there is one.
    pub fn keeper(&self, missing: Option<String>) {
        self.lock().keeper = missing;
    }

    fn lock(&self) -> MutexGuard<'_, Noticed> {
        self.noticed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noticed {
    fn rules(&self, now: Instant) -> Option<String> {
        let (at, found) = self.rules.as_ref()?;
        let told = now.duration_since(*at) < RULES_TOLD_FOR;
        told.then(|| format!("somebody changed the host's network: {}", found.join("; ")))
    }
}

/// What is looked at.
#[derive(Debug)]
pub struct Health {
    pub data: PathBuf,
    pub cgroup_parent: Option<String>,
    pub vitals: Vitals,
    pub board: Board,
}

/// One sort of ailment each, so that one that comes does not hide another.
#[derive(Debug)]
struct Judged {
    space: Steady,
    writing: Steady,
    clock: Steady,
    rules: Steady,
    network: Steady,
    host: Steady,
}

impl Judged {
    fn new() -> Self {
        Self {
            space: Steady::new(2, 6),
            writing: Steady::new(2, 6),
            clock: Steady::new(2, 3),
            // It is told for a while already.
            rules: Steady::new(1, 1),
            network: Steady::new(3, 12),
            host: Steady::new(2, 3),
        }
    }

    fn ailments(&self) -> Vec<Ailment> {
        let said = [
            (AilmentKind::Disk, &self.space),
            (AilmentKind::Disk, &self.writing),
            (AilmentKind::Clock, &self.clock),
            (AilmentKind::Rules, &self.rules),
            (AilmentKind::Network, &self.network),
            (AilmentKind::Host, &self.host),
        ];
        let ailment = |(kind, it): (AilmentKind, &Steady)| {
            Some(Ailment { kind, message: it.said()?.to_owned() })
        };
        said.into_iter().filter_map(ailment).collect()
    }
}

impl Health {
    /// Looks until the end is asked for.
    pub async fn keep(self, shutdown: Shutdown) {
        let mut judged = Judged::new();
        let mut probe = WriteProbe::new(self.data.clone());
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = shutdown.requested() => return,
                _ = look.tick() => {}
            }
            self.look(&mut judged, &mut probe).await;
            let ailments = judged.ailments();
            if ailments != self.board.report().ailments {
                for ailment in &ailments {
                    let (kind, message) = (ailment.kind.as_str(), &ailment.message);
                    tracing::warn!(kind, message, "something is wrong with this node");
                }
                if ailments.is_empty() {
                    tracing::info!("nothing is wrong with this node any more");
                }
                self.board.set_ailments(ailments);
            }
        }
    }

    async fn look(&self, judged: &mut Judged, probe: &mut WriteProbe) {
        let (data, parent) = (self.data.clone(), self.cgroup_parent.clone());
        let had_little = judged.space.said().is_some();
        let looking = tokio::task::spawn_blocking(move || {
            (disk::shortage(&data, had_little), parent.and_then(|it| host::cgroups(&it)))
        });
        // A disk that hangs must not hang this: the write probe says so.
        let looked = tokio::time::timeout(LOOK_EVERY, looking).await;
        if let Ok(Ok((shortage, cgroups))) = looked {
            judged.space.see(shortage);
            let keeper = self.vitals.lock().keeper.clone();
            judged.host.see(keeper.or(cgroups));
        }
        judged.writing.see(probe.look());
        let mut noticed = self.vitals.lock();
        let now = Instant::now();
        judged.clock.see(noticed.skew.judge(judged.clock.said().is_some()));
        judged.rules.see(noticed.rules(now));
        judged.network.see(noticed.network.judge(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(data: PathBuf) -> (Health, Judged, WriteProbe) {
        let probe = WriteProbe::new(data.clone());
        let health = Health {
            data,
            cgroup_parent: None,
            vitals: Vitals::default(),
            board: Board::default(),
        };
        (health, Judged::new(), probe)
    }

    #[tokio::test]
    async fn what_others_noticed_is_said_and_a_well_node_says_nothing_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let (health, mut judged, mut probe) = health(folder.path().to_owned());
        health.look(&mut judged, &mut probe).await;
        let of_others = |judged: &Judged| {
            let ailments = judged.ailments().into_iter().filter(|it| it.kind != AilmentKind::Disk);
            ailments.map(|it| format!("{}: {}", it.kind.as_str(), it.message)).collect::<Vec<_>>()
        };
        assert_eq!(of_others(&judged), Vec::<String>::new());

        health.vitals.rules_changed(vec!["the set peers is missing".into()]);
        health.vitals.keeper(Some("no keeper takes the logs".into()));
        let hour = 3_600_000;
        for _ in 0..8 {
            health.vitals.round_trip(Duration::from_millis(2), 1_000_000 + hour, 1_000_000);
        }
        health.look(&mut judged, &mut probe).await;
        health.look(&mut judged, &mut probe).await;
        assert_eq!(
            of_others(&judged),
            [
                "clock: its clock is behind the server's by about an hour",
                "rules: somebody changed the host's network: the set peers is missing",
                "host: no keeper takes the logs",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn rules_that_were_put_right_are_told_for_a_while() {
        let vitals = Vitals::default();
        vitals.rules_changed(vec!["the table is missing".into()]);
        vitals.rules_changed(vec![]);
        tokio::time::advance(RULES_TOLD_FOR - Duration::from_secs(1)).await;
        assert!(vitals.lock().rules(Instant::now()).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(vitals.lock().rules(Instant::now()), None);
    }
}
