//! One component moved a step towards what is asked for: scaled, replaced, rolled, moved away.
//!
//! In: its instances as they stand, how many are wanted of which deployment, and at what pace.
//! Out: `Place` and `Drain`. The same few rules serve a rollout that rolls, one that goes back, the
//! loss and return of a node, its drain, and scaling:
//!
//! - never more of them than asked for and the surge;
//! - one that is ready leaves only if enough others are, and only from a node that answers now;
//! - what is on a lost node is neither counted nor touched.
//!
//! Components that are single are never moved like this (see `single`).

use std::cmp::Reverse;

use insula_model::app::App;
use insula_model::instance::{Instance, Intent};
use insula_model::spec::{ComponentSpec, RolloutSpec};
use insula_model::{ComponentName, DeploymentId, InstanceId, NodeId, Timestamp};

use crate::action::{Action, Plan};
use crate::nodes;
use crate::placement::{Ask, Kin, NoRoom};
use crate::rollout::{START_SLACK, is_ready};
use crate::steady::is_under_way;
use crate::world::World;

/// What is asked of a component.
pub(crate) struct Asked<'a> {
    pub(crate) app: &'a App,
    pub(crate) name: &'a ComponentName,
    /// Whose instances are wanted, and how they are made.
    pub(crate) goal: DeploymentId,
    pub(crate) spec: &'a ComponentSpec,
    pub(crate) want: usize,
}

/// How fast old ones may be exchanged for new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    surge: usize,
    unavailable: usize,
    /// Whether those on their way out count, too, until they are gone.
    whole: bool,
}

impl Pace {
    pub(crate) fn of(rollout: RolloutSpec) -> Self {
        match rollout {
            // What moves from a node goes one by one; in the rollout itself all start at once.
            RolloutSpec::BlueGreen => Self { surge: 1, unavailable: 0, whole: false },
            // With neither it could not take a step.
            RolloutSpec::Rolling { surge: 0, unavailable: 0 } => {
                Self { surge: 1, unavailable: 0, whole: true }
            }
            RolloutSpec::Rolling { surge, unavailable } => {
                Self { surge: surge as usize, unavailable: unavailable as usize, whole: true }
            }
        }
    }
}

/// The instances of a component, by what they are to the goal.
#[derive(Default)]
pub(crate) struct Crew<'a> {
    /// Of the goal, where they may stay.
    pub(crate) keep: Vec<&'a Instance>,
    /// Of the goal, on nodes that are being drained.
    pub(crate) evicted: Vec<&'a Instance>,
    /// Of others, serving until they are replaced.
    pub(crate) old: Vec<&'a Instance>,
    /// On their way out.
    going: usize,
    /// In the place of some of the goal: on lost nodes that may be back in a moment, or serving
    /// until the next deployment begins.
    pub(crate) held: usize,
}

impl<'a> Crew<'a> {
    pub(crate) fn of(
        world: &'a World,
        asked: &Asked<'_>,
        is_old: impl Fn(&Instance) -> bool,
        now: Timestamp,
        plan: &mut Plan,
    ) -> Self {
        let mut crew = Self::default();
        let mut lost = Vec::new();
        for one in world.instances_of(asked.app.id).filter(|i| i.component == *asked.name) {
            let own = one.deployment == asked.goal;
            if nodes::is_lost(world, one.node) {
                lost.extend((own && one.intent == Intent::Run).then_some(one.node));
                continue;
            }
            match one.intent {
                Intent::Run if own && nodes::is_draining(world, one.node) => crew.evicted.push(one),
                Intent::Run if own => crew.keep.push(one),
                Intent::Run if is_old(one) => crew.old.push(one),
                // Another deployment's own, or a stray that is told to end in this very plan.
                Intent::Run if is_under_way(world, one) => {}
                Intent::Run | Intent::Drain { .. } | Intent::Stop { .. } => crew.going += 1,
            }
        }
        if crew.keep.len() < asked.want {
            crew.hold(world, asked, &lost, now, plan);
        }
        crew
    }

