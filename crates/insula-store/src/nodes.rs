//! Hosts with an agent. They belong to the operator, not to an org.

use insula_model::node::Node;
use insula_model::{NodeId, Timestamp};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params, to_json};
use crate::tx::Tx;

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

/// What an agent says of its node when it opens a session. A node that is known keeps what the
/// operator and the control plane say of it: when it joined, its site, its duty, its mark.
pub fn hello(tx: &mut Tx, node: &Node) -> Result<(), WriteError> {
    let other = "SELECT 1 FROM nodes WHERE name = ?1 AND id <> ?2";
    if tx.any(other, params![&node.name, node.id])? {
        return Err(WriteError::NameTaken { kind: Kind::Node, name: node.name.to_string() });
    }
    tx.execute(
        "INSERT INTO nodes (id, name, offer, site, agent_version, joined, hello, duty, lost,
                            ailments, relay)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (id) DO UPDATE SET
             name = excluded.name, offer = excluded.offer,
             agent_version = excluded.agent_version, hello = excluded.hello,
             relay = excluded.relay",
        params![
            node.id,
            &node.name,
            to_json("a node's offer", &node.offer)?,
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

/// Forgets a node that nothing is placed on.
pub fn remove(tx: &mut Tx, id: NodeId) -> Result<(), WriteError> {
    if tx.any("SELECT 1 FROM instances WHERE node = ?1 LIMIT 1", params![id])? {
        return Err(WriteError::NotEmpty { kind: Kind::Node, has: "instances" });
    }
    if tx.execute("DELETE FROM nodes WHERE id = ?1", params![id])? == 0 {
        return Err(WriteError::NotFound { kind: Kind::Node });
    }
    tx.touch(id);
    Ok(())
}
