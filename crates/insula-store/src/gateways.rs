//! Gateways that joined from elsewhere. The one beside a server has no row.

use insula_model::fleet::{Gateway, Member};
use insula_model::{GatewayId, Timestamp};

use crate::enrolments;
use crate::error::{Kind, StoreError, WriteError};
use crate::sql::{Row, params};
use crate::tx::Tx;

const SELECT: &str = "SELECT id, version, joined, hello FROM gateways";

fn read(row: &mut Row<'_>) -> Result<Gateway, StoreError> {
    Ok(Gateway { id: row.parse()?, version: row.text()?, joined: row.time()?, hello: row.time()? })
}

/// What a gateway says when it opens a session. One that is known keeps when it joined; one that
/// was removed is refused.
pub fn hello(tx: &mut Tx, gateway: &Gateway) -> Result<(), WriteError> {
    let member = Member::Gateway(gateway.id);
    if enrolments::revoked(tx, member)?.is_some() {
        return Err(WriteError::Revoked { member });
    }
    tx.execute(
        "INSERT INTO gateways (id, version, joined, hello) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET version = excluded.version, hello = excluded.hello",
        params![gateway.id.to_string(), gateway.version.as_str(), gateway.joined, gateway.hello],
    )?;
    tx.touch(gateway.id);
    Ok(())
}

pub fn get(tx: &Tx, id: GatewayId) -> Result<Option<Gateway>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id.to_string()], read)
}

/// By id: by the time they joined.
pub fn list(tx: &Tx) -> Result<Vec<Gateway>, StoreError> {
    tx.query(&format!("{SELECT} ORDER BY id"), &[], read)
}

/// Forgets a gateway and revokes its identity for ever.
pub fn remove(tx: &mut Tx, id: GatewayId, now: Timestamp) -> Result<(), WriteError> {
    if tx.execute("DELETE FROM gateways WHERE id = ?1", params![id.to_string()])? == 0 {
        return Err(WriteError::NotFound { kind: Kind::Gateway });
    }
    enrolments::revoke(tx, Member::Gateway(id), now)?;
    tx.touch(id);
    Ok(())
}
