//! Moves data between the hub, the store and the core, and decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use insula_kit::shutdown::Shutdown;
use insula_link::{Inbound, Inbox, Secrets};
use insula_model::{Millis, NodeId, Timestamp};
use insula_store::feed::{self, FeedError};
use tokio::sync::watch;
use tracing::{error, warn};

use crate::core::{self, Core, Now, Settings, Turn};
use crate::fence::Fence;
use crate::leader::{Leadership, Standing};
use crate::status::Board;
use crate::{Boards, ControlError, Cx, hub, secrets, write};

/// Changes read from the feed in one go; more wait for the next.
const CHANGES_AT_ONCE: usize = 10_000;
/// Messages taken in one go: what comes meanwhile waits for the next turn, and so does not keep it
/// from coming.
const MESSAGES_AT_ONCE: usize = 1_024;
/// Turns before the loop looks up: messages, the end and the lease want to be heard.
const TURNS_AT_ONCE: usize = 8;
/// Between two views of the operator's status: it costs a look at every node.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// Nodes say every few seconds what they use.
const USAGE_INTERVAL: Duration = Duration::from_secs(2);
/// Where the steady clock begins: instants from before this loop have a reading, too.
const STEADY_BEGINS: Millis = Millis::secs(3_600);

/// Why a term ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The server ends.
    Asked,
    /// Another server leads, or nobody knows.
    Lost,
}

/// One term of leading: a core that began with it, and ends with it.
pub(crate) struct Shell<'a> {
    cx: &'a Cx,
    fence: Fence,
    core: Core,
    clock: Steady,
    board: &'a Board,
    boards: &'a Boards,
    /// The values that nodes were sent: what is sent again when one cannot be opened any more.
    secrets: BTreeMap<NodeId, Secrets>,
    shown: Option<Instant>,
    asked_for_usage: Option<Instant>,
}

/// A clock that never jumps.
#[derive(Debug, Clone, Copy)]
struct Steady(Instant);

impl Steady {
    fn at(self, instant: Instant) -> Millis {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        match instant.checked_duration_since(self.0) {
            Some(after) => Millis(STEADY_BEGINS.0 + ms(after)),
            None => Millis(STEADY_BEGINS.0.saturating_sub(ms(self.0.duration_since(instant)))),
        }
    }
}

/// Microseconds since the first look, for how long a pass took.
fn stopwatch() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let since = FIRST.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn now(cx: &Cx, clock: Steady) -> Now {
    Now { wall: Timestamp::from_millis(cx.clock.now_ms()), steady: clock.at(Instant::now()) }
}

impl<'a> Shell<'a> {
    /// Reads everything anew.
    pub(crate) async fn load(
        cx: &'a Cx,
        fence: Fence,
        board: &'a Board,
        boards: &'a Boards,
    ) -> Result<Self, ControlError> {
        let clock = Steady(Instant::now());
        let snapshot = cx.store.read(feed::snapshot).await.map_err(ControlError::Load)?;
        let settings = Settings {
            rules: cx.rules,
            stopwatch: Some(stopwatch),
            ..Settings::new(cx.suffix.clone())
        };
        let core = Core::new(settings, Arc::clone(&cx.random), snapshot, now(cx, clock));
        let secrets = BTreeMap::new();
        let (shown, asked_for_usage) = (None, None);
        Ok(Self { cx, fence, core, clock, board, boards, secrets, shown, asked_for_usage })
    }

