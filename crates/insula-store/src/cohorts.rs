//! What all instances of one component of one deployment share: kept once, however many they are.
//!
//! Only `instances` knows of this; everybody else sees whole instances. A cohort comes with its
//! first instance and goes with its last.

use insula_model::instance::{Instance, Intent};
use insula_model::observed::{InstanceReport, Observed};
use insula_model::spec::ComponentKind;
use insula_model::{
    AppId, Bytes, ComponentName, DeploymentId, EnvironmentId, InstanceId, MilliCpu, NodeId, OrgId,
    ProjectId, ReleaseId, RunId, Timestamp,
};

use crate::error::{Kind, StoreError, WriteError};
use crate::sql::{Row, Value, params};
use crate::tx::Tx;

/// The columns that `read` reads, in its order, of a cohort named `c`.
pub(crate) const COLUMNS: &str = "c.org, c.project, c.environment, c.app, c.component, c.kind, \
     c.release_id, c.deployment, c.run, c.cpu, c.memory, c.pids, c.disk";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CohortId(i64);

impl From<CohortId> for Value {
    fn from(id: CohortId) -> Self {
        id.0.into()
    }
}

impl CohortId {
    pub(crate) fn read(row: &mut Row<'_>) -> Result<Self, StoreError> {
        row.int().map(Self)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cohort {
    org: OrgId,
    project: ProjectId,
    environment: EnvironmentId,
    app: AppId,
    component: ComponentName,
    kind: ComponentKind,
    release: ReleaseId,
    deployment: DeploymentId,
    run: Option<RunId>,
    cpu: MilliCpu,
    memory: Bytes,
    pids: u32,
    disk: Bytes,
}

/// What an instance has for itself.
pub(crate) struct Own {
    pub(crate) id: InstanceId,
    pub(crate) node: NodeId,
    pub(crate) intent: Intent,
    pub(crate) created: Timestamp,
    pub(crate) observed: Observed<Box<InstanceReport>>,
}

impl Cohort {
    pub(crate) fn of(instance: &Instance) -> Self {
        let i = instance;
        Self {
            org: i.org,
            project: i.project,
            environment: i.environment,
            app: i.app,
            component: i.component.clone(),
            kind: i.kind,
            release: i.release,
            deployment: i.deployment,
            run: i.run,
            cpu: i.cpu,
            memory: i.memory,
            pids: i.pids,
            disk: i.disk,
        }
    }

    pub(crate) fn instance(&self, own: Own) -> Instance {
        Instance {
            id: own.id,
            org: self.org,
            project: self.project,
            environment: self.environment,
            app: self.app,
            component: self.component.clone(),
            kind: self.kind,
            release: self.release,
            deployment: self.deployment,
            run: self.run,
            node: own.node,
            cpu: self.cpu,
            memory: self.memory,
            pids: self.pids,
            disk: self.disk,
            intent: own.intent,
            created: own.created,
            observed: own.observed,
        }
    }

    pub(crate) fn read(row: &mut Row<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            org: row.parse()?,
            project: row.parse()?,
            environment: row.parse()?,
            app: row.parse()?,
            component: row.parse()?,
            kind: {
                let said = row.text()?;
                let known = ComponentKind::ALL.into_iter().find(|kind| kind.as_str() == said);
                known.ok_or_else(|| row.refuse("not a kind of component"))?
            },
            release: row.parse()?,
            deployment: row.parse()?,
            run: row.optional_parse()?,
            cpu: row.cpu()?,
            memory: row.bytes()?,
            pids: row.amount()?,
            disk: row.bytes()?,
        })
    }
}

/// Whether two instances are of one cohort.
pub(crate) fn alike(a: &Instance, b: &Instance) -> bool {
    // What differs most often first: of many that are made together, each is asked this.
    a.deployment == b.deployment
        && a.component == b.component
        && a.run == b.run
        && (a.org, a.project, a.environment, a.app) == (b.org, b.project, b.environment, b.app)
        && (a.kind, a.release) == (b.kind, b.release)
        && (a.cpu, a.memory, a.pids, a.disk) == (b.cpu, b.memory, b.pids, b.disk)
}

/// The cohort that a new instance belongs to, made if it is the first. Its app has to be there, and
/// its release to be one of that app.
pub(crate) fn of_new(tx: &mut Tx, instance: &Instance) -> Result<CohortId, WriteError> {
    let i = instance;
    if !tx.any("SELECT 1 FROM apps WHERE id = ?1 AND org = ?2", params![i.app, i.org])? {
        return Err(WriteError::NotFound { kind: Kind::App });
    }
    let release = "SELECT 1 FROM releases WHERE id = ?1 AND app = ?2 AND org = ?3";
    if !tx.any(release, params![i.release, i.app, i.org])? {
        return Err(WriteError::NotFound { kind: Kind::Release });
    }
    if let Some(known) = find(tx, instance)? {
        return Ok(known);
    }
    let id: i64 = tx
        .returning(
            "UPDATE counters SET value = value + 1 WHERE name = 'cohort' RETURNING value",
            &[],
            |row| row.int(),
        )?
        .pop()
        .unwrap_or(1);
    tx.execute(
        "INSERT INTO cohorts (id, org, project, environment, app, component, kind, release_id,
                              deployment, run, cpu, memory, pids, disk)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            id,
            i.org,
            i.project,
            i.environment,
            i.app,
            &i.component,
            i.kind.as_str(),
            i.release,
            i.deployment,
            i.run,
            i.cpu,
            i.memory,
            i.pids,
            i.disk,
        ],
    )?;
    Ok(CohortId(id))
}

fn find(tx: &Tx, instance: &Instance) -> Result<Option<CohortId>, StoreError> {
    let mut candidates = tx.query(
        &format!(
            "SELECT c.id, {COLUMNS} FROM cohorts c
             WHERE c.deployment = ?1 AND c.component = ?2 AND COALESCE(c.run, '') = ?3"
        ),
        params![
            instance.deployment,
            &instance.component,
            instance.run.map(|run| run.to_string()).unwrap_or_default(),
        ],
        |row| Ok((CohortId::read(row)?, Cohort::read(row)?)),
    )?;
    let wanted = Cohort::of(instance);
    candidates.retain(|(_, cohort)| *cohort == wanted);
    Ok(candidates.pop().map(|(id, _)| id))
}

pub(crate) fn get(tx: &Tx, id: CohortId) -> Result<Option<Cohort>, StoreError> {
    tx.find(&format!("SELECT {COLUMNS} FROM cohorts c WHERE c.id = ?1"), params![id], Cohort::read)
}

pub(crate) fn all(tx: &Tx) -> Result<Vec<(CohortId, Cohort)>, StoreError> {
    tx.query(&format!("SELECT c.id, {COLUMNS} FROM cohorts c ORDER BY c.id"), &[], |row| {
        Ok((CohortId::read(row)?, Cohort::read(row)?))
    })
}

/// Forgets the cohort if its last instance has gone, and then its release if nothing else needs it.
pub(crate) fn delete_if_empty(tx: &mut Tx, id: CohortId) -> Result<(), StoreError> {
    let gone: Option<(AppId, ReleaseId)> = tx
        .returning(
            "DELETE FROM cohorts
             WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM instances WHERE cohort = ?1)
             RETURNING app, release_id",
            params![id],
            |row| Ok((row.parse()?, row.parse()?)),
        )?
        .pop();
    if let Some((app, release)) = gone
        && crate::apps::get_any_org(tx, app)?.is_none()
    {
        crate::releases::delete_if_unused(tx, release)?;
    }
    Ok(())
}
