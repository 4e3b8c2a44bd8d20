//! Which blobs an org needs, and how much disk that is.
//!
//! A source is held by its deployment until that ends, an artifact by its release until the
//! artifact is dropped. The store knows digests of manifests and archives; what a manifest names in
//! turn, and the blobs themselves, are the blob store's.

use std::fmt::Display;

use insula_model::build::Artifact;
use insula_model::{Bytes, Digest, OrgId};

use crate::error::StoreError;
use crate::sql::params;
use crate::tx::Tx;

pub(crate) fn hold(
    tx: &mut Tx,
    org: OrgId,
    digest: Digest,
    holder: impl Display,
    size: Bytes,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO blob_holds (org, digest, holder, size) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (org, digest, holder) DO NOTHING",
        params![org, digest, holder.to_string(), size],
    )?;
    Ok(())
}

/// Both layers. An artifact's size is that of both together, and its source's is known from the
/// deployment that brought it.
pub(crate) fn hold_artifact(
    tx: &mut Tx,
    org: OrgId,
    artifact: &Artifact,
    holder: impl Display,
) -> Result<(), StoreError> {
    let Some(built) = artifact.built else {
        return hold(tx, org, artifact.source, holder, artifact.size);
    };
    let source: Option<u64> = tx
        .query(
            "SELECT size FROM blob_holds WHERE org = ?1 AND digest = ?2 ORDER BY size DESC LIMIT 1",
            params![org, artifact.source],
            |row| row.amount(),
        )?
        .pop();
    let source = Bytes(source.unwrap_or(0).min(artifact.size.0));
    hold(tx, org, artifact.source, &holder, source)?;
    hold(tx, org, built, &holder, Bytes(artifact.size.0 - source.0))
}

pub(crate) fn let_go(tx: &mut Tx, holder: impl Display) -> Result<(), StoreError> {
    tx.execute("DELETE FROM blob_holds WHERE holder = ?1", params![holder.to_string()])?;
    Ok(())
}

/// What the org's sources and artifacts take, each digest counted once.
pub fn disk(tx: &Tx, org: OrgId) -> Result<Bytes, StoreError> {
    let sum = tx.find(
        "SELECT COALESCE(SUM(size), 0) FROM (
             SELECT MAX(size) AS size FROM blob_holds WHERE org = ?1 GROUP BY digest) AS each_once",
        params![org],
        |row| row.bytes(),
    )?;
    Ok(sum.unwrap_or_default())
}

/// Whether anything of the org still needs the blob.
pub fn is_referenced(tx: &Tx, org: OrgId, digest: &Digest) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM blob_holds WHERE org = ?1 AND digest = ?2 LIMIT 1";
    tx.any(sql, params![org, digest])
}

/// What the org needs, in the order of digests, after `after`: for garbage collection, which keeps
/// all of these and what they name.
pub fn referenced(
    tx: &Tx,
    org: OrgId,
    after: Option<&Digest>,
    limit: usize,
) -> Result<Vec<Digest>, StoreError> {
    tx.query(
        "SELECT DISTINCT digest FROM blob_holds WHERE org = ?1 AND digest > ?2
         ORDER BY digest LIMIT ?3",
        params![org, after.map(Digest::to_string).unwrap_or_default(), limit],
        |row| row.parse(),
    )
}