    /// Works until the end is asked for or the term is over.
    pub(crate) async fn run(
        mut self,
        inbound: &mut Inbox,
        standing: &mut watch::Receiver<Standing>,
        shutdown: &Shutdown,
    ) -> End {
        let mut head = self.cx.store.head();
        head.mark_changed();
        let mut again = Some(Millis(0));
        loop {
            let sleep = again.map_or(core::SAFETY_INTERVAL, |ms| ms.min(core::SAFETY_INTERVAL));
            let listen = self.core.listen_at().0.saturating_sub(self.now().steady.0);
            let mut look = false;
            tokio::select! {
                biased;
                _ = shutdown.requested() => return End::Asked,
                // Whoever holds elections is gone, and with it this server.
                changed = standing.changed() => if changed.is_err() { return End::Asked },
                () = tokio::time::sleep(Duration::from_millis(listen)) => self.listen(),
                Some(first) = inbound.recv() => self.take(first, inbound),
                changed = head.changed() => {
                    // The store is closed only when the server ends.
                    if changed.is_err() { return End::Asked }
                    look = true;
                }
                () = tokio::time::sleep(sleep.as_duration()) => look = true,
            }
            if !self.leads(standing) {
                return End::Lost;
            }
            again = match self.turns(&mut head, look, standing).await {
                Ok(again) => again,
                Err(Superseded) => return End::Lost,
            };
            self.show();
        }
    }

    fn now(&self) -> Now {
        now(self.cx, self.clock)
    }

    /// Whether this term is still sure.
    fn leads(&self, standing: &watch::Receiver<Standing>) -> bool {
        match &*standing.borrow() {
            Standing::Leads(term) => term.fence == self.fence && term.is_sure(),
            Standing::Unknown | Standing::Follows { .. } => false,
        }
    }

    fn take(&mut self, first: Inbound, inbound: &mut Inbox) {
        let now = self.now();
        self.core.tell(first, now);
        for _ in 1..MESSAGES_AT_ONCE {
            let Ok(more) = inbound.try_recv() else { return };
            self.core.tell(more, now);
        }
    }

    fn listen(&mut self) {
        let (now, clock) = (self.now(), self.clock);
        let heard = self.cx.hub.heard_at(self.core.awaited(now));
        self.core.heard(now, heard.into_iter().map(|(node, at)| (node, clock.at(at))));
        if self.asked_for_usage.is_none_or(|at| at.elapsed() >= USAGE_INTERVAL) {
            self.asked_for_usage = Some(Instant::now());
            self.core.used(hub::measured(&self.cx.hub));
            self.core.contested(hub::contested(&self.cx.hub));
        }
    }

    /// Turns until nothing is left to write.
    async fn turns(
        &mut self,
        head: &mut watch::Receiver<insula_model::Generation>,
        mut look: bool,
        standing: &watch::Receiver<Standing>,
    ) -> Result<Option<Millis>, Superseded> {
        for _ in 0..TURNS_AT_ONCE {
            look |= head.has_changed().unwrap_or(true) || !self.core.is_current();
            if look {
                head.mark_unchanged();
                if !self.refresh().await {
                    return Ok(Some(core::STORE_PAUSE));
                }
                look = false;
            }
            if !self.leads(standing) {
                return Err(Superseded);
            }
            let turn = self.core.turn(self.now());
            let again = turn.again;
            if !self.carry_out(turn).await? {
                return Ok(again);
            }
        }
        Ok(Some(Millis(0)))
    }

    /// Whether anything was written, so that another turn is due.
    async fn carry_out(&mut self, turn: Turn) -> Result<bool, Superseded> {
        for member in turn.expel {
            hub::expel(&self.cx.hub, member);
        }
        if let Some(publication) = turn.routes
            && let Err(error) =
                self.cx.hub.publish_routes(&publication.table, publication.trace.clone())
        {
            error!(%error, "the routes cannot be published");
            self.core.not_published(self.now());
        }
        for send in turn.targets {
            let node = send.target.node;
            if !self.send_target(send).await {
                self.core.not_sent(node, self.now());
            }
        }
        if turn.writes.is_empty() {
            return Ok(false);
        }
        let written = write::all(self.cx, self.fence, turn.writes).await;
        if written.superseded {
            return Err(Superseded);
        }
        let now = self.now();
        for (ticket, outcome) in written.outcomes {
            self.core.wrote(ticket, outcome, now);
        }
        Ok(true)
    }

