//! The commit-ordered feed: what has changed since a position, as it is now.
//!
//! A mutation that touches a row of `Change` notes it (`Tx::touch`); when it is done, each row that
//! was touched gets the next position. A row has one entry, which moves to the end each time: the
//! feed holds no history, only who changed last. What a row refers to is told with it, so that a
//! reader who had forgotten an old release hears of it when it becomes live again.
//!
//! Instances that were made together, with ids that follow one another, share one entry: a row of
//! ids. Who reads it is told of each that is still there; each that changes later has its own.
//!
//! `AppGone` also means that the app's deployments and builds are gone.

use insula_model::feed::Change;
use insula_model::{
    AppId, BuildId, DeploymentId, DomainId, EnvironmentId, GatewayId, Generation, InstanceId,
    NodeId, OrgId, ProjectId, ReleaseId, RunId,
};

use crate::error::StoreError;
use crate::sql::params;
use crate::tx::Tx;
use crate::{
    apps, builds, deployments, domains, environments, gateways, instances, nodes, orgs, projects,
    releases, runs,
};

/// Positions that are kept for readers who were away. A reader from before takes a snapshot,
/// which costs about as much as reading this many changes.
pub const KEPT_DEFAULT: u64 = 100_000;
/// Trimming in so many steps of what is kept costs less than trimming each time.
const TRIM_STEPS: u64 = 64;

/// Instances in one entry. A reader may be told as many more changes than it asked for.
const RUN_MAX: u128 = 1_024;

/// The reader is too far behind (or, after a restore, ahead): it takes a `snapshot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the feed reaches from {oldest} to {head} and cannot go on after {asked}")]
pub struct FeedGap {
    pub asked: Generation,
    pub oldest: Generation,
    pub head: Generation,
}

#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error(transparent)]
    Gap(#[from] FeedGap),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A row that a change must be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Touch {
    Org(OrgId),
    Project(ProjectId),
    Environment(EnvironmentId),
    App(AppId),
    Domain(DomainId),
    Release(ReleaseId),
    Deployment(DeploymentId),
    Build(BuildId),
    Run(RunId),
    Instance(InstanceId),
    /// From the first to the last.
    Instances(InstanceId, InstanceId),
    Node(NodeId),
    Gateway(GatewayId),
    SecretsOf(OrgId),
}

macro_rules! touch_from {
    ($($name:ident: $id:ty),*) => {$(
        impl From<$id> for Touch {
            fn from(id: $id) -> Self {
                Self::$name(id)
            }
        }
    )*};
}

touch_from! {
    Org: OrgId, Project: ProjectId, Environment: EnvironmentId, App: AppId, Domain: DomainId,
    Release: ReleaseId, Deployment: DeploymentId, Build: BuildId, Run: RunId,
    Instance: InstanceId, Node: NodeId, Gateway: GatewayId
}

/// Of the first and the last id in an entry of several.
const BETWEEN: char = '/';

impl Touch {
    fn parts(self) -> (&'static str, String) {
        match self {
            Self::Org(id) => ("org", id.to_string()),
            Self::Project(id) => ("project", id.to_string()),
            Self::Environment(id) => ("environment", id.to_string()),
            Self::App(id) => ("app", id.to_string()),
            Self::Domain(id) => ("domain", id.to_string()),
            Self::Release(id) => ("release", id.to_string()),
            Self::Deployment(id) => ("deployment", id.to_string()),
            Self::Build(id) => ("build", id.to_string()),
            Self::Run(id) => ("run", id.to_string()),
            Self::Instance(id) => ("instance", id.to_string()),
            Self::Instances(first, last) => ("instances", format!("{first}{BETWEEN}{last}")),
            Self::Node(id) => ("node", id.to_string()),
            Self::Gateway(id) => ("gateway", id.to_string()),
            Self::SecretsOf(id) => ("secrets", id.to_string()),
        }
    }

