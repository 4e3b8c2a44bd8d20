//! What an app is configured with, read when a release is cut and when a Target is sent.

use std::collections::{BTreeMap, BTreeSet};

use insula_link::Secrets;
use std::sync::Arc;

use insula_model::app::App;
use insula_model::target::NodeTarget;
use insula_model::{AppId, VariableName};
use insula_plan::World;
use insula_store::{StoreError, Tx, secrets, variables};
use insula_vault::VaultError;

use tracing::error;

use crate::Cx;

type Values = BTreeMap<VariableName, String>;

/// Plain variables of project, environment and app, the narrower winning.
pub(crate) fn variables(tx: &Tx, app: &App) -> Result<BTreeMap<VariableName, String>, StoreError> {
    let rows = variables::of_app(tx, app)?;
    Ok(rows.into_iter().map(|(name, row)| (name, row.value)).collect())
}

pub(crate) fn names(tx: &Tx, app: &App) -> Result<BTreeSet<VariableName>, StoreError> {
    Ok(secrets::values_of_app(tx, app)?.into_keys().collect())
}

/// The newest values for everything on a node that names some, and, for builds, all that their
/// app has: a build does not get them, but its log must not show them. An app whose values cannot be
/// opened gets those that were sent `last`, and harms nobody else.
pub(crate) async fn of_target(
    cx: &Cx,
    world: &World,
    target: &NodeTarget,
    last: &Secrets,
) -> Result<Secrets, StoreError> {
    let named = target.instances.iter().filter(|i| !i.secrets.is_empty()).map(|i| i.place.app);
    let built = target.builds.iter().map(|b| b.place.app);
    let wanted: BTreeSet<AppId> = named.chain(built).collect();
    if wanted.is_empty() {
        return Ok(Secrets::default());
    }
    let apps: Vec<Arc<App>> = wanted.iter().filter_map(|id| world.apps.get(id)).cloned().collect();
    let keys = cx.keys.clone();
    let opened: Vec<(AppId, Result<Values, VaultError>)> = cx
        .store
        .read(move |tx| {
            let open = |app: &Arc<App>| (app.id, insula_vault::values_of_app(tx, &keys, app));
            Ok::<_, StoreError>(apps.iter().map(open).collect())
        })
        .await?;
    let mut values = BTreeMap::new();
    for (app, result) in opened {
        match result {
            Ok(all) => drop(values.insert(app, all)),
            Err(error) => {
                error!(%app, error = &error as &dyn std::error::Error, "its secrets cannot be opened");
            }
        }
    }
    let mut bundles = Secrets::default();
    for instance in &target.instances {
        let subject = instance.id.to_string();
        match (values.get(&instance.place.app), last.of.get(&subject)) {
            (Some(all), _) => {
                let own = instance.secrets.iter().filter_map(|name| {
                    all.get(name).map(|value| (name.to_string(), value.clone()))
                });
                bundles.for_instance(instance.id, own.collect());
            }
            (None, Some(kept)) => bundles.for_instance(instance.id, kept.clone()),
            (None, None) => {}
        }
    }
    for build in &target.builds {
        let Some(all) = values.get(&build.place.app) else { continue };
        let all = all.iter().map(|(name, value)| (name.to_string(), value.clone()));
        bundles.for_build(build.id, all.collect());
    }
    Ok(bundles)
}