    async fn send_target(&mut self, send: core::Send) -> bool {
        let node = send.target.node;
        let last = self.secrets.remove(&node).unwrap_or_default();
        let world = self.core.world();
        let secrets = match secrets::of_target(self.cx, world, &send.target, &last).await {
            Ok(secrets) => secrets,
            Err(error) => {
                self.secrets.insert(node, last);
                return store_failed("read a node's secrets", &error);
            }
        };
        let sent = self.cx.hub.send_target(&send.target, &secrets);
        if let Err(error) = &sent {
            error!(%node, %error, "a node's target cannot be sent");
        }
        if !secrets.of.is_empty() {
            self.secrets.insert(node, secrets);
        }
        sent.is_ok()
    }

    /// Brings the world up to the store's last commit. False if the store did not answer.
    async fn refresh(&mut self) -> bool {
        loop {
            let reading = self.core.begin_read();
            let from = reading.from;
            let read = self.cx.store.read(move |tx| feed::since(tx, from, CHANGES_AT_ONCE)).await;
            match read {
                Ok((generation, changes)) => {
                    let whole = generation == from && changes.is_empty();
                    self.core.read(reading, generation, changes, whole);
                    if whole {
                        return true;
                    }
                }
                Err(FeedError::Gap(gap)) => {
                    warn!(%gap, "reading the whole world again");
                    match self.cx.store.read(feed::snapshot).await {
                        Ok((generation, rows)) => {
                            self.core.read_everything(reading, generation, rows);
                        }
                        Err(error) => return store_failed("read the world", &error),
                    }
                }
                Err(FeedError::Store(error)) => return store_failed("read the feed", &error),
            }
        }
    }

    /// Lets others see what was seen and decided.
    fn show(&mut self) {
        self.boards.view.send_replace(self.core.view());
        if self.shown.is_some_and(|at| at.elapsed() < STATUS_INTERVAL) {
            return;
        }
        self.shown = Some(Instant::now());
        let world = Arc::clone(self.core.world());
        self.cx.hub.retain_usage(|id| world.instances.contains_key(id));
        self.cx.hub.retain_traffic(|app, _| world.apps.contains_key(app));
        let mut status = self.core.status(self.now());
        status.leads = Some(self.fence.epoch);
        self.board.complete(&mut status);
        self.boards.status.send_replace(Arc::new(status));
    }
}

/// The store says that another server leads.
#[derive(Debug)]
struct Superseded;

/// Says so; always false, for the caller to pass on.
fn store_failed(doing: &'static str, error: &(dyn std::error::Error + 'static)) -> bool {
    error!(doing, error, "the store failed; trying again in a moment");
    false
}

/// Whether this server leads, as far as it can be sure of it. A store that nobody shares always is.
pub(crate) fn is_sure(standing: &Standing) -> bool {
    match standing {
        Standing::Leads(term) => term.is_sure(),
        Standing::Unknown | Standing::Follows { .. } => false,
    }
}

/// For as long as this server does not lead: what sessions still tell is nobody's business.
pub(crate) async fn follow(
    cx: &Cx,
    boards: &Boards,
    board: &Board,
    inbound: &mut Inbox,
    standing: &mut watch::Receiver<Standing>,
    shutdown: &Shutdown,
    led: &mut bool,
) -> Option<Fence> {
    let mut followed = false;
    loop {
        let known = standing.borrow_and_update().clone();
        match known {
            Standing::Leads(term) => {
                // A core begins without sessions. Whoever came before it was clear who leads is
                // heard; whoever told a core that is no more dials again.
                if followed || *led {
                    cx.hub.end_sessions("another term of leadership has begun: dial again");
                    while inbound.try_recv().is_ok() {}
                }
                *led = true;
                return Some(term.fence);
            }
            Standing::Follows { leader } => {
                followed = true;
                boards.leadership.send_replace(Leadership::Follower { leader });
                board.follows(boards, Timestamp::from_millis(cx.clock.now_ms()));
            }
            Standing::Unknown => {}
        }
        tokio::select! {
            _ = shutdown.requested() => return None,
            changed = standing.changed() => if changed.is_err() { return None },
            Some(_) = inbound.recv(), if followed => {}
            () = tokio::time::sleep(STATUS_INTERVAL) => {}
        }
    }
}
