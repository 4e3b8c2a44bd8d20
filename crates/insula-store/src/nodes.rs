//! Hosts with an agent. They belong to the operator, not to an org.

use insula_model::fleet::Member;
use insula_model::node::{Ailment, Architecture, Capacity, Duty, Node, NodeMode, Offer, Site};
use insula_model::spec::Isolation;
use insula_model::{Bytes, NodeId, NodeName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params, to_json};
use crate::tx::Tx;
use crate::{enrolments, instances, whereabouts};

const SELECT: &str = "SELECT id, name, offer, site, agent_version, joined, hello, duty, lost, \
                      ailments, relay FROM nodes";

fn read(row: &mut Row<'_>) -> Result<Node, StoreError> {
    Ok(Node {
        id: row.parse()?,
        name: row.parse()?,
        offer: row.json("a node's offer")?,
        site: row.json("a node's site")?,
        agent_version: row.text()?,
        joined: row.time()?,
        hello: row.time()?,
        duty: row.json("a node's duty")?,
        lost: row.optional_time()?,
        ailments: row.json("a node's ailments")?,
        relay: row.optional_parse()?,
    })
}

/// What is kept of an offer. A server of the version before reads the offer of it alone.
#[derive(Debug, Serialize)]
struct KeptOffer<'a> {
    #[serde(flatten)]
    offer: &'a Offer,
    #[serde(flatten)]
    told: Told,
}

/// Whether an offer is the node's own word.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    /// Its agent has not greeted yet: the offer stands for one that is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    awaited: bool,
}

/// A node that was let in and says nothing of its host yet: that comes with its first hello.
#[derive(Debug, Clone)]
pub struct Newcomer {
    pub id: NodeId,
    /// What it is to be called; it gets another if a node has that.
    pub name: NodeName,
    pub site: Site,
    pub agent_version: String,
}

/// The row of a newcomer. One that is known keeps all but its site.
pub fn welcome(tx: &mut Tx, newcomer: Newcomer, now: Timestamp) -> Result<(), WriteError> {
    let Newcomer { id, name, site, agent_version } = newcomer;
    if get(tx, id)?.is_some() {
        return set_site(tx, id, &site);
    }
    // Room for nothing: no instance comes to a node before it has said what it has.
    let offer = Offer {
        capacity: Capacity { pids: 0, disk: Bytes(0), ..Capacity::default() },
        mode: NodeMode::Full,
        runtimes: Vec::new(),
        architecture: Architecture::Unknown,
        isolation: [Isolation::Standard].into(),
    };
    let node = Node {
        id,
        name,
        offer,
        site,
        agent_version,
        joined: now,
        hello: now,
        duty: Duty::Serve,
        lost: None,
        ailments: Vec::new(),
        relay: None,
    };
    put(tx, &node, Told { awaited: true })
}

/// Whether the agent of a node ever opened a session, whatever it said then.
pub fn has_greeted(tx: &Tx, id: NodeId) -> Result<bool, StoreError> {
    let told = tx.find("SELECT offer FROM nodes WHERE id = ?1", params![id], |row| {
        row.json::<Told>("a node's offer")
    })?;
    Ok(told.is_some_and(|told| !told.awaited))
}

/// What an agent says of its node when it opens a session. A node that is known keeps what the
/// operator and the control plane say of it: its name, when it joined, its site, its duty, its
/// mark. One that was removed is refused.
///
/// A new node whose name another one has gets a name that tells of its id.
pub fn hello(tx: &mut Tx, node: &Node) -> Result<(), WriteError> {
    put(tx, node, Told { awaited: false })
}

fn put(tx: &mut Tx, node: &Node, told: Told) -> Result<(), WriteError> {
    let member = Member::Node(node.id);
    if enrolments::revoked(tx, member)?.is_some() {
        return Err(WriteError::Revoked { member });
    }
    let name = free_name(tx, node)?;
    tx.execute(
        "INSERT INTO nodes (id, name, offer, site, agent_version, joined, hello, duty, lost,
                            ailments, relay)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (id) DO UPDATE SET
             offer = excluded.offer, agent_version = excluded.agent_version,
             hello = excluded.hello, relay = excluded.relay",
        params![
            node.id,
            name,
            to_json("a node's offer", &KeptOffer { offer: &node.offer, told })?,
            to_json("a node's site", &node.site)?,
            node.agent_version.as_str(),
            node.joined,
            node.hello,
            to_json("a node's duty", &node.duty)?,
            node.lost,
            to_json("a node's ailments", &node.ailments)?,
            node.relay.map(|relay| relay.to_string()),
        ],
    )?;
    tx.touch(node.id);
    Ok(())
}

