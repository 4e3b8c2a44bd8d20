//! What an org asks for at this moment, to be held against its quota.
//!
//! It counts what specs ask for, not what runs: an app that runs counts with the greater of what it
//! lives by and what its newest deployment under way asks for. The surge of a rollout is free. A run
//! counts until it has ended, whether or not its app is stopped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use insula_model::app::App;
use insula_model::deployment::Source;
use insula_model::spec::{AppSpec, ComponentSpec};
use insula_model::{AppId, Bytes, MilliCpu, OrgId, ReleaseId};

use crate::error::StoreError;
use crate::sql::params;
use crate::tx::Tx;
use crate::{apps, blobs, deployments, releases, runs};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub instances: u32,
    pub memory: Bytes,
    pub cpu: MilliCpu,
    pub builds_queued: u32,
    pub builds_running: u32,
    pub disk: Bytes,
}

/// What instances ask for together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ask {
    pub instances: u32,
    pub memory: Bytes,
    pub cpu: MilliCpu,
}

impl Ask {
    /// What an app asks for with this spec and its scale.
    pub fn of(spec: &AppSpec, app: &App) -> Self {
        let mut ask = Self::default();
        for (name, component) in &spec.components {
            if component.kind.stays() {
                let count = app.scale.get(name).copied().unwrap_or(component.instances);
                let memory = component.memory.0.saturating_mul(count.into());
                let cpu = component.cpu.0.saturating_mul(count);
                ask =
                    ask.plus(Self { instances: count, memory: Bytes(memory), cpu: MilliCpu(cpu) });
            }
        }
        ask
    }

    /// What one run of a component asks for.
    pub fn of_run(component: &ComponentSpec) -> Self {
        Self { instances: 1, memory: component.memory, cpu: component.cpu }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            instances: self.instances.saturating_add(other.instances),
            memory: Bytes(self.memory.0.saturating_add(other.memory.0)),
            cpu: MilliCpu(self.cpu.0.saturating_add(other.cpu.0)),
        }
    }

    fn greater(self, other: Self) -> Self {
        Self {
            instances: self.instances.max(other.instances),
            memory: self.memory.max(other.memory),
            cpu: self.cpu.max(other.cpu),
        }
    }
}

pub fn usage(tx: &Tx, org: OrgId) -> Result<Usage, StoreError> {
    let ask = ask_without(tx, org, None)?;
    let builds = |state: &str| {
        let sql = "SELECT COUNT(*) FROM builds WHERE state = ?1 AND org = ?2";
        tx.find(sql, params![state, org], |row| row.amount()).map(Option::unwrap_or_default)
    };
    Ok(Usage {
        instances: ask.instances,
        memory: ask.memory,
        cpu: ask.cpu,
        builds_queued: builds("queued")?,
        builds_running: builds("running")?,
        disk: blobs::disk(tx, org)?,
    })
}

/// What all the org's apps but one ask for, and all its runs: what a new spec of that app has to
/// fit beside.
pub fn ask_without(tx: &Tx, org: OrgId, app: Option<AppId>) -> Result<Ask, StoreError> {
    let mut total = ask_of_runs(tx, org)?;
    for other in apps::all_of_org(tx, org)? {
        if other.running && Some(other.id) != app {
            total = total.plus(ask_of(tx, &other)?);
        }
    }
    Ok(total)
}

/// What the org's runs ask for that have not ended.
fn ask_of_runs(tx: &Tx, org: OrgId) -> Result<Ask, StoreError> {
    let mut total = Ask::default();
    // Many runs of few releases: each spec is read once.
    let mut specs: BTreeMap<ReleaseId, Option<AppSpec>> = BTreeMap::new();
    for run in runs::under_way(tx, org)? {
        let spec = match specs.entry(run.release) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let kept = releases::get(tx, org, run.release)?;
                place.insert(kept.map(|kept| kept.release.spec))
            }
        };
        let component = spec.as_ref().and_then(|spec| spec.components.get(&run.component));
        if let Some(component) = component {
            total = total.plus(Ask::of_run(component));
        }
    }
    Ok(total)
}

/// What the app asks for, were it running.
pub fn ask_of(tx: &Tx, app: &App) -> Result<Ask, StoreError> {
    let mut ask = Ask::default();
    let mut releases_asked = Vec::new();
    releases_asked.extend(app.live.as_ref().map(|live| live.release));
    if let Some(deployment) = deployments::newest_under_way(tx, app.org, app.id)? {
        match (&deployment.source, deployment.release) {
            (_, Some(release)) => releases_asked.push(release),
            (Source::Folder { spec, .. }, None) => ask = ask.greater(Ask::of(spec, app)),
            (Source::Release { release } | Source::Reconfigure { release }, None) => {
                releases_asked.push(*release);
            }
        }
    }
    for release in releases_asked {
        if let Some(known) = releases::get(tx, app.org, release)? {
            ask = ask.greater(Ask::of(&known.release.spec, app));
        }
    }
    Ok(ask)
}
