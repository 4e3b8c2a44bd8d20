//! Hosts with an agent. They belong to the operator, not to an org.

use insula_model::NodeId;
use insula_model::node::{Capacity, Node, NodeMode};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params, to_json};
use crate::tx::Tx;

const SELECT: &str = "SELECT id, name, cpu, memory, instances, mode, runtimes, agent_version, \
                      joined, hello FROM nodes";

fn read(row: &mut Row<'_>) -> Result<Node, StoreError> {
    Ok(Node {
        id: row.parse()?,
        name: row.parse()?,
        capacity: Capacity { cpu: row.cpu()?, memory: row.bytes()?, instances: row.amount()? },
        mode: match row.text()?.as_str() {
            "full" => NodeMode::Full,
            "development" => NodeMode::Development,
            other => return Err(row.refuse(format_args!("a node's mode `{other}`"))),
        },
        runtimes: row.json("a node's runtimes")?,
        agent_version: row.text()?,
        joined: row.time()?,
        hello: row.time()?,
    })
}

fn mode(mode: NodeMode) -> &'static str {
    match mode {
        NodeMode::Full => "full",
        NodeMode::Development => "development",
    }
}

/// What an agent says of its node when it opens a session. A node that is known keeps `joined`.
pub fn hello(tx: &mut Tx, node: &Node) -> Result<(), WriteError> {
    let other = "SELECT 1 FROM nodes WHERE name = ?1 AND id <> ?2";
    if tx.any(other, params![&node.name, node.id])? {
        return Err(WriteError::NameTaken { kind: Kind::Node, name: node.name.to_string() });
    }
    tx.execute(
        "INSERT INTO nodes (id, name, cpu, memory, instances, mode, runtimes, agent_version,
                            joined, hello)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT (id) DO UPDATE SET
             name = excluded.name, cpu = excluded.cpu, memory = excluded.memory,
             instances = excluded.instances, mode = excluded.mode, runtimes = excluded.runtimes,
             agent_version = excluded.agent_version, hello = excluded.hello",
        params![
            node.id,
            &node.name,
            node.capacity.cpu,
            node.capacity.memory,
            node.capacity.instances,
            mode(node.mode),
            to_json("a node's runtimes", &node.runtimes)?,
            node.agent_version.as_str(),
            node.joined,
            node.hello,
        ],
    )?;
    tx.touch(node.id);
    Ok(())
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