/// The name it asks for; else one with a part of its id; else, as somebody may have taken even
/// that on purpose, one with a number.
fn free_name(tx: &Tx, node: &Node) -> Result<String, StoreError> {
    let own = format!("node-{}", node.id.short());
    let numbered = (2_u32..).map(|n| format!("{own}-{n}"));
    let mut names = [node.name.to_string(), own.clone()].into_iter().chain(numbered);
    loop {
        // The numbers do not end before the nodes do.
        let name = names.next().unwrap_or_default();
        let other = "SELECT 1 FROM nodes WHERE name = ?1 AND id <> ?2";
        if !tx.any(other, params![name.as_str(), node.id])? {
            return Ok(name);
        }
    }
}

/// Marks a node as lost or found. False if its mark is not `was` any more.
pub fn mark(
    tx: &mut Tx,
    id: NodeId,
    was: Option<Timestamp>,
    lost: Option<Timestamp>,
) -> Result<bool, WriteError> {
    let node = get(tx, id)?.ok_or(WriteError::NotFound { kind: Kind::Node })?;
    if node.lost != was || was == lost {
        return Ok(false);
    }
    tx.execute("UPDATE nodes SET lost = ?2 WHERE id = ?1", params![id, lost])?;
    tx.touch(id);
    Ok(true)
}

pub fn get(tx: &Tx, id: NodeId) -> Result<Option<Node>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id], read)
}

pub fn list(tx: &Tx, page: &Page) -> Result<Paged<Node>, StoreError> {
    let select = Select::new(format!("{SELECT} WHERE 1 = 1"), &[]);
    page::read(tx, "nodes", select, Order::Name, page, read, |node| {
        (node.name.to_string(), node.id.to_string())
    })
}

pub(crate) fn all(tx: &Tx) -> Result<Vec<Node>, StoreError> {
    tx.query(&format!("{SELECT} ORDER BY id"), &[], read)
}

/// What the operator wants of it from now on.
pub fn set_duty(tx: &mut Tx, id: NodeId, duty: Duty) -> Result<(), WriteError> {
    update(tx, id, "UPDATE nodes SET duty = ?2 WHERE id = ?1", to_json("a node's duty", &duty)?)
}

/// Where it belongs from now on. What runs there stays.
pub fn set_site(tx: &mut Tx, id: NodeId, site: &Site) -> Result<(), WriteError> {
    update(tx, id, "UPDATE nodes SET site = ?2 WHERE id = ?1", to_json("a node's site", site)?)
}

/// Notes what a node says is wrong with it. What was known before; nothing if that is the same.
pub fn set_ailments(
    tx: &mut Tx,
    id: NodeId,
    ailments: &[Ailment],
) -> Result<Option<Vec<Ailment>>, WriteError> {
    let node = get(tx, id)?.ok_or(WriteError::NotFound { kind: Kind::Node })?;
    if node.ailments == ailments {
        return Ok(None);
    }
    let said = to_json("a node's ailments", &ailments)?;
    update(tx, id, "UPDATE nodes SET ailments = ?2 WHERE id = ?1", said)?;
    Ok(Some(node.ailments))
}

fn update(tx: &mut Tx, id: NodeId, sql: &str, value: String) -> Result<(), WriteError> {
    if tx.execute(sql, params![id, value])? == 0 {
        return Err(WriteError::NotFound { kind: Kind::Node });
    }
    tx.touch(id);
    Ok(())
}

/// Forgets a node that nothing is placed on, and revokes its identity for ever.
pub fn remove(tx: &mut Tx, id: NodeId, now: Timestamp) -> Result<(), WriteError> {
    if instances::any_on_node(tx, id)? {
        return Err(WriteError::NotEmpty { kind: Kind::Node, has: "instances" });
    }
    forget(tx, id, now)
}

/// The same for a node that is gone for ever, with whatever was placed on it: how many instances
/// that was.
pub fn remove_with_instances(tx: &mut Tx, id: NodeId, now: Timestamp) -> Result<usize, WriteError> {
    forget(tx, id, now)?;
    Ok(instances::delete_of_node(tx, id)?)
}

fn forget(tx: &mut Tx, id: NodeId, now: Timestamp) -> Result<(), WriteError> {
    if tx.execute("DELETE FROM nodes WHERE id = ?1", params![id])? == 0 {
        return Err(WriteError::NotFound { kind: Kind::Node });
    }
    enrolments::revoke(tx, Member::Node(id), now)?;
    whereabouts::delete_of_node(tx, id)?;
    tx.touch(id);
    Ok(())
}