    fn read(row: &mut crate::sql::Row<'_>) -> Result<Option<Self>, StoreError> {
        Ok(Some(match row.text()?.as_str() {
            "org" => Self::Org(row.parse()?),
            "project" => Self::Project(row.parse()?),
            "environment" => Self::Environment(row.parse()?),
            "app" => Self::App(row.parse()?),
            "domain" => Self::Domain(row.parse()?),
            "release" => Self::Release(row.parse()?),
            "deployment" => Self::Deployment(row.parse()?),
            "build" => Self::Build(row.parse()?),
            "run" => Self::Run(row.parse()?),
            "instance" => Self::Instance(row.parse()?),
            "instances" => {
                let run = row.text()?;
                let ends = run.split_once(BETWEEN);
                let ends = ends.and_then(|(a, z)| Some((a.parse().ok()?, z.parse().ok()?)));
                let (first, last) = ends.ok_or_else(|| row.refuse("not two instances"))?;
                Self::Instances(first, last)
            }
            "node" => Self::Node(row.parse()?),
            "gateway" => Self::Gateway(row.parse()?),
            "secrets" => Self::SecretsOf(row.parse()?),
            // Of a kind that this version does not know.
            _ => return Ok(None),
        }))
    }

    /// The rows as they are now. Nothing for a kind whose end is told by its app's.
    fn changes(self, tx: &Tx) -> Result<Vec<Change>, StoreError> {
        fn told<T>(
            row: Option<T>,
            there: impl FnOnce(Box<T>) -> Change,
            gone: Option<Change>,
        ) -> Option<Change> {
            row.map(|row| there(Box::new(row))).or(gone)
        }
        let one = match self {
            Self::Org(id) => told(orgs::get(tx, id)?, Change::Org, Some(Change::OrgGone(id))),
            Self::Project(id) => {
                told(projects::get_any_org(tx, id)?, Change::Project, Some(Change::ProjectGone(id)))
            }
            Self::Environment(id) => told(
                environments::get_any_org(tx, id)?,
                Change::Environment,
                Some(Change::EnvironmentGone(id)),
            ),
            Self::App(id) => {
                told(apps::get_any_org(tx, id)?, Change::App, Some(Change::AppGone(id)))
            }
            Self::Domain(id) => {
                told(domains::get_any_org(tx, id)?, Change::Domain, Some(Change::DomainGone(id)))
            }
            Self::Release(id) => {
                told(releases::get_any_org(tx, id)?, Change::Release, Some(Change::ReleaseGone(id)))
            }
            Self::Deployment(id) => {
                told(deployments::get_any_org(tx, id)?, Change::Deployment, None)
            }
            Self::Build(id) => told(builds::get_any_org(tx, id)?, Change::Build, None),
            Self::Run(id) => {
                told(runs::get_any_org(tx, id)?, Change::Run, Some(Change::RunGone(id)))
            }
            Self::Instance(id) => told(
                instances::get_any_org(tx, id)?,
                Change::Instance,
                Some(Change::InstanceGone(id)),
            ),
            Self::Instances(first, last) => {
                let rows = instances::range_any_org(tx, first, last)?.into_iter();
                return Ok(rows.map(|row| Change::Instance(Box::new(row))).collect());
            }
            Self::Node(id) => told(nodes::get(tx, id)?, Change::Node, Some(Change::NodeGone(id))),
            Self::Gateway(id) => {
                told(gateways::get(tx, id)?, Change::Gateway, Some(Change::GatewayGone(id)))
            }
            Self::SecretsOf(id) => Some(Change::SecretsOf(id)),
        };
        Ok(one.into_iter().collect())
    }
}

pub fn head(tx: &Tx) -> Result<Generation, StoreError> {
    counter(tx, "feed")
}

fn counter(tx: &Tx, name: &str) -> Result<Generation, StoreError> {
    let found =
        tx.find("SELECT value FROM counters WHERE name = ?1", params![name], |row| row.amount())?;
    Ok(Generation(found.unwrap_or(0)))
}

