//! What has to hold: at every commit, at every event of a process, and when it has been calm.

mod converge;
mod counts;
mod durable;
mod edge;
mod innocent;
mod single;

use insula_control::core::mutation::{Mutation, What};
use insula_model::feed::Change;
use insula_model::instance::{Instance, Intent};
use insula_model::observed::InstancePhase;
use insula_model::spec::ComponentSpec;
use insula_model::{AppId, ComponentName, NodeId};
use insula_plan::{Action, World};

use crate::sim::Sim;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    Surge,
    Single,
    Acknowledged,
    Innocent,
    Enough,
    Stays,
    Verdict,
    Routes,
    Generations,
    Removed,
    Capacity,
    Missed,
}

impl Property {
    pub const ALL: [Self; 12] = [
        Self::Surge,
        Self::Single,
        Self::Acknowledged,
        Self::Innocent,
        Self::Enough,
        Self::Stays,
        Self::Verdict,
        Self::Routes,
        Self::Generations,
        Self::Removed,
        Self::Capacity,
        Self::Missed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Surge => "surge",
            Self::Single => "single",
            Self::Acknowledged => "acknowledged",
            Self::Innocent => "innocent",
            Self::Enough => "enough",
            Self::Stays => "stays",
            Self::Verdict => "verdict",
            Self::Routes => "routes",
            Self::Generations => "generations",
            Self::Removed => "removed",
            Self::Capacity => "capacity",
            Self::Missed => "missed",
        }
    }

    pub fn sentence(self) -> &'static str {
        match self {
            Self::Surge => {
                "never are more instances of a component placed than asked for plus its surge, on nodes that are not lost"
            }
            Self::Single => "of a single component there are never two processes at once, anywhere",
            Self::Acknowledged => {
                "what was acknowledged is never undone, and every deployment ends with a verdict that stays"
            }
            Self::Innocent => {
                "nothing that is ready is stopped unless that was decided, and nothing is decided to leave on a node that is not heard"
            }
            Self::Enough => {
                "of what is ready only so much is told to leave that enough others are ready"
            }
            Self::Stays => {
                "in calm everything becomes as it was asked for, and then nothing changes any more"
            }
            Self::Verdict => {
                "what went live was ready and routed, and a good release goes live in a calm fleet"
            }
            Self::Routes => {
                "what drains is told to stop only when no gateway sends to it, or its time is over"
            }
            Self::Generations => "the generation that a node holds never goes back",
            Self::Removed => "a node that was removed has no row ever again",
            Self::Capacity => "no node is given more than it has, or anything that it must not get",
            Self::Missed => {
                "the look at everything finds nothing that the passes before had missed"
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub property: Property,
    pub detail: String,
    pub step: u64,
    pub at: u64,
}

fn spec_of<'a>(world: &'a World, row: &Instance) -> Option<&'a ComponentSpec> {
    world.releases.get(&row.release)?.spec.components.get(&row.component)
}

fn is_lost(world: &World, node: NodeId) -> bool {
    world.nodes.get(&node).is_none_or(|row| row.lost.is_some() && !world.is_here(node))
}

fn is_ready(row: &Instance) -> bool {
    row.observed.present().is_some_and(|report| report.phase == InstancePhase::Ready)
}

fn wanted(world: &World, app: AppId, name: &ComponentName, spec: &ComponentSpec) -> u32 {
    world.apps.get(&app).map_or(0, |row| insula_plan::rollout::wanted(row, name, spec))
}

fn of_component<'a>(
    world: &'a World,
    app: AppId,
    name: &'a ComponentName,
) -> impl Iterator<Item = &'a Instance> {
    world.instances_of(app).filter(move |row| row.component == *name)
}

impl Sim {
    /// What must hold of a commit of the control plane's.
    pub fn after_commit(&mut self, mutation: &Mutation, changes: &[Change], before: &World) {
        self.keeps_what_was_acknowledged(changes, before);
        let What::Act { steps } = &mutation.what else { return };
        for step in steps {
            match &step.action {
                Action::Place { app, deployment, component, nodes } => {
                    self.places_few_enough(mutation, before, (*app, *deployment, component));
                    self.places_where_there_is_room(mutation, nodes);
                }
                Action::Shift { deployment, .. } => self.was_ready(mutation, *deployment),
                Action::GoLive { deployment, warnings } => {
                    self.is_routed(*deployment, warnings.is_empty());
                }
                Action::Drain { .. }
                | Action::Stop { .. }
                | Action::Supersede { .. }
                | Action::StartBuild { .. }
                | Action::RetryBuild { .. }
                | Action::CutRelease { .. }
                | Action::UseRelease { .. }
                | Action::Fail { .. }
                | Action::Forget { .. }
                | Action::Lose { .. }
                | Action::Welcome { .. }
                | Action::StartRun { .. }
                | Action::EndRun { .. } => {}
            }
        }
        for change in changes {
            match change {
                Change::Instance(row) => {
                    let was = before.instances.get(&row.id).map(|row| row.intent);
                    match (was, row.intent) {
                        (Some(Intent::Run), Intent::Drain { .. } | Intent::Stop { .. }) => {
                            self.may_be_told_to_leave(mutation, row);
                            self.leaves_enough(mutation, row, before);
                        }
                        (Some(Intent::Drain { since }), Intent::Stop { .. }) => {
                            self.is_out_of_the_routes(mutation, row, since);
                        }
                        (Some(_) | None, _) => {}
                    }
                }
                Change::InstanceGone(id) => {
                    if let Some(row) = before.instances.get(id) {
                        self.is_truly_gone(row);
                    }
                }
                _ => {}
            }
        }
    }
}
