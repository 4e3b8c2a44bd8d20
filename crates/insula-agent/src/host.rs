//! Keeps the host's share in order: its network, and nothing left over from what is gone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use insula_kit::shutdown::Shutdown;
use insula_sandbox::SandboxId;
use insula_sandbox::net::{self, NetConfig};

use crate::error::chain;
use crate::health::Vitals;
use crate::keeper;
use crate::sandbox::{SandboxError, Sandboxes};
use crate::shared::Shared;

/// Somebody who reloads the firewall of the machine cuts our instances off for at most this long.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Two system calls; a keeper that was killed is missed for at most this long.
const KEEPER_LOOK_EVERY: Duration = Duration::from_secs(1);

/// Before anything runs: the network stands, or the agent does not start.
pub fn prepare(net: &NetConfig) -> Result<(), net::NetError> {
    net::ensure_host(net)
}

/// Ends what no record names: sandboxes of builds that a dead agent was watching, and of instances
/// that it was about to write down.
pub async fn sweep_sandboxes(
    sandboxes: &Sandboxes,
    is_named: impl Fn(&SandboxId) -> bool,
) -> Result<(), SandboxError> {
    for record in sandboxes.list().await? {
        if !is_named(&record.id) {
            tracing::info!(sandbox = %record.id, "remove a sandbox that no record names");
            sandboxes.destroy(record).await?;
        }
    }
    let swept = sandboxes.sweep().await?;
    for (id, error) in swept.failed {
        tracing::warn!(sandbox = %id, error = %chain(&error), "remove a sandbox that was half-made");
    }
    Ok(())
}

/// Output waits in pipes while there is no keeper, and they do not hold much.
pub async fn keep_keeper(data: PathBuf, vitals: Vitals, shutdown: Shutdown) {
    loop {
        tokio::select! {
            _ = shutdown.requested() => return,
            () = tokio::time::sleep(KEEPER_LOOK_EVERY) => {}
        }
        let data = data.clone();
        let started = tokio::task::spawn_blocking(move || {
            keeper::spawn_if_absent(&data)?;
            // It looks again at what it could not take up before; one that has only just been
            // started looks anyway, and does not listen yet.
            let _ = keeper::nudge(&data);
            Ok::<(), std::io::Error>(())
        })
        .await;
        vitals.keeper(match started {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                tracing::warn!(%error, "start the keeper again");
                Some(format!("no keeper takes the logs: {error}"))
            }
            Err(_) => Some("a thread that looks after the keeper ended early".into()),
        });
    }
}

/// Looks now and then, and repairs.
pub async fn keep(shared: Arc<Shared>, net: Option<NetConfig>, shutdown: Shutdown) {
    let Some(net) = net else { return };
    let mut told = BTreeSet::new();
    let mut before = Vec::new();
    loop {
        tokio::select! {
            _ = shutdown.requested() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let (config, live) = (net.clone(), shared.places.attachments());
        // What is being attached right now may not be registered yet.
        let same = std::mem::replace(&mut before, live.clone()) == live;
        let looked = tokio::task::spawn_blocking(move || look(&config, &live)).await;
        match looked {
            Ok(Ok((drifts, restored))) => {
                let (mut ours, all) = named(&drifts);
                if restored && same {
                    ours.push("routes or registrations of instances were missing".into());
                }
                for drift in all.difference(&told) {
                    tracing::warn!(drift, "the host's network");
                }
                told = all;
                shared.vitals.rules_changed(ours);
            }
            Ok(Err(error)) => {
                let error = chain(&error);
                tracing::warn!(error, "repair the host's network");
                shared.vitals.rules_changed(vec![format!("it cannot be put right: {error}")]);
            }
            Err(error) => tracing::error!(%error, "look at the host's network"),
        }
    }
}

/// Repairs what is ours; says what was found, and whether instances had lost what they need.
fn look(
    config: &NetConfig,
    live: &[net::Attachment],
) -> Result<(Vec<net::Drift>, bool), net::NetError> {
    let drifts = net::check_host(config)?;
    if drifts.iter().any(net::Drift::is_ours) {
        net::ensure_host(config)?;
    }
    let swept = net::sweep(config, live)?;
    Ok((drifts, swept.restored > 0))
}

/// What was ours, and all of it.
fn named(drifts: &[net::Drift]) -> (Vec<String>, BTreeSet<String>) {
    let ours = drifts.iter().filter(|drift| drift.is_ours()).map(ToString::to_string).collect();
    (ours, drifts.iter().map(ToString::to_string).collect())
}
