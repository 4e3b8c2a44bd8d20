//! Host names: used by one app at a time, and kept for the org that had them first.

use insula_model::{AppId, HostName, OrgId};

use crate::error::{StoreError, WriteError};
use crate::sql::params;
use crate::tx::Tx;

/// Takes the host for the app: one that nobody ever used, or one of the org's own that is free.
pub(crate) fn claim(
    tx: &mut Tx,
    org: OrgId,
    app: AppId,
    host: &HostName,
) -> Result<(), WriteError> {
    tx.execute(
        "INSERT INTO hosts (host, org) VALUES (?1, ?2) ON CONFLICT (host) DO NOTHING",
        params![host, org],
    )?;
    let taken = tx.execute(
        "UPDATE hosts SET app = ?3 WHERE host = ?1 AND org = ?2 AND app IS NULL",
        params![host, org, app],
    )?;
    if taken == 0 { Err(WriteError::HostTaken { host: host.clone() }) } else { Ok(()) }
}

/// Frees the host, for its org alone.
pub(crate) fn release(tx: &mut Tx, host: &HostName) -> Result<(), StoreError> {
    tx.execute("UPDATE hosts SET app = NULL WHERE host = ?1", params![host])?;
    Ok(())
}

/// Frees every host of the app, its default one too.
pub(crate) fn release_all(tx: &mut Tx, app: AppId) -> Result<(), StoreError> {
    tx.execute("UPDATE hosts SET app = NULL WHERE app = ?1", params![app])?;
    Ok(())
}
