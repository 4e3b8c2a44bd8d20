//! People. A password's hash is written and compared, and never part of a `User`.

use std::fmt;

use insula_model::tenancy::User;
use insula_model::{Email, UserId};

use crate::error::{Kind, StoreError, WriteError};
use crate::members;
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::Tx;

const SELECT: &str = "SELECT id, email, operator, created FROM users";

/// What a password-hashing function made, in its own text form.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

fn read(row: &mut Row<'_>) -> Result<User, StoreError> {
    Ok(User { id: row.parse()?, email: row.parse()?, operator: row.flag()?, created: row.time()? })
}

fn key(email: &Email) -> String {
    email.as_str().to_ascii_lowercase()
}

/// Without a hash, nobody can sign in as the user yet.
pub fn create(tx: &mut Tx, user: &User, hash: Option<&PasswordHash>) -> Result<(), WriteError> {
    let taken = tx.any("SELECT 1 FROM users WHERE email_key = ?1", params![key(&user.email)])?;
    if taken {
        return Err(WriteError::EmailTaken { email: user.email.clone() });
    }
    let made = tx.execute(
        "INSERT INTO users (id, email, email_key, operator, created, password)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO NOTHING",
        params![
            user.id,
            &user.email,
            key(&user.email),
            user.operator,
            user.created,
            hash.map(|hash| hash.0.as_str()),
        ],
    )?;
    if made == 0 { Err(WriteError::Exists { kind: Kind::User }) } else { Ok(()) }
}

pub fn get(tx: &Tx, id: UserId) -> Result<Option<User>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id], read)
}

/// Capital letters make no difference.
pub fn by_email(tx: &Tx, email: &Email) -> Result<Option<User>, StoreError> {
    tx.find(&format!("{SELECT} WHERE email_key = ?1"), params![key(email)], read)
}

/// Every user, the oldest first: for the operator.
pub fn list(tx: &Tx, page: &Page) -> Result<Paged<User>, StoreError> {
    let select = Select::new(format!("{SELECT} WHERE 1 = 1"), &[]);
    page::read(tx, "users", select, Order::Oldest, page, read, |user| {
        (String::new(), user.id.to_string())
    })
}

/// For comparing at sign-in.
pub fn password_hash(tx: &Tx, id: UserId) -> Result<Option<PasswordHash>, StoreError> {
    let found = tx
        .find("SELECT password FROM users WHERE id = ?1", params![id], |row| row.optional_text())?;
    Ok(found.flatten().map(PasswordHash))
}

/// Ends the user's sessions too: whoever knew the old password is out.
pub fn set_password(tx: &mut Tx, id: UserId, hash: &PasswordHash) -> Result<(), WriteError> {
    let changed =
        tx.execute("UPDATE users SET password = ?2 WHERE id = ?1", params![id, hash.0.as_str()])?;
    if changed == 0 {
        return Err(WriteError::NotFound { kind: Kind::User });
    }
    tx.execute("DELETE FROM tokens WHERE user_id = ?1", params![id])?;
    Ok(())
}

pub fn set_operator(tx: &mut Tx, id: UserId, operator: bool) -> Result<(), WriteError> {
    if !operator {
        refuse_last_operator(tx, id)?;
    }
    let changed =
        tx.execute("UPDATE users SET operator = ?2 WHERE id = ?1", params![id, operator])?;
    if changed == 0 { Err(WriteError::NotFound { kind: Kind::User }) } else { Ok(()) }
}

/// Ends the user, the memberships and the sessions. Refused for an org's last owner.
pub fn delete(tx: &mut Tx, id: UserId) -> Result<(), WriteError> {
    if get(tx, id)?.is_none() {
        return Err(WriteError::NotFound { kind: Kind::User });
    }
    refuse_last_operator(tx, id)?;
    for member in members::of_user(tx, id)? {
        members::remove(tx, member.org, id)?;
    }
    tx.execute("DELETE FROM tokens WHERE user_id = ?1", params![id])?;
    tx.execute("DELETE FROM users WHERE id = ?1", params![id])?;
    Ok(())
}

/// The operator's own credential is no user: a platform may have no user who is one, but one that
/// has some keeps the last.
fn refuse_last_operator(tx: &Tx, id: UserId) -> Result<(), WriteError> {
    let is_one = tx.any("SELECT 1 FROM users WHERE id = ?1 AND operator = 1", params![id])?;
    let another = tx.any("SELECT 1 FROM users WHERE id <> ?1 AND operator = 1", params![id])?;
    if is_one && !another { Err(WriteError::LastOperator) } else { Ok(()) }
}
