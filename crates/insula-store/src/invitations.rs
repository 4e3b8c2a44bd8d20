//! Invitations of people to orgs: accepted once, until they expire. Only a hash is kept.

use insula_model::tenancy::{Invitation, Member};
use insula_model::{InvitationId, OrgId, Timestamp, UserId};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::{SecretHash, Tx};
use crate::{members, users};

const SELECT: &str = "SELECT id, org, email, role, invited_by, created, expires FROM invitations";

fn read(row: &mut Row<'_>) -> Result<Invitation, StoreError> {
    Ok(Invitation {
        id: row.parse()?,
        org: row.parse()?,
        email: row.parse()?,
        role: row.parse()?,
        invited_by: row.parse()?,
        created: row.time()?,
        expires: row.time()?,
    })
}

pub fn create(tx: &mut Tx, invitation: &Invitation, hash: &SecretHash) -> Result<(), WriteError> {
    let i = invitation;
    if !tx.any("SELECT 1 FROM orgs WHERE id = ?1", params![i.org])? {
        return Err(WriteError::NotFound { kind: Kind::Org });
    }
    let made = tx.execute(
        "INSERT INTO invitations (id, org, email, role, invited_by, created, expires, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        params![i.id, i.org, &i.email, i.role, &i.invited_by, i.created, i.expires, hash],
    )?;
    if made == 0 { Err(WriteError::Exists { kind: Kind::Invitation }) } else { Ok(()) }
}

/// The invitation that the holder of the secret has, unless it is spent.
pub fn find(tx: &Tx, hash: &SecretHash, now: Timestamp) -> Result<Option<Invitation>, StoreError> {
    let sql = format!("{SELECT} WHERE hash = ?1 AND expires > ?2");
    tx.find(&sql, params![hash, now], read)
}

pub fn get(tx: &Tx, org: OrgId, id: InvitationId) -> Result<Option<Invitation>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, id], read)
}

/// The newest first.
pub fn list(tx: &Tx, org: OrgId, page: &Page) -> Result<Paged<Invitation>, StoreError> {
    let select = Select::new(format!("{SELECT} WHERE org = ?1"), params![org]);
    page::read(tx, "invitations", select, Order::Newest, page, read, |invitation| {
        (String::new(), invitation.id.to_string())
    })
}

/// Makes the user a member, once. The user exists by now (see `users::create`), and who holds the
/// secret is who was meant: the user's own e-mail address may be another.
pub fn accept(
    tx: &mut Tx,
    hash: &SecretHash,
    user: UserId,
    now: Timestamp,
) -> Result<Member, WriteError> {
    let user = users::get(tx, user)?.ok_or(WriteError::NotFound { kind: Kind::User })?;
    let spent = tx
        .returning(
            "DELETE FROM invitations WHERE hash = ?1 AND expires > ?2
             RETURNING id, org, email, role, invited_by, created, expires",
            params![hash, now],
            read,
        )?
        .pop()
        .ok_or(WriteError::InvitationSpent)?;
    let member =
        Member { org: spent.org, user: user.id, email: user.email, role: spent.role, since: now };
    members::add(tx, &member)?;
    Ok(member)
}

pub fn revoke(tx: &mut Tx, org: OrgId, id: InvitationId) -> Result<(), WriteError> {
    let gone =
        tx.execute("DELETE FROM invitations WHERE org = ?1 AND id = ?2", params![org, id])?;
    if gone == 0 { Err(WriteError::NotFound { kind: Kind::Invitation }) } else { Ok(()) }
}

/// Forgets what has expired.
pub(crate) fn sweep(tx: &mut Tx, now: Timestamp) -> Result<usize, StoreError> {
    tx.execute("DELETE FROM invitations WHERE expires <= ?1", params![now])
}
