//! People in orgs, each with a role. An org keeps an owner once it has one.

use insula_model::tenancy::{Member, Role};
use insula_model::{OrgId, UserId};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::Tx;

/// Named so that the list's keys are those of a page.
const SELECT: &str = "SELECT org, id, email, role, since FROM \
     (SELECT m.org, m.user_id AS id, u.email, m.role, m.since \
      FROM members m JOIN users u ON u.id = m.user_id) AS listed";

fn read(row: &mut Row<'_>) -> Result<Member, StoreError> {
    Ok(Member {
        org: row.parse()?,
        user: row.parse()?,
        email: row.parse()?,
        role: row.parse()?,
        since: row.time()?,
    })
}

/// Adds a member; one who is there already is refused. `member.email` is the user's own.
pub fn add(tx: &mut Tx, member: &Member) -> Result<(), WriteError> {
    if !tx.any("SELECT 1 FROM users WHERE id = ?1", params![member.user])? {
        return Err(WriteError::NotFound { kind: Kind::User });
    }
    if !tx.any("SELECT 1 FROM orgs WHERE id = ?1", params![member.org])? {
        return Err(WriteError::NotFound { kind: Kind::Org });
    }
    let made = tx.execute(
        "INSERT INTO members (org, user_id, role, since) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (org, user_id) DO NOTHING",
        params![member.org, member.user, member.role, member.since],
    )?;
    if made == 0 { Err(WriteError::Exists { kind: Kind::Member }) } else { Ok(()) }
}

pub fn get(tx: &Tx, org: OrgId, user: UserId) -> Result<Option<Member>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, user], read)
}

pub fn list(tx: &Tx, org: OrgId, page: &Page) -> Result<Paged<Member>, StoreError> {
    let select = Select::new(format!("{SELECT} WHERE org = ?1"), params![org]);
    page::read(tx, "members", select, Order::Oldest, page, read, |member| {
        (String::new(), member.user.to_string())
    })
}

/// Every membership of a person, by org.
pub fn of_user(tx: &Tx, user: UserId) -> Result<Vec<Member>, StoreError> {
    tx.query(&format!("{SELECT} WHERE id = ?1 ORDER BY org"), params![user], read)
}

pub fn set_role(tx: &mut Tx, org: OrgId, user: UserId, role: Role) -> Result<(), WriteError> {
    if role != Role::Owner {
        refuse_last_owner(tx, org, user)?;
    }
    let changed = tx.execute(
        "UPDATE members SET role = ?3 WHERE org = ?1 AND user_id = ?2",
        params![org, user, role],
    )?;
    if changed == 0 { Err(WriteError::NotFound { kind: Kind::Member }) } else { Ok(()) }
}

pub fn remove(tx: &mut Tx, org: OrgId, user: UserId) -> Result<(), WriteError> {
    refuse_last_owner(tx, org, user)?;
    let gone =
        tx.execute("DELETE FROM members WHERE org = ?1 AND user_id = ?2", params![org, user])?;
    if gone == 0 { Err(WriteError::NotFound { kind: Kind::Member }) } else { Ok(()) }
}

fn refuse_last_owner(tx: &Tx, org: OrgId, user: UserId) -> Result<(), WriteError> {
    let owns = tx.any(
        "SELECT 1 FROM members WHERE org = ?1 AND user_id = ?2 AND role = ?3",
        params![org, user, Role::Owner],
    )?;
    let another = tx.any(
        "SELECT 1 FROM members WHERE org = ?1 AND user_id <> ?2 AND role = ?3",
        params![org, user, Role::Owner],
    )?;
    if owns && !another { Err(WriteError::LastOwner) } else { Ok(()) }
}
