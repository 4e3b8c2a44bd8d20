//! Any history at all: who followed the feed knows what a snapshot says.
//!
//! The histories are made from a seed; a failure names it.

use insula_model::app::{App, Live};
use insula_model::build::BuildState;
use insula_model::deployment::{Cause, CauseCode, Deployment, DeploymentState, Source};
use insula_model::fleet::Gateway;
use insula_model::instance::{Instance, Intent, RunState};
use insula_model::limits::PAGE_MAX;
use insula_model::node::{Ailment, AilmentKind, Duty, Site};
use insula_model::release::Release;
use insula_model::tenancy::{Actor, Quota};
use insula_model::{GatewayId, Generation, InstanceId};
use insula_store::{
    Page, Store, StoreError, Tx, WriteError, apps, builds, deployments, domains, environments,
    feed, gateways, instances, nodes, orgs, projects, releases, runs,
};

use crate::model::{
    Fixture, Tenant, app, at, build, build_id, default_host, deployment, deployment_id, domain,
    environment, folder, instance, node, org, project, ready, release, run,
};
use crate::world::World;

const SEEDS: u64 = 24;
pub const STEPS: u32 = 150;

/// splitmix64: small, and good enough to shuffle with.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn one_of<'a, T>(&mut self, of: impl Iterator<Item = &'a T>) -> Option<&'a T> {
        let all: Vec<&T> = of.collect();
        if all.is_empty() { None } else { Some(all[self.roll(all.len())]) }
    }
}

