//! The node on this machine, as `up` asks after it before it says that all is well.
//!
//! Asked of the API and not of the agent: what counts is whether the server takes it for a node that
//! is ready, for nothing starts here before that. Changes nothing.

use std::path::Path;
use std::time::Duration;

use insula_cli::Local;
use insula_model::NodeId;
use insula_wire::rest::node::Node;
use tokio::time::Instant;

use crate::data::Data;

/// How long the agent may take to connect. It takes a fraction of a second; more is a machine that
/// is busy, and then something is wrong.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);
/// How long one that is connected may be something else than ready: its first look at its own health
/// may find what is gone a moment later.
pub const AILING_TIME_MAX: Duration = Duration::from_secs(3);
/// Between looks: short, so that nobody waits for the look itself, and no more of them than the API
/// answers one credential.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(25);
/// For one look: the API holds a question for a few seconds while no server decides.
const LOOK_TIME_MAX: Duration = Duration::from_secs(10);
/// Between looks at a node that `up` has said is not ready.
const LATER_LOOK: Duration = Duration::from_secs(1);

/// What the node is to somebody who wants to deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Ready,
    /// As the operator wanted it: nothing new starts here.
    Kept(String),
    /// Connected, and with something that it lacks.
    Ailing(String),
    /// Not connected, and why, as far as that is known here.
    Away(String),
}

impl Standing {
    /// Of what the server said; nothing if it knows no such node.
    pub fn of(node: Option<&Node>) -> Self {
        let Some(node) = node else {
            return Self::Away("its agent has not joined".to_owned());
        };
        let notes = if node.notes.is_empty() {
            String::new()
        } else {
            format!(" ({})", node.notes.join("; "))
        };
        match node.state.as_str() {
            // What the operator decided holds whether or not it is heard; whether it is heard is
            // the question here.
            _ if !node.connected => Self::Away(format!("its agent is not connected{notes}")),
            "ready" => Self::Ready,
            kept @ ("cordoned" | "draining" | "drained") => Self::Kept(format!(
                "it is {kept}, so nothing new starts on it; `insula nodes uncordon {}` changes that",
                node.name
            )),
            other => Self::Ailing(format!("it is {other}{notes}")),
        }
    }
}

/// Waits until the node is what it is going to be, within the limits above.
pub async fn settled(data: &Data) -> Standing {
    let began = Instant::now();
    let mut ailing_since = None;
    let mut pause = LOOK_FIRST;
    loop {
        let now = look(data).await;
        match &now {
            Standing::Ready | Standing::Kept(_) => return now,
            Standing::Ailing(_) => {
                let since = *ailing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= AILING_TIME_MAX {
                    return now;
                }
            }
            Standing::Away(_) => {
                ailing_since = None;
                if began.elapsed() >= CONNECT_TIME_MAX {
                    return now;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}

/// Waits until one that was not ready is.
pub async fn better(data: &Data) {
    while look(data).await != Standing::Ready {
        tokio::time::sleep(LATER_LOOK).await;
    }
}

async fn look(data: &Data) -> Standing {
    let Some(id) = known(&data.node_id()) else { return Standing::of(None) };
    let asked = async { Local::at(data.root())?.node(id).await };
    match tokio::time::timeout(LOOK_TIME_MAX, asked).await {
        Ok(Ok(node)) => Standing::of(node.as_ref()),
        Err(_) => Standing::Away("the API does not answer when asked how it is".to_owned()),
        Ok(Err(error)) => {
            let error = anyhow::Error::from(error);
            Standing::Away(format!("the API does not say how it is: {error:#}"))
        }
    }
}

/// The id that the agent keeps for everybody to read, once it has one.
fn known(path: &Path) -> Option<NodeId> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(state: &str, connected: bool, notes: &[&str]) -> Node {
        let id = NodeId::from_parts(insula_model::Timestamp::from_millis(1), [1; 10]);
        let text = serde_json::json!({
            "id": id, "name": "local", "state": state, "notes": notes, "connected": connected,
            "labels": {}, "architecture": "x86_64", "isolation": ["standard"], "mode": "full",
            "capacity": { "cpu_millis": 1, "memory_bytes": 1, "instances": 1 },
            "reserved": { "cpu_millis": 0, "memory_bytes": 0, "instances": 0 },
            "runtimes": [], "agent_version": "0.1.0",
            "joined": "2026-11-21T00:00:00Z", "hello": "2026-11-21T00:00:00Z",
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_node_that_is_connected_and_ready_is_all_that_is_wanted() {
        assert_eq!(Standing::of(Some(&node("ready", true, &[]))), Standing::Ready);
    }

    #[test]
    fn what_keeps_a_node_from_taking_anything_is_said() {
        let said = |node: Option<&Node>| match Standing::of(node) {
            Standing::Ready => "ready".to_owned(),
            Standing::Kept(why) => format!("kept: {why}"),
            Standing::Ailing(why) => format!("ailing: {why}"),
            Standing::Away(why) => format!("away: {why}"),
        };
        for (of, says) in [
            (None, "away: its agent has not joined"),
            (Some(node("ready", false, &[])), "away: its agent is not connected"),
            (
                Some(node("lost", false, &["lost since 1"])),
                "away: its agent is not connected (lost since 1)",
            ),
            (Some(node("cordoned", false, &[])), "away: its agent is not connected"),
            (
                Some(node("degraded", true, &["its disk is full", "its clock is off"])),
                "ailing: it is degraded (its disk is full; its clock is off)",
            ),
            // Of a later version: shown as it is.
            (Some(node("resting", true, &[])), "ailing: it is resting"),
            (
                Some(node("drained", true, &[])),
                "kept: it is drained, so nothing new starts on it; `insula nodes uncordon local` changes that",
            ),
        ] {
            assert_eq!(said(of.as_ref()), says);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_never_comes_is_waited_for_so_long_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let data = Data::choose(Some(folder.path().to_owned())).unwrap();
        let began = Instant::now();
        assert_eq!(settled(&data).await, Standing::Away("its agent has not joined".into()));
        let took = began.elapsed();
        assert!((CONNECT_TIME_MAX..CONNECT_TIME_MAX + LOOK_MAX * 2).contains(&took), "{took:?}");
    }
}