    /// Waits for those that may be back in a moment.
    fn hold(
        &mut self,
        world: &World,
        asked: &Asked<'_>,
        lost: &[NodeId],
        now: Timestamp,
        plan: &mut Plan,
    ) {
        self.held = lost.iter().filter(|id| nodes::may_be_back(world, **id, now, plan)).count();
        if self.held > 0 {
            let (name, held) = (asked.name, self.held);
            let said = "no node was heard for a while";
            plan.wait(
                asked.app.id,
                format!("`{name}`: {said}, and {held} are on some that may be back in a moment"),
            );
        }
    }

    /// Those of the goal.
    pub(crate) fn own(&self) -> impl Iterator<Item = &'a Instance> {
        self.keep.iter().chain(&self.evicted).copied()
    }

    fn running(&self) -> impl Iterator<Item = &'a Instance> {
        self.own().chain(self.old.iter().copied())
    }

    /// Whether some are leaving, or old ones will when those that start now are ready.
    fn goes_on(&self, world: &World) -> bool {
        self.going > 0 || self.own().any(|i| !serves(world, i))
    }

    pub(crate) fn own_ready(&self, world: &World) -> usize {
        self.own().filter(|i| serves(world, i)).count()
    }
}

/// Whether it is ready as far as anybody can know now.
pub(crate) fn serves(world: &World, instance: &Instance) -> bool {
    is_ready(instance) && world.is_here(instance.node)
}

/// How many there are while a step is being taken.
struct Tally {
    keep: usize,
    run: usize,
    ready: usize,
    going: usize,
}

impl Tally {
    fn leaves(&mut self, ready: bool) {
        self.run -= 1;
        self.ready -= usize::from(ready);
        self.going += 1;
    }
}

/// Takes the step. What is missing and has no room comes back, for the caller to judge.
pub(crate) fn step(
    world: &World,
    asked: &Asked<'_>,
    pace: Pace,
    crew: &Crew<'_>,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<NoRoom> {
    let mut tally = Tally {
        keep: crew.keep.len(),
        run: crew.running().count(),
        ready: crew.running().filter(|i| serves(world, i)).count(),
        going: crew.going,
    };
    let before = tally.going;
    let gone = drain_surplus(world, asked, crew, &mut tally, plan);
    let stay = drain_replaced(world, asked, pace, (crew, &gone), &mut tally, now, plan);
    let (placed, no) = place_missing(asked, pace, crew, &tally, plan);
    tell_who_stays(world, asked, crew, &stay, no.as_ref(), plan);
    // What only has to move can stay, and what leaves makes room.
    let missing = tally.keep + crew.evicted.len() + crew.held < asked.want;
    let exchanging = !crew.old.is_empty() && (placed > 0 || crew.goes_on(world));
    let goes_on = tally.going > before || exchanging;
    no.filter(|_| missing && !goes_on)
}

/// More than asked for: those that are not ready go first, then the youngest, because the oldest
/// have proved themselves longest. Returns who leaves.
fn drain_surplus(
    world: &World,
    asked: &Asked<'_>,
    crew: &Crew<'_>,
    tally: &mut Tally,
    plan: &mut Plan,
) -> Vec<InstanceId> {
    let mut gone = Vec::new();
    for spare in least_proved_first(world, crew.keep.iter().copied()) {
        if tally.keep <= asked.want {
            break;
        }
        let ready = serves(world, spare);
        if !world.is_here(spare.node) || (ready && tally.ready <= asked.want) {
            continue;
        }
        plan.act(Action::Drain { instance: spare.id, why: "more of them than are asked for" });
        gone.push(spare.id);
        tally.keep -= 1;
        tally.leaves(ready);
    }
    gone
}