/// One mutation, chosen from what the follower knows. `n` numbers everything that is made.
pub fn step(world: &World, dice: &mut Dice, n: u32) -> Option<Box<dyn Step>> {
    let some_app = dice.one_of(world.apps.values()).cloned();
    let some_org = dice.one_of(world.orgs.values()).cloned();
    Some(match dice.roll(28) {
        0 => boxed(move |tx| orgs::create(tx, &org(n))),
        1 => {
            let of = some_org?.id;
            boxed(move |tx| orgs::set_quota(tx, of, &Quota { instances: n, ..Quota::default() }))
        }
        2 => {
            let mut made = project(0, n);
            made.org = some_org?.id;
            boxed(move |tx| projects::create(tx, &made))
        }
        3 | 4 => {
            let made = environment(dice.one_of(world.projects.values())?, n);
            boxed(move |tx| environments::create(tx, &made))
        }
        5 | 6 => {
            let made = app(dice.one_of(world.environments.values())?, n);
            boxed(move |tx| apps::create(tx, &made, &default_host(&made)))
        }
        7 => {
            let made = domain(&some_app?, n, &format!("shop{n}.example.org"));
            boxed(move |tx| domains::add(tx, &made))
        }
        8 => {
            let gone = dice.one_of(world.domains.values())?.clone();
            boxed(move |tx| domains::remove(tx, gone.org, gone.id))
        }
        9 => {
            let app = some_app?;
            let mut made = deployment(&app, n, folder(n, insula_model::Bytes::kib(n.into())));
            made.build = Some(build_id(n));
            let built = build(&made, n);
            boxed(move |tx| {
                deployments::create(tx, &made)?;
                builds::create(tx, &built)
            })
        }
        10 => {
            let (app, pick) = (some_app?, dice.roll(usize::MAX));
            boxed(move |tx| {
                let Some(old) = some_release(tx, &app, pick)? else { return Ok(()) };
                let (source, previous) = match pick % 3 {
                    0 => (Source::Release { release: old.id }, None),
                    1 => (Source::Reconfigure { release: old.id }, None),
                    _ => (folder(n, insula_model::Bytes::kib(1)), Some(old.id)),
                };
                deployments::create(tx, &Deployment { previous, ..deployment(&app, n, source) })
            })
        }
        11 | 12 => {
            // A release is cut, or one that is there goes live.
            let before = dice.one_of(world.deployments.values())?.clone();
            if before.state.is_final() {
                return None;
            }
            boxed(move |tx| {
                let mut after = before.clone();
                match after.release {
                    None => {
                        let number = releases::next_number(tx, after.org, after.app)?;
                        let cut = release(&after, n, number);
                        releases::create(tx, &cut)?;
                        after.release = Some(cut.id);
                        after.state = DeploymentState::Starting;
                        deployments::update(tx, &before.state, &after)
                    }
                    Some(cut) => {
                        after.state = DeploymentState::Live;
                        deployments::update(tx, &before.state, &after)?;
                        let since = at(n.into());
                        let live = Live { release: cut, deployment: after.id, since };
                        apps::set_live(tx, after.org, after.app, &live)
                    }
                }
            })
        }
        13 => {
            let before = dice.one_of(world.deployments.values())?.clone();
            if before.state.is_final() {
                return None;
            }
            let mut after = before.clone();
            after.state = match dice.roll(3) {
                0 => DeploymentState::Cancelled { by: Actor::Operator },
                1 => DeploymentState::Superseded { by: crate::model::deployment_id(n) },
                _ => DeploymentState::Failed {
                    cause: Box::new(Cause::new(CauseCode::BuildFailed, "exit code 1")),
                },
            };
            boxed(move |tx| deployments::update(tx, &before.state, &after))
        }
        14 => {
            let before = dice.one_of(world.builds.values())?.clone();
            let mut after = before.clone();
            after.state = BuildState::Running { node: crate::model::node_id(1), attempt: n };
            boxed(move |tx| builds::update(tx, &before.state, &after))
        }
        15 | 20 | 21 => {
            let (app, pick) = (some_app?, dice.roll(usize::MAX));
            boxed(move |tx| {
                let Some(old) = some_release(tx, &app, pick)? else { return Ok(()) };
                if pick % 2 == 0 {
                    runs::create(tx, &run(&app, &old, n))
                } else {
                    instances::create(tx, &instance(&app, &old, n))
                }
            })
        }
        16 | 23 => {
            let one = dice.one_of(world.instances.values())?.clone();
            match dice.roll(6) {
                0 => boxed(move |tx| {
                    let intent = Intent::Stop { since: at(n.into()) };
                    instances::set_intent(tx, one.org, one.id, intent).map(drop)
                }),
                1 => boxed(move |tx| {
                    let seen = ready(one.id, at(n.into()));
                    instances::set_observed(tx, one.org, one.id, &seen).map(drop)
                }),
                _ => boxed(move |tx| instances::delete(tx, one.org, one.id)),
            }
        }
        17 | 22 => {
            let before = dice.one_of(world.runs.values())?.clone();
            let mut after = before.clone();
            after.state = RunState::Cancelled;
            boxed(move |tx| runs::update(tx, &before.state, &after))
        }
        18 => {
            // One that is there comes again, or a new one joins: who was removed cannot.
            let again = dice.one_of(world.nodes.values()).filter(|_| !n.is_multiple_of(3)).cloned();
            boxed(move |tx| nodes::hello(tx, &again.clone().unwrap_or_else(|| node(n))))
        }
        24 | 25 => {
            // As an action places them: ids in a row, and perhaps some that are on their own.
            let (app, pick, count) = (some_app?, dice.roll(usize::MAX), dice.roll(90) as u32);
            let nodes: Vec<_> = world.nodes.keys().copied().collect();
            boxed(move |tx| {
                let Some(old) = some_release(tx, &app, pick)? else { return Ok(()) };
                let first = instance(&app, &old, n);
                // Two rows of ids, which no other step makes.
                let row = |k: u32| InstanceId::from_u128(u128::from(n * 2 + k / 50) << 64);
                let of = |k: u32| Instance {
                    id: row(k).nth(k),
                    node: nodes.get(k as usize % nodes.len().max(1)).copied().unwrap_or(first.node),
                    deployment: if k < 30 { first.deployment } else { deployment_id(n) },
                    ..first.clone()
                };
                let rows: Vec<_> = (0..count).map(of).collect();
                instances::create_many(tx, &rows)
            })
        }
        26 => {
            let one = dice.one_of(world.nodes.values())?.clone();
            let since = at(n.into());
            match dice.roll(6) {
                0 if world.nodes.len() > 1 => {
                    boxed(move |tx| nodes::remove_with_instances(tx, one.id, since).map(drop))
                }
                0 | 1 => boxed(move |tx| not_empty(nodes::remove(tx, one.id, since))),
                2 => boxed(move |tx| nodes::set_duty(tx, one.id, Duty::Drain { since })),
                3 => boxed(move |tx| {
                    let lost = if one.lost.is_some() { None } else { Some(since) };
                    nodes::mark(tx, one.id, one.lost, lost).map(drop)
                }),
                4 => boxed(move |tx| {
                    let message = format!("{n} % full");
                    let full = Ailment { kind: AilmentKind::Disk, message };
                    nodes::set_ailments(tx, one.id, &[full]).map(drop)
                }),
                _ => boxed(move |tx| {
                    let zone = "north".parse().ok();
                    nodes::set_site(tx, one.id, &Site { zone, ..Site::default() })
                }),
            }
        }
        27 => match (dice.roll(3), dice.one_of(world.gateways.values()).cloned()) {
            (0, Some(gone)) => boxed(move |tx| gateways::remove(tx, gone.id, at(n.into()))),
            (1, Some(again)) => boxed(move |tx| {
                gateways::hello(tx, &Gateway { hello: at(n.into()), ..again.clone() })
            }),
            _ => boxed(move |tx| {
                let (joined, hello) = (at(n.into()), at(n.into()));
                let id = GatewayId::from_u128(n.into());
                let version = "0.2.0".to_owned();
                gateways::hello(tx, &Gateway { id, version, joined, hello })
            }),
        },
        _ => match dice.roll(8) {
            0 if world.orgs.len() > 2 => {
                let of = some_org?.id;
                boxed(move |tx| orgs::delete(tx, of))
            }
            0..=3 => {
                let app = some_app?;
                boxed(move |tx| apps::delete(tx, app.org, app.id))
            }
            4 | 5 => {
                let app = some_app?;
                let scale = [("web".parse().ok()?, n)].into();
                boxed(move |tx| apps::set_scale(tx, app.org, app.id, &scale))
            }
            6 => {
                let gone = dice.one_of(world.environments.values())?.clone();
                boxed(move |tx| not_empty(environments::delete(tx, gone.org, gone.id)))
            }
            _ => {
                let gone = dice.one_of(world.projects.values())?.clone();
                boxed(move |tx| not_empty(projects::delete(tx, gone.org, gone.id)))
            }
        },
    })
}

