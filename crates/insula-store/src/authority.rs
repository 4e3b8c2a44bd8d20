//! The authority that signs the fleet's certificates: made once, by whichever server is first.

use insula_model::Timestamp;

use crate::error::StoreError;
use crate::sql::{Row, params};
use crate::tx::Tx;

/// Its key is sealed with the master key; how is not known here.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// DER.
    pub certificate: Vec<u8>,
    pub sealed_key: Vec<u8>,
    pub created: Timestamp,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("created", &self.created).finish_non_exhaustive()
    }
}

fn read(row: &mut Row<'_>) -> Result<Authority, StoreError> {
    Ok(Authority { certificate: row.blob()?, sealed_key: row.blob()?, created: row.time()? })
}

pub fn get(tx: &Tx) -> Result<Option<Authority>, StoreError> {
    tx.find("SELECT certificate, sealed_key, created FROM authority WHERE id = 1", &[], read)
}

/// Keeps this one if there is none, and answers with the one that is kept: of two servers that
/// begin at the same moment, the second takes the first's.
pub fn put_once(tx: &mut Tx, ours: &Authority) -> Result<Authority, StoreError> {
    tx.execute(
        "INSERT INTO authority (id, certificate, sealed_key, created) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (id) DO NOTHING",
        params![&ours.certificate[..], &ours.sealed_key[..], ours.created],
    )?;
    Ok(get(tx)?.unwrap_or_else(|| ours.clone()))
}

/// Keeps its key under another seal. False if that authority is not the one that counts.
pub fn reseal(tx: &mut Tx, certificate: &[u8], sealed_key: &[u8]) -> Result<bool, StoreError> {
    let resealed = tx.execute(
        "UPDATE authority SET sealed_key = ?2 WHERE id = 1 AND certificate = ?1",
        params![certificate, sealed_key],
    )?;
    Ok(resealed > 0)
}

/// Forgets it: whoever it gave a certificate has to join again. False if there is none.
pub fn forget(tx: &mut Tx) -> Result<bool, StoreError> {
    Ok(tx.execute("DELETE FROM authority WHERE id = 1", &[])? > 0)
}