/// Everything that the control plane's World is made of, parents before children.
///
/// All orgs, projects, environments, apps, domains, nodes, gateways and instances; runs and deployments that
/// are under way, and deployments that some app lives by; their builds; the releases that any of
/// these name.
pub fn snapshot(tx: &Tx) -> Result<(Generation, Vec<Change>), StoreError> {
    let mut out = Vec::new();
    fn extend<T>(out: &mut Vec<Change>, rows: Vec<T>, change: fn(Box<T>) -> Change) {
        out.extend(rows.into_iter().map(|row| change(Box::new(row))));
    }
    extend(&mut out, nodes::all(tx)?, Change::Node);
    extend(&mut out, gateways::list(tx)?, Change::Gateway);
    extend(&mut out, orgs::all(tx)?, Change::Org);
    extend(&mut out, projects::all_any_org(tx)?, Change::Project);
    extend(&mut out, environments::all_any_org(tx)?, Change::Environment);
    extend(&mut out, apps::all_any_org(tx)?, Change::App);
    extend(&mut out, domains::all_any_org(tx)?, Change::Domain);
    extend(&mut out, releases::in_use_any_org(tx)?, Change::Release);
    extend(&mut out, deployments::in_use_any_org(tx)?, Change::Deployment);
    extend(&mut out, builds::in_use_any_org(tx)?, Change::Build);
    extend(&mut out, runs::under_way_any_org(tx)?, Change::Run);
    instances::each_any_org(tx, |row| out.push(Change::Instance(Box::new(row))))?;
    Ok((head(tx)?, out))
}

/// What changed after `after`: the rows as they are now, about `limit` of them at most, and the
/// position to ask from next. It is the head's once nothing is left out.
///
/// Each row is told once, but for an instance that has changed since it was made with others.
pub fn since(
    tx: &Tx,
    after: Generation,
    limit: usize,
) -> Result<(Generation, Vec<Change>), FeedError> {
    let (oldest, head) = (counter(tx, "feed_trimmed")?, head(tx)?);
    if after < oldest || after > head {
        return Err(FeedGap { asked: after, oldest, head }.into());
    }
    let touched = tx.query(
        "SELECT seq, kind, id FROM feed WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        params![after, limit],
        |row| Ok((Generation(row.amount()?), Touch::read(row)?)),
    )?;
    let complete = touched.len() < limit;
    let mut reached = after;
    let mut changes = Vec::with_capacity(touched.len());
    for (seq, touch) in touched {
        if changes.len() >= limit {
            return Ok((reached, changes));
        }
        if let Some(touch) = touch {
            changes.extend(touch.changes(tx)?);
        }
        reached = seq;
    }
    Ok((if complete { head } else { reached }, changes))
}

/// Notes that instances appeared whose ids follow one another.
pub(crate) fn touch_run(tx: &mut Tx, first: InstanceId, last: InstanceId) {
    let (mut from, last) = (first.as_u128(), last.as_u128());
    while from <= last {
        let upto = last.min(from.saturating_add(RUN_MAX - 1));
        let (a, z) = (InstanceId::from_u128(from), InstanceId::from_u128(upto));
        tx.touch(if a == z { Touch::Instance(a) } else { Touch::Instances(a, z) });
        let Some(next) = upto.checked_add(1) else { return };
        from = next;
    }
}

/// Gives every row that was touched its new position. The last thing that a mutation does.
pub(crate) fn tell(tx: &mut Tx) -> Result<(), StoreError> {
    let touched = tx.take_touched();
    if touched.is_empty() {
        return Ok(());
    }
    let count = touched.len() as u64;
    let last: Option<u64> = tx
        .returning(
            "UPDATE counters SET value = value + ?1 WHERE name = 'feed' RETURNING value",
            params![count],
            |row| row.amount(),
        )?
        .pop();
    let last = last.unwrap_or(count);
    for (seq, touch) in (last - count + 1..).zip(touched) {
        let (kind, id) = touch.parts();
        tx.execute(
            "INSERT INTO feed (kind, id, seq) VALUES (?1, ?2, ?3)
             ON CONFLICT (kind, id) DO UPDATE SET seq = excluded.seq",
            params![kind, id, seq],
        )?;
    }
    tx.feed_moved(Generation(last));
    let step = (tx.feed_kept / TRIM_STEPS).max(1);
    if (last - count) / step != last / step {
        trim(tx, last.saturating_sub(tx.feed_kept))?;
    }
    Ok(())
}

/// Forgets the positions up to and with `upto`.
fn trim(tx: &mut Tx, upto: u64) -> Result<(), StoreError> {
    tx.execute("DELETE FROM feed WHERE seq <= ?1", params![upto])?;
    tx.execute(
        "UPDATE counters SET value = ?1 WHERE name = 'feed_trimmed' AND value < ?1",
        params![upto],
    )?;
    Ok(())
}
