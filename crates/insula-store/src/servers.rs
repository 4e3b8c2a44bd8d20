//! The servers that share this store. Each says now and then that it is there, and when that was is
//! told by the clock that they share (see `Tx::clock`).

use insula_model::fleet::Server;
use insula_model::{Millis, ServerId, Timestamp};

use crate::error::StoreError;
use crate::sql::{Row, params};
use crate::tx::Tx;

const SELECT: &str = "SELECT id, fleet, version, seen FROM servers";

fn read(row: &mut Row<'_>) -> Result<Server, StoreError> {
    Ok(Server {
        id: row.parse()?,
        fleet: row.optional_parse()?,
        version: row.text()?,
        seen: row.time()?,
    })
}

pub fn say_here(tx: &mut Tx, server: &Server) -> Result<(), StoreError> {
    let seen = tx.clock(server.seen)?;
    tx.execute(
        "INSERT INTO servers (id, fleet, version, seen) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET
             fleet = excluded.fleet, version = excluded.version, seen = excluded.seen",
        params![
            server.id.to_string(),
            server.fleet.map(|fleet| fleet.to_string()),
            server.version.as_str(),
            seen,
        ],
    )?;
    Ok(())
}

pub fn get(tx: &Tx, id: ServerId) -> Result<Option<Server>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id.to_string()], read)
}

/// By id: by the time they began.
pub fn list(tx: &Tx) -> Result<Vec<Server>, StoreError> {
    tx.query(&format!("{SELECT} ORDER BY id"), &[], read)
}

/// Those that have said within `span` that they are there.
pub fn fresh(tx: &Tx, now: Timestamp, span: Millis) -> Result<Vec<Server>, StoreError> {
    let now = tx.clock(now)?;
    let mut all = list(tx)?;
    all.retain(|server| now.since(server.seen) <= span);
    Ok(all)
}

/// One that ends in good order.
pub fn forget(tx: &mut Tx, id: ServerId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM servers WHERE id = ?1", params![id.to_string()])?;
    Ok(())
}

/// Those that have not said since `before` that they are there; how many these were.
pub fn forget_old(tx: &mut Tx, before: Timestamp) -> Result<usize, StoreError> {
    tx.execute("DELETE FROM servers WHERE seen < ?1", params![before])
}
