//! Each org's own keys, wrapped under the master key by the caller. Rotation adds a newer one.

use std::fmt;

use insula_model::{OrgId, Timestamp};

use crate::error::{Kind, StoreError, WriteError};
use crate::sql::{Row, Value, params};
use crate::tx::Tx;

const SELECT: &str = "SELECT org, id, wrapped, created FROM data_keys";

/// Counts the keys that an org has had, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u32);

impl From<KeyId> for Value {
    fn from(id: KeyId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct DataKey {
    pub org: OrgId,
    pub id: KeyId,
    pub wrapped: Vec<u8>,
    pub created: Timestamp,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({}, {})", self.org, self.id)
    }
}

fn read(row: &mut Row<'_>) -> Result<DataKey, StoreError> {
    Ok(DataKey {
        org: row.parse()?,
        id: KeyId(row.amount()?),
        wrapped: row.blob()?,
        created: row.time()?,
    })
}

/// Adds a key; from now on it is the current one if its number is the highest.
pub fn insert(tx: &mut Tx, key: &DataKey) -> Result<(), WriteError> {
    if !tx.any("SELECT 1 FROM orgs WHERE id = ?1", params![key.org])? {
        return Err(WriteError::NotFound { kind: Kind::Org });
    }
    let made = tx.execute(
        "INSERT INTO data_keys (org, id, wrapped, created) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (org, id) DO NOTHING",
        params![key.org, key.id, &key.wrapped[..], key.created],
    )?;
    if made == 0 { Err(WriteError::Exists { kind: Kind::DataKey }) } else { Ok(()) }
}

/// What new values are sealed with.
pub fn current(tx: &Tx, org: OrgId) -> Result<Option<DataKey>, StoreError> {
    let sql = format!("{SELECT} WHERE org = ?1 ORDER BY id DESC LIMIT 1");
    tx.find(&sql, params![org], read)
}

pub fn get(tx: &Tx, org: OrgId, id: KeyId) -> Result<Option<DataKey>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, id], read)
}

/// The oldest first.
pub fn list(tx: &Tx, org: OrgId) -> Result<Vec<DataKey>, StoreError> {
    tx.query(&format!("{SELECT} WHERE org = ?1 ORDER BY id"), params![org], read)
}

/// Every org's, for a rotation of the master key.
pub fn list_any_org(tx: &Tx) -> Result<Vec<DataKey>, StoreError> {
    tx.query(&format!("{SELECT} ORDER BY org, id"), &[], read)
}

/// The same key under another master key.
pub fn rewrap(tx: &mut Tx, org: OrgId, id: KeyId, wrapped: &[u8]) -> Result<(), WriteError> {
    let changed = tx.execute(
        "UPDATE data_keys SET wrapped = ?3 WHERE org = ?1 AND id = ?2",
        params![org, id, wrapped],
    )?;
    if changed == 0 { Err(WriteError::NotFound { kind: Kind::DataKey }) } else { Ok(()) }
}

/// Forgets a key that seals nothing any more.
pub fn delete(tx: &mut Tx, org: OrgId, id: KeyId) -> Result<(), WriteError> {
    let used = "SELECT 1 FROM secrets WHERE org = ?1 AND key_id = ?2 LIMIT 1";
    if tx.any(used, params![org, id])? {
        return Err(WriteError::NotEmpty { kind: Kind::DataKey, has: "secrets" });
    }
    let gone = tx.execute("DELETE FROM data_keys WHERE org = ?1 AND id = ?2", params![org, id])?;
    if gone == 0 { Err(WriteError::NotFound { kind: Kind::DataKey }) } else { Ok(()) }
}
