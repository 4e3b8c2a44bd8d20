//! One step of a plan, as a value that can be printed, compared and refused.

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use insula_model::build::Artifact;
use insula_model::deployment::Cause;
use insula_model::observed::Exit;
use insula_model::{
    AppId, ComponentName, DeploymentId, InstanceId, NodeId, ReleaseId, RunId, Timestamp,
};

use crate::due::{Rest, Who};
use crate::placement::Room;
use crate::world::World;

/// What is to be done. Each names the state that it starts from by what it carries; carrying it
/// out on a world that has moved on changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A later deployment of the same app won.
    Supersede {
        deployment: DeploymentId,
        by: DeploymentId,
    },
    StartBuild {
        deployment: DeploymentId,
        node: NodeId,
    },
    /// A build that its node lost through no fault of its own.
    RetryBuild {
        deployment: DeploymentId,
        node: NodeId,
        attempt: u32,
    },
    /// Cut a new release and begin to start it.
    CutRelease {
        deployment: DeploymentId,
        artifact: Artifact,
    },
    /// Begin to start a release that exists.
    UseRelease {
        deployment: DeploymentId,
        release: ReleaseId,
    },
    Place {
        app: AppId,
        deployment: DeploymentId,
        component: ComponentName,
        /// One instance for each entry.
        nodes: Vec<NodeId>,
    },
    /// The new instances take over in the routes; the others leave them.
    Shift {
        deployment: DeploymentId,
        drain: Vec<InstanceId>,
        warnings: Vec<String>,
    },
    GoLive {
        deployment: DeploymentId,
        warnings: Vec<String>,
    },
    Fail {
        deployment: DeploymentId,
        cause: Box<Cause>,
    },
    Drain {
        instance: InstanceId,
        why: &'static str,
    },
    Stop {
        instance: InstanceId,
        why: &'static str,
    },
    Forget {
        instance: InstanceId,
    },
    /// The node has been silent for too long: its instances are replaced elsewhere.
    Lose {
        node: NodeId,
    },
    /// The node is back and has said what it holds.
    Welcome {
        node: NodeId,
    },
    StartRun {
        run: RunId,
        node: NodeId,
    },
    EndRun {
        run: RunId,
        exit: Exit,
    },
}

/// For the platform's log: what is done to what, and nothing that an app or a tenant wrote.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Supersede { deployment, by } => write!(f, "supersede {deployment} by {by}"),
            Self::StartBuild { deployment, node } => write!(f, "build {deployment} on {node}"),
            Self::RetryBuild { deployment, node, attempt } => {
                write!(f, "build {deployment} on {node}, attempt {attempt}")
            }
            Self::CutRelease { deployment, .. } => write!(f, "cut a release for {deployment}"),
            Self::UseRelease { deployment, release } => write!(f, "use {release} for {deployment}"),
            Self::Place { deployment, component, nodes, .. } => {
                write!(f, "place {component} of {deployment} on")?;
                nodes.iter().try_for_each(|node| write!(f, " {node}"))
            }
            Self::Shift { deployment, drain, .. } => {
                write!(f, "shift to {deployment}, draining {}", drain.len())
            }
            Self::GoLive { deployment, .. } => write!(f, "{deployment} is live"),
            Self::Fail { deployment, cause } => {
                write!(f, "fail {deployment}: {}", cause.code.as_str())
            }
            Self::Drain { instance, why } => write!(f, "drain {instance}: {why}"),
            Self::Stop { instance, why } => write!(f, "stop {instance}: {why}"),
            Self::Forget { instance } => write!(f, "forget {instance}"),
            Self::Lose { node } => write!(f, "give up {node}"),
            Self::Welcome { node } => write!(f, "welcome {node}"),
            Self::StartRun { run, node } => write!(f, "start {run} on {node}"),
            Self::EndRun { run, .. } => write!(f, "end {run}"),
        }
    }
}

/// Something that waits, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The id of a deployment, an app, a run or an instance.
    pub subject: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub waits: Vec<Wait>,
    /// When something is due that no message will announce.
    pub next: Option<Timestamp>,
    pub(crate) room: Room,
    /// How each that was looked at was left.
    pub rests: Vec<Rest>,
    /// What each waits for that was not looked at this time; empty if all were. See `Due::planned`.
    pub(crate) standing: OrdMap<Who, Arc<[Wait]>>,
    /// When the oldest session of a node began, once somebody has asked.
    witness: Option<Option<Timestamp>>,
    /// How often something was not replaced because its node may be back in a moment.
    held: u64,
}

impl Plan {
    pub(crate) fn new(room: Room) -> Self {
        Self {
            actions: Vec::new(),
            waits: Vec::new(),
            next: None,
            room,
            rests: Vec::new(),
            standing: OrdMap::new(),
            witness: None,
            held: 0,
        }
    }

    /// See `nodes::oldest_session`; it looks at every node, so it is asked for once.
    pub(crate) fn witness(&mut self, world: &World) -> Option<Timestamp> {
        *self.witness.get_or_insert_with(|| crate::nodes::oldest_session(world))
    }

    /// Notes that something waits for a node rather than for room: what ends one ends the other.
    pub(crate) fn hold(&mut self) {
        self.held += 1;
    }

    fn short(&self) -> u64 {
        self.room.short() + self.held
    }

    /// What one of those that are looked at adds to the plan.
    pub(crate) fn part(&mut self, who: Who, step: impl FnOnce(&mut Self)) {
        let (actions, waits, short) = (self.actions.len(), self.waits.len(), self.short());
        let next = self.next.take();
        step(self);
        self.rests.push(Rest {
            who,
            acts: self.actions.len() > actions,
            short: self.short() > short,
            next: self.next,
            waits: waits..self.waits.len(),
        });
        next.into_iter().for_each(|at| self.wake_at(at));
    }

    /// Everything that waits, and for what: of those that were looked at now, and of the others as
    /// they were left.
    pub fn all_waits(&self) -> impl Iterator<Item = &Wait> {
        let now = self.standing.is_empty().then_some(&self.waits);
        self.standing.values().flat_map(|waits| waits.iter()).chain(now.into_iter().flatten())
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(crate) fn wait(&mut self, subject: impl ToString, reason: impl Into<String>) {
        self.waits.push(Wait { subject: subject.to_string(), reason: reason.into() });
    }

    pub(crate) fn wake_at(&mut self, at: Timestamp) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}
