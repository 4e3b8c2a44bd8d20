//! Which nodes have, or had, anything of an app: whose logs are asked for, and nobody else's word
//! is taken for them.
//!
//! What is there now is in the rows of instances. When such a row goes, its node is noted here, and
//! so is each node on which something is built; that stays until the app or the node goes, since
//! nobody but the node knows how much of a log it still has. A node stands in it once for an app,
//! however often that was there.

use std::collections::BTreeSet;

use insula_model::{AppId, NodeId, OrgId};

use crate::cohorts::CohortId;
use crate::error::StoreError;
use crate::instances;
use crate::sql::params;
use crate::tx::Tx;

/// Every node that can have lines of an app of this org: none for a stranger's.
pub fn of_app(tx: &Tx, org: OrgId, app: AppId) -> Result<BTreeSet<NodeId>, StoreError> {
    let mut nodes = instances::nodes_of_app(tx, org, app)?;
    let before: Vec<NodeId> = tx.query(
        "SELECT w.node FROM whereabouts w JOIN apps a ON a.id = w.app
         WHERE w.app = ?1 AND a.org = ?2",
        params![app, org],
        |row| row.parse(),
    )?;
    nodes.extend(before);
    Ok(nodes)
}

/// Something of the app is on the node from now on.
pub(crate) fn note(tx: &mut Tx, app: AppId, node: NodeId) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO whereabouts (app, node) VALUES (?1, ?2) ON CONFLICT (app, node) DO NOTHING",
        params![app, node],
    )?;
    Ok(())
}

/// The same of an app that is known by what its instances share.
pub(crate) fn note_cohort(tx: &mut Tx, cohort: CohortId, node: NodeId) -> Result<(), StoreError> {
    tx.execute(
        // The last instances of an app may go after it: nobody can ask for its logs then.
        "INSERT INTO whereabouts (app, node)
         SELECT c.app, ?2 FROM cohorts c JOIN apps a ON a.id = c.app WHERE c.id = ?1
         ON CONFLICT (app, node) DO NOTHING",
        params![cohort, node],
    )?;
    Ok(())
}

pub(crate) fn delete_of_app(tx: &mut Tx, app: AppId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM whereabouts WHERE app = ?1", params![app])?;
    Ok(())
}

pub(crate) fn delete_of_node(tx: &mut Tx, node: NodeId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM whereabouts WHERE node = ?1", params![node])?;
    Ok(())
}