/// Those that others have replaced. Returns who stays for now.
fn drain_replaced<'a>(
    world: &World,
    asked: &Asked<'_>,
    pace: Pace,
    (crew, gone): (&Crew<'a>, &[InstanceId]),
    tally: &mut Tally,
    now: Timestamp,
    plan: &mut Plan,
) -> Vec<&'a Instance> {
    let least = asked.want.saturating_sub(pace.unavailable);
    let mut stay = Vec::new();
    let leaving = crew.evicted.iter().chain(&crew.old).copied();
    for one in least_proved_first(world, leaving) {
        let ready = serves(world, one);
        let evicted = one.deployment == asked.goal;
        let spared = !ready
            || tally.ready > least
            // An app that is never ready must not keep a node from being drained.
            || (evicted && tally.run > asked.want && had_its_time(world, asked, (crew, gone), now, plan));
        if !world.is_here(one.node) || tally.run <= least || !spared {
            stay.push(one);
            continue;
        }
        let why = if evicted { "its node is being drained" } else { "replaced" };
        plan.act(Action::Drain { instance: one.id, why });
        tally.leaves(ready);
    }
    stay
}

/// Whether the youngest that stays has proved itself, or had all the time for it. One that has just
/// been told to leave proves nothing.
fn had_its_time(
    world: &World,
    asked: &Asked<'_>,
    (crew, gone): (&Crew<'_>, &[InstanceId]),
    now: Timestamp,
    plan: &mut Plan,
) -> bool {
    let stay = || crew.keep.iter().filter(|i| !gone.contains(&i.id));
    let Some(youngest) = stay().max_by_key(|i| i.id) else { return false };
    // Of what a silent node has nobody can say; it is heard again or given up in a moment.
    if stay().any(|i| !world.is_here(i.node)) {
        return false;
    }
    let over = youngest.created.plus(asked.spec.health.startup).plus(START_SLACK);
    if serves(world, youngest) || now >= over {
        return true;
    }
    plan.wake_at(over);
    false
}

fn place_missing(
    asked: &Asked<'_>,
    pace: Pace,
    crew: &Crew<'_>,
    tally: &Tally,
    plan: &mut Plan,
) -> (usize, Option<NoRoom>) {
    let lacking = asked.want.saturating_sub(tally.keep + crew.held);
    let there = tally.run + if pace.whole { tally.going } else { 0 };
    let n = lacking.min((asked.want + pace.surge).saturating_sub(there));
    if n == 0 {
        return (0, None);
    }
    let kin = Kin::new(asked.app.id, asked.name);
    let (nodes, no) = plan.room.place_many(&Ask::of(asked.spec, asked.app.org), Some(&kin), n);
    let placed = nodes.len();
    if placed > 0 {
        plan.act(Action::Place {
            app: asked.app.id,
            deployment: asked.goal,
            component: asked.name.clone(),
            nodes,
        });
    }
    (placed, no)
}

/// So that whoever drains a node sees what it waits for.
fn tell_who_stays(
    world: &World,
    asked: &Asked<'_>,
    crew: &Crew<'_>,
    stay: &[&Instance],
    no: Option<&NoRoom>,
    plan: &mut Plan,
) {
    let what = format!("`{}` of {}", asked.name, asked.app.name);
    for one in stay.iter().filter(|i| i.deployment == asked.goal) {
        let next = crew.keep.iter().filter(|i| !serves(world, i)).max_by_key(|i| i.id);
        let said = match (no, next) {
            _ if !world.is_here(one.node) => format!("{what} waits until its node is heard again"),
            (Some(no), _) => format!("{what} stays: {no}"),
            (None, Some(next)) => {
                let on = nodes::name(world, next.node);
                format!("{what} waits until its replacement on {on} is ready")
            }
            (None, None) => format!("{what} waits for its turn"),
        };
        plan.wait(one.node, said);
    }
}

/// Those that are not ready, then the youngest.
fn least_proved_first<'a>(
    world: &World,
    instances: impl Iterator<Item = &'a Instance>,
) -> Vec<&'a Instance> {
    let mut all: Vec<&Instance> = instances.collect();
    all.sort_by_key(|i| (serves(world, i), Reverse(i.id)));
    all
}
