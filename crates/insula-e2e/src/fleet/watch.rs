//! What a fleet is seen to do from outside: processes that live on, instances, events, load.
//!
//! Processes are read from the records in the data folders and from `/proc`, not from the API: they
//! tell the truth also while every server is away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ground::Ground;
use super::process::Role;
use super::{EDGE_PORT, Fleet};
use crate::load::Load;
use crate::machine::{host_of, wait_for};
use crate::process;

/// A process of an instance. One that was started again is another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    pub node: String,
    pub sandbox: String,
    /// Of its init and of what the init started, with when they began.
    pub processes: Vec<(u32, u64)>,
}

/// An instance as the API tells of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    pub id: String,
    /// The node's name.
    pub node: String,
    pub state: String,
    pub intent: String,
    pub restarts: u64,
}

impl Told {
    pub fn serves(&self) -> bool {
        self.state == "ready" && self.intent == "run"
    }
}

/// What lives in the sandboxes of a node.
pub fn lives_on(node: &Role) -> BTreeSet<Life> {
    let entries = std::fs::read_dir(node.data.join("run")).into_iter().flatten().flatten();
    entries.filter_map(|entry| life(node.name(), &entry.path())).collect()
}

fn life(node: &str, folder: &std::path::Path) -> Option<Life> {
    let record = std::fs::read_to_string(folder.join("record.json")).ok()?;
    let record: Value = serde_json::from_str(&record).ok()?;
    let init = u32::try_from(record["init"]["pid"].as_u64()?).ok()?;
    if !process::is_alive(init) {
        return None;
    }
    let family = [vec![init], process::children(init)].concat();
    let begun = |pid: u32| process::started(pid).map(|started| (pid, started));
    Some(Life {
        node: node.to_owned(),
        sandbox: folder.file_name()?.to_str()?.to_owned(),
        processes: family.into_iter().filter_map(begun).collect(),
    })
}

impl Fleet {
    /// What lives on all nodes.
    pub fn lives(&self) -> BTreeSet<Life> {
        self.nodes.iter().flat_map(lives_on).collect()
    }

    /// Refuses if any of these has ended or was started again.
    pub fn ensure_kept(&self, before: &BTreeSet<Life>) -> Result<()> {
        let now = self.lives();
        let gone: Vec<&Life> = before.difference(&now).collect();
        ensure!(gone.is_empty(), "stopped or started again: {gone:?}; now {now:?}");
        Ok(())
    }

    pub fn instances(&self, app: &str) -> Result<Vec<Told>> {
        let names = self.node_names()?;
        let listed = self.json(&["ps", "--app", app])?;
        let items = listed.as_array().context("a list of instances")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let told = |one: &Value| Told {
            id: text(&one["id"]),
            node: names.get(&text(&one["node"])).cloned().unwrap_or_else(|| text(&one["node"])),
            state: text(&one["state"]),
            intent: text(&one["intent"]),
            restarts: one["restarts"].as_u64().unwrap_or(0),
        };
        Ok(items.iter().map(told).collect())
    }

    fn node_names(&self) -> Result<BTreeMap<String, String>> {
        let nodes = self.json(&["nodes", "list"])?;
        let nodes = nodes.as_array().context("a list of nodes")?.iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(nodes.map(|node| (text(&node["id"]), text(&node["name"]))).collect())
    }

    pub fn wait_state(&self, node: &str, wanted: &str, within: Duration) -> Result<Duration> {
        let began = Instant::now();
        let mut last = Vec::new();
        wait_for(&format!("{node} is {wanted}"), within, || {
            last = self.node_states()?;
            Ok(last.iter().any(|(name, state)| name == node && state == wanted))
        })
        .with_context(|| format!("{last:?}"))?;
        Ok(began.elapsed())
    }

    /// Waits until an app has exactly so many instances, all of them serving, on nodes that the
    /// platform hears.
    pub fn wait_settled(&self, app: &str, count: usize, within: Duration) -> Result<()> {
        let mut last = Vec::new();
        wait_for(&format!("{app} has {count} instances and no more"), within, || {
            last = self.instances(app)?;
            Ok(last.len() == count && last.iter().all(Told::serves))
        })
        .with_context(|| format!("{last:?}"))
    }

    /// Types of the events of the whole installation.
    pub fn platform_events(&self) -> Result<Vec<String>> {
        let text = self.ok(&["events", "--platform", "--json"])?;
        let kind = |line: &str| -> Result<String> {
            let event: Value = serde_json::from_str(line)?;
            Ok(event["type"].as_str().unwrap_or_default().to_owned())
        };
        text.lines().map(kind).collect()
    }

    /// A steady stream of visitors at a gateway.
    pub fn load(&self, gateway: usize, url: &str, rate: u32) -> Result<Load> {
        let role = self.gateways.get(gateway).context("there is no such gateway")?;
        let (host, edge) = (host_of(url)?, format!("127.0.0.1:{EDGE_PORT}").parse()?);
        // What a thread starts stays in its network.
        role.place.inside(|| Ok(Load::start(edge, &host, "/", rate)))
    }

    /// Cuts the power of a node: it says nothing more, and nothing of it lives.
    pub fn cut_power(&mut self, node: usize) -> Result<()> {
        let role = self.nodes.get_mut(node).context("there is no such node")?;
        power_off(&self.ground, role)
    }

    /// The same of a machine that is a server, and a node perhaps.
    pub fn cut_power_of_server(&mut self, server: usize) -> Result<()> {
        let role = self.servers.get_mut(server).context("there is no such server")?;
        power_off(&self.ground, role)
    }
}

fn power_off(ground: &Ground, role: &mut Role) -> Result<()> {
    // First the cable: a kernel that goes on would close the connections with a word.
    ground.cut_off(role.name())?;
    role.kill()?;
    let data = role.data.display().to_string();
    for pid in process::with_argument(&data).into_keys() {
        end(pid)?;
    }
    for life in lives_on(role) {
        for (pid, _) in life.processes {
            end(pid)?;
        }
    }
    Ok(())
}

/// `kill -9` of what may have ended meanwhile with somebody else.
fn end(pid: u32) -> Result<()> {
    match process::signal(pid, rustix::process::Signal::KILL) {
        Err(error) if process::is_alive(pid) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
