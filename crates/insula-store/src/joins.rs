//! Permissions to join the fleet: each is used once, until it expires. Only a hash is kept.
//!
//! `redeem` belongs into one transaction with `enrolments::enrol` and the row of the new member:
//! a token is then used up exactly if somebody joined with it.

use insula_model::fleet::{Join, JoinGrant, JoinUse, Member};
use insula_model::{JoinId, Millis, Timestamp};

use crate::enrolments::read_member;
use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params, to_json};
use crate::tx::{SecretHash, Tx};

/// How long a token is still shown that can be used no more: who joined with what last week.
const SHOWN_AFTERWARDS: Millis = Millis::secs(7 * 24 * 3_600);

const SELECT: &str = "SELECT id, grants, created, expires, used_at, used_by FROM joins";

/// Why a token lets nobody in.
#[derive(Debug, thiserror::Error)]
pub enum JoinRefusal {
    #[error("there is no such join token")]
    Unknown,
    #[error("the join token has expired")]
    Expired { at: Timestamp },
    #[error("the join token was used by {by}")]
    Used { by: Member },
    /// A gateway's token makes no node, and a node's no gateway.
    #[error("the join token is not for a {role}")]
    OtherRole { role: &'static str },
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn read(row: &mut Row<'_>) -> Result<Join, StoreError> {
    Ok(Join {
        id: row.parse()?,
        grants: row.json("a join token's grant")?,
        created: row.time()?,
        expires: row.time()?,
        used: match (row.optional_time()?, row.optional_text()?) {
            (Some(at), Some(by)) => {
                let by = read_member(&by).ok_or_else(|| row.refuse("not a member's id"))?;
                Some(JoinUse { at, by })
            }
            _ => None,
        },
    })
}

/// Keeps the permission, unused whatever `join.used` says.
pub fn create(tx: &mut Tx, join: &Join, hash: &SecretHash) -> Result<(), WriteError> {
    let made = tx.execute(
        "INSERT INTO joins (id, grants, created, expires, hash) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
        params![
            join.id.to_string(),
            to_json("a join token's grant", &join.grants)?,
            join.created,
            join.expires,
            hash,
        ],
    )?;
    if made == 0 { Err(WriteError::Exists { kind: Kind::Join }) } else { Ok(()) }
}

/// What the holder of the secret has, spent or not.
pub fn find(tx: &Tx, hash: &SecretHash) -> Result<Option<Join>, StoreError> {
    tx.find(&format!("{SELECT} WHERE hash = ?1"), params![hash], read)
}

pub fn get(tx: &Tx, id: JoinId) -> Result<Option<Join>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id.to_string()], read)
}

/// The newest first.
pub fn list(tx: &Tx, page: &Page) -> Result<Paged<Join>, StoreError> {
    let select = Select::new(format!("{SELECT} WHERE 1 = 1"), &[]);
    page::read(tx, "joins", select, Order::Newest, page, read, |join| {
        (String::new(), join.id.to_string())
    })
}

/// Uses the token up for `member`, once. What it grants is in the answer.
pub fn redeem(
    tx: &mut Tx,
    hash: &SecretHash,
    member: Member,
    now: Timestamp,
) -> Result<Join, JoinRefusal> {
    let mut join = find(tx, hash)?.ok_or(JoinRefusal::Unknown)?;
    if let Some(used) = join.used {
        return Err(JoinRefusal::Used { by: used.by });
    }
    if join.expires <= now {
        return Err(JoinRefusal::Expired { at: join.expires });
    }
    match (&join.grants, member) {
        (JoinGrant::Node { .. }, Member::Node(_)) | (JoinGrant::Gateway, Member::Gateway(_)) => {}
        (JoinGrant::Node { .. } | JoinGrant::Gateway, _) => {
            return Err(JoinRefusal::OtherRole { role: member.role() });
        }
    }
    // The condition decides between two servers that got this far at the same moment.
    let used = tx.execute(
        "UPDATE joins SET used_at = ?2, used_by = ?3 WHERE id = ?1 AND used_at IS NULL",
        params![join.id.to_string(), now, member.to_string()],
    )?;
    if used == 0 {
        let by = find(tx, hash)?.and_then(|join| join.used);
        return Err(by.map_or(JoinRefusal::Unknown, |used| JoinRefusal::Used { by: used.by }));
    }
    join.used = Some(JoinUse { at: now, by: member });
    Ok(join)
}

/// Takes the permission back, if nobody used it yet; otherwise only forgets that somebody did.
pub fn delete(tx: &mut Tx, id: JoinId) -> Result<(), WriteError> {
    if tx.execute("DELETE FROM joins WHERE id = ?1", params![id.to_string()])? == 0 {
        return Err(WriteError::NotFound { kind: Kind::Join });
    }
    Ok(())
}

/// Forgets those that could not be used for a while.
pub(crate) fn sweep(tx: &mut Tx, now: Timestamp) -> Result<usize, StoreError> {
    let spent = Timestamp::from_millis(now.as_millis().saturating_sub_unsigned(SHOWN_AFTERWARDS.0));
    tx.execute("DELETE FROM joins WHERE expires <= ?1", params![spent])
}
