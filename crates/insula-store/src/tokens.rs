//! Credentials: sessions of people, tokens of machines, the operator's own. Only hashes are kept.

use insula_model::tenancy::{Role, Token, TokenScope};
use insula_model::{Millis, OrgId, Timestamp, TokenId, UserId};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::{SecretHash, Tx};

/// "Last used" is for people who look for forgotten tokens: minutes are exact enough, and a write
/// for each request is not cheap.
const TOUCH_AFTER: Millis = Millis::secs(5 * 60);

const SELECT: &str = "SELECT id, name, kind, org, user_id, role, created, expires, last_used \
                      FROM tokens";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownToken {
    pub token: Token,
    pub last_used: Option<Timestamp>,
}

impl KnownToken {
    /// Whether `touch` is worth a write.
    pub fn touch_is_due(&self, now: Timestamp) -> bool {
        self.last_used.is_none_or(|used| now.since(used) >= TOUCH_AFTER)
    }
}

fn read(row: &mut Row<'_>) -> Result<KnownToken, StoreError> {
    let (id, name) = (row.parse()?, row.parse()?);
    let kind = row.text()?;
    let (org, user) = (row.optional_parse::<OrgId>()?, row.optional_parse::<UserId>()?);
    let role = row.optional_parse::<Role>()?;
    let scope = match (kind.as_str(), org, user, role) {
        ("session", None, Some(user), None) => TokenScope::Session { user },
        ("org", Some(org), None, Some(role)) => TokenScope::Org { org, role },
        ("operator", None, None, None) => TokenScope::Operator,
        // A row that we cannot make sense of must not become a credential for something.
        _ => return Err(row.refuse(format_args!("a token's scope `{kind}`"))),
    };
    Ok(KnownToken {
        token: Token { id, name, scope, created: row.time()?, expires: row.optional_time()? },
        last_used: row.optional_time()?,
    })
}

pub fn insert(tx: &mut Tx, token: &Token, hash: &SecretHash) -> Result<(), WriteError> {
    let (kind, org, user, role) = match &token.scope {
        TokenScope::Session { user } => ("session", None, Some(*user), None),
        TokenScope::Org { org, role } => ("org", Some(*org), None, Some(*role)),
        TokenScope::Operator => ("operator", None, None, None),
    };
    if let Some(org) = org
        && !tx.any("SELECT 1 FROM orgs WHERE id = ?1", params![org])?
    {
        return Err(WriteError::NotFound { kind: Kind::Org });
    }
    if let Some(user) = user
        && !tx.any("SELECT 1 FROM users WHERE id = ?1", params![user])?
    {
        return Err(WriteError::NotFound { kind: Kind::User });
    }
    let made = tx.execute(
        "INSERT INTO tokens (id, name, kind, org, user_id, role, created, expires, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
        params![token.id, &token.name, kind, org, user, role, token.created, token.expires, hash],
    )?;
    if made == 0 { Err(WriteError::Exists { kind: Kind::Token }) } else { Ok(()) }
}

/// The token, unless it has expired or was revoked.
pub fn find(tx: &Tx, hash: &SecretHash, now: Timestamp) -> Result<Option<KnownToken>, StoreError> {
    tx.find(
        &format!("{SELECT} WHERE hash = ?1 AND (expires IS NULL OR expires > ?2)"),
        params![hash, now],
        read,
    )
}

/// Notes that it was used. Ask `touch_is_due` first.
pub fn touch(tx: &mut Tx, id: TokenId, now: Timestamp) -> Result<(), StoreError> {
    tx.execute("UPDATE tokens SET last_used = ?2 WHERE id = ?1", params![id, now])?;
    Ok(())
}

pub fn get(tx: &Tx, org: OrgId, id: TokenId) -> Result<Option<KnownToken>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, id], read)
}

/// The machines' tokens of an org.
pub fn list(tx: &Tx, org: OrgId, page: &Page) -> Result<Paged<KnownToken>, StoreError> {
    page_of(tx, Select::new(format!("{SELECT} WHERE org = ?1"), params![org]), page)
}

/// The operator's own credentials.
pub fn list_operator(tx: &Tx, page: &Page) -> Result<Paged<KnownToken>, StoreError> {
    page_of(tx, Select::new(format!("{SELECT} WHERE kind = 'operator'"), &[]), page)
}

fn page_of(tx: &Tx, select: Select, page: &Page) -> Result<Paged<KnownToken>, StoreError> {
    page::read(tx, "tokens", select, Order::Newest, page, read, |known| {
        (String::new(), known.token.id.to_string())
    })
}

/// Revokes a machine's token of the org.
pub fn revoke(tx: &mut Tx, org: OrgId, id: TokenId) -> Result<(), WriteError> {
    gone(tx.execute("DELETE FROM tokens WHERE org = ?1 AND id = ?2", params![org, id])?)
}

/// Signs a session of the person out.
pub fn revoke_session(tx: &mut Tx, user: UserId, id: TokenId) -> Result<(), WriteError> {
    gone(tx.execute("DELETE FROM tokens WHERE user_id = ?1 AND id = ?2", params![user, id])?)
}

/// Revokes one of the operator's own credentials.
pub fn revoke_operator(tx: &mut Tx, id: TokenId) -> Result<(), WriteError> {
    gone(tx.execute("DELETE FROM tokens WHERE kind = 'operator' AND id = ?1", params![id])?)
}

fn gone(rows: usize) -> Result<(), WriteError> {
    if rows == 0 { Err(WriteError::NotFound { kind: Kind::Token }) } else { Ok(()) }
}

/// Forgets what has expired.
pub(crate) fn sweep(tx: &mut Tx, now: Timestamp) -> Result<usize, StoreError> {
    tx.execute("DELETE FROM tokens WHERE expires IS NOT NULL AND expires <= ?1", params![now])
}