/// Any release of the app: also an old one, which who follows has forgotten.
fn some_release(tx: &Tx, app: &App, pick: usize) -> Result<Option<Release>, StoreError> {
    let mut all = releases::list(tx, app.org, app.id, &Page::first(PAGE_MAX))?.items;
    let count = all.len();
    Ok(if count == 0 { None } else { Some(all.swap_remove(pick % count).release) })
}

/// What still has something in it is refused, which is as good a step as any.
fn not_empty(outcome: Result<(), WriteError>) -> Result<(), WriteError> {
    match outcome {
        Err(WriteError::NotEmpty { .. }) => Ok(()),
        other => other,
    }
}

pub trait Step: Fn(&mut Tx) -> Result<(), WriteError> + Send {}
impl<F: Fn(&mut Tx) -> Result<(), WriteError> + Send> Step for F {}

fn boxed(step: impl Fn(&mut Tx) -> Result<(), WriteError> + Send + 'static) -> Box<dyn Step> {
    Box::new(step)
}

pub fn follow(store: &Store, world: &mut World, from: Generation) -> Generation {
    let mut reached = from;
    let mut changes = Vec::new();
    loop {
        let (next, more) = store.read_blocking(move |tx| feed::since(tx, reached, 7)).unwrap();
        changes.extend(more);
        if next == reached {
            world.apply(changes);
            return reached;
        }
        reached = next;
    }
}

pub fn snapshot(store: &Store) -> (Generation, World) {
    let (head, changes) = store.read_blocking(feed::snapshot).unwrap();
    let mut world = World::default();
    world.apply(changes);
    (head, world)
}

#[test]
fn who_follows_the_feed_knows_what_a_snapshot_says() {
    // A server on a socket takes its time; it is the same histories.
    let seeds = if crate::postgres::place().is_some() { SEEDS / 4 } else { SEEDS };
    for seed in 0..seeds {
        let fixture = Fixture::new();
        let store = fixture.store.clone();
        let mut dice = Dice(seed);
        // One who follows each commit, and one who looks now and then.
        let (mut near, mut near_at) = (World::default(), Generation(0));
        let (mut far, mut far_at) = (World::default(), Generation(0));
        // Something to begin with.
        store.write_blocking(|tx| Tenant::of(STEPS + 1).deploy(tx)).unwrap();
        near_at = follow(&store, &mut near, near_at);
        for n in 1..=STEPS {
            let Some(step) = step(&near, &mut dice, n) else { continue };
            store
                .write_blocking(move |tx| step(tx))
                .unwrap_or_else(|error: WriteError| panic!("seed {seed}, step {n}: {error:?}"));
            near_at = follow(&store, &mut near, near_at);
            if dice.roll(25) == 0 {
                far_at = follow(&store, &mut far, far_at);
            }
            if dice.roll(10) == 0 {
                let (head, told) = snapshot(&store);
                assert_eq!(head, near_at, "seed {seed}, step {n}");
                assert_eq!(near, told, "seed {seed}, step {n}");
            }
        }
        follow(&store, &mut far, far_at);
        let (_, told) = snapshot(&store);
        assert_eq!(near, told, "seed {seed}");
        assert_eq!(far, told, "seed {seed}, seldom looking");
        assert!(near_at > Generation(u64::from(STEPS) / 4), "seed {seed} did too little");
    }
}
