//! Rights that one server holds at a time, and the fence that keeps former holders from writing.
//!
//! A holder that was too slow does not know that it lost a lease. It therefore calls `check` in
//! each transaction that needs the lease: its epoch is then an old one, and nothing is written.
//! Servers that share a database go by its clock, and `now` counts only where there is one server. A
//! wrong clock makes a lease change hands too early or too late; it never lets two holders write.

use insula_model::fleet::Lease;
use insula_model::{Millis, ServerId, Timestamp};

use crate::error::{StoreError, WriteError};
use crate::sql::{Row, params};
use crate::tx::Tx;

fn read(row: &mut Row<'_>) -> Result<Lease, StoreError> {
    Ok(Lease { holder: row.parse()?, epoch: row.amount()?, until: row.time()? })
}

/// What a lease is at, held or not.
pub fn get(tx: &Tx, name: &str) -> Result<Option<Lease>, StoreError> {
    let sql = "SELECT holder, epoch, until FROM leases WHERE name = ?1";
    tx.find(sql, params![name], read)
}

/// Takes the lease if nobody has it, or if who asks has it: every time under a new epoch.
pub fn acquire(
    tx: &mut Tx,
    name: &str,
    holder: ServerId,
    now: Timestamp,
    ttl: Millis,
) -> Result<Option<Lease>, StoreError> {
    let now = tx.clock(now)?;
    let taken = tx.returning(
        "INSERT INTO leases (name, holder, epoch, until) VALUES (?1, ?2, 1, ?3)
         ON CONFLICT (name) DO UPDATE SET
             holder = excluded.holder, epoch = leases.epoch + 1, until = excluded.until
         WHERE leases.until <= ?4 OR leases.holder = excluded.holder
         RETURNING holder, epoch, until",
        params![name, holder.to_string(), now.plus(ttl), now],
        read,
    )?;
    Ok(taken.into_iter().next())
}

/// Keeps the lease for longer; nothing if somebody else took it. One that ran out unnoticed is
/// still its holder's.
pub fn renew(
    tx: &mut Tx,
    name: &str,
    holder: ServerId,
    epoch: u64,
    now: Timestamp,
    ttl: Millis,
) -> Result<Option<Lease>, StoreError> {
    let now = tx.clock(now)?;
    let kept = tx.returning(
        "UPDATE leases SET until = ?4 WHERE name = ?1 AND holder = ?2 AND epoch = ?3
         RETURNING holder, epoch, until",
        params![name, holder.to_string(), epoch, now.plus(ttl)],
        read,
    )?;
    Ok(kept.into_iter().next())
}

/// Gives the lease back, so that the next holder need not wait. The epoch stays, and with it the
/// fence. False if somebody else has it.
pub fn release(tx: &mut Tx, name: &str, holder: ServerId, epoch: u64) -> Result<bool, StoreError> {
    let freed = tx.execute(
        "UPDATE leases SET until = 0, epoch = epoch + 1
         WHERE name = ?1 AND holder = ?2 AND epoch = ?3",
        params![name, holder.to_string(), epoch],
    )?;
    Ok(freed > 0)
}

/// The fence: an error, and so no write, for one who holds the lease no more.
///
/// The statement changes nothing, but where several servers write at once it holds the row until
/// the transaction ends: nobody can take the lease between this answer and that commit.
pub fn check(tx: &mut Tx, name: &str, holder: ServerId, epoch: u64) -> Result<(), WriteError> {
    let ours = tx.execute(
        "UPDATE leases SET epoch = epoch WHERE name = ?1 AND holder = ?2 AND epoch = ?3",
        params![name, holder.to_string(), epoch],
    )?;
    if ours > 0 {
        return Ok(());
    }
    let by = get(tx, name)?.map(|lease| lease.holder);
    Err(WriteError::Superseded { lease: name.to_owned(), by })
}
