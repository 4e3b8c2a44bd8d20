//! Encrypted, versioned values. They come in sealed and go out sealed: no key is known here.

use std::collections::BTreeMap;
use std::fmt;

use insula_model::app::{App, ConfigScope, Secret};
use insula_model::{OrgId, VariableName};

use crate::data_keys::{self, KeyId};
use crate::error::{Kind, StoreError, WriteError};
use crate::feed::Touch;
use crate::sql::{Row, params};
use crate::tx::Tx;
use crate::variables::{check_scope, read_scope, scope_parts, scopes_of};

const SELECT: &str = "SELECT org, scope, scope_id, name, version, updated, key_id, sealed \
                      FROM secrets";

/// A value under a data key of its org.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    pub key: KeyId,
    pub blob: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed(key {}, …)", self.key)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    pub secret: Secret,
    pub value: Sealed,
}

fn read(row: &mut Row<'_>) -> Result<SealedSecret, StoreError> {
    Ok(SealedSecret {
        secret: Secret {
            org: row.parse()?,
            scope: read_scope(row)?,
            name: row.parse()?,
            version: row.amount()?,
            updated: row.time()?,
        },
        value: Sealed { key: KeyId(row.amount()?), blob: row.blob()? },
    })
}

/// The version that the next value of this secret has to have: seal it for that.
pub fn next_version(
    tx: &Tx,
    org: OrgId,
    scope: ConfigScope,
    name: &VariableName,
) -> Result<u32, StoreError> {
    Ok(get(tx, org, scope, name)?.map_or(1, |secret| secret.version.saturating_add(1)))
}

/// Sets a secret. `secret.version` is that of `next_version`, read in the same transaction.
pub fn set(tx: &mut Tx, secret: &Secret, value: &Sealed) -> Result<(), WriteError> {
    check_scope(tx, secret.org, secret.scope)?;
    if data_keys::get(tx, secret.org, value.key)?.is_none() {
        return Err(WriteError::NotFound { kind: Kind::DataKey });
    }
    let next = next_version(tx, secret.org, secret.scope, &secret.name)?;
    if secret.version != next {
        return Err(WriteError::Moved {
            kind: Kind::Secret,
            expected: format!("version {}", secret.version),
            found: format!("version {next}"),
        });
    }
    let (scope, id) = scope_parts(secret.scope);
    tx.execute(
        "INSERT INTO secrets (org, scope, scope_id, name, version, updated, key_id, sealed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (scope_id, name) DO UPDATE SET
             version = excluded.version, updated = excluded.updated, key_id = excluded.key_id,
             sealed = excluded.sealed",
        params![
            secret.org,
            scope,
            id,
            &secret.name,
            secret.version,
            secret.updated,
            value.key,
            &value.blob[..],
        ],
    )?;
    tx.touch(Touch::SecretsOf(secret.org));
    Ok(())
}

pub fn unset(
    tx: &mut Tx,
    org: OrgId,
    scope: ConfigScope,
    name: &VariableName,
) -> Result<(), WriteError> {
    let (_, id) = scope_parts(scope);
    let gone = tx.execute(
        "DELETE FROM secrets WHERE org = ?1 AND scope_id = ?2 AND name = ?3",
        params![org, id, name],
    )?;
    if gone == 0 {
        return Err(WriteError::NotFound { kind: Kind::Secret });
    }
    tx.touch(Touch::SecretsOf(org));
    Ok(())
}

pub fn get(
    tx: &Tx,
    org: OrgId,
    scope: ConfigScope,
    name: &VariableName,
) -> Result<Option<Secret>, StoreError> {
    let (_, id) = scope_parts(scope);
    let found = tx.find(
        &format!("{SELECT} WHERE org = ?1 AND scope_id = ?2 AND name = ?3"),
        params![org, id, name],
        read,
    )?;
    Ok(found.map(|sealed| sealed.secret))
}

/// What is set on exactly this scope, by name, without the values.
pub fn list(tx: &Tx, org: OrgId, scope: ConfigScope) -> Result<Vec<Secret>, StoreError> {
    Ok(values_sealed(tx, org, scope)?.into_iter().map(|sealed| sealed.secret).collect())
}

/// What is set on exactly this scope, by name, sealed.
pub fn values_sealed(
    tx: &Tx,
    org: OrgId,
    scope: ConfigScope,
) -> Result<Vec<SealedSecret>, StoreError> {
    let (_, id) = scope_parts(scope);
    tx.query(
        &format!("{SELECT} WHERE org = ?1 AND scope_id = ?2 ORDER BY name"),
        params![org, id],
        read,
    )
}

/// What the app sees: of its project, its environment and itself, the narrower winning.
pub fn values_of_app(
    tx: &Tx,
    app: &App,
) -> Result<BTreeMap<VariableName, SealedSecret>, StoreError> {
    let mut seen = BTreeMap::new();
    for scope in scopes_of(app) {
        let values = values_sealed(tx, app.org, scope)?;
        seen.extend(values.into_iter().map(|value| (value.secret.name.clone(), value)));
    }
    Ok(seen)
}

/// Values that are not yet under the org's key `key`: what a rotation has left to do.
pub fn not_under_key(
    tx: &Tx,
    org: OrgId,
    key: KeyId,
    limit: usize,
) -> Result<Vec<SealedSecret>, StoreError> {
    tx.query(
        &format!("{SELECT} WHERE org = ?1 AND key_id <> ?2 ORDER BY scope_id, name LIMIT ?3"),
        params![org, key, limit],
        read,
    )
}

/// The same value under another key. Refused if the value has changed since it was read.
pub fn reseal(tx: &mut Tx, secret: &Secret, value: &Sealed) -> Result<(), WriteError> {
    if data_keys::get(tx, secret.org, value.key)?.is_none() {
        return Err(WriteError::NotFound { kind: Kind::DataKey });
    }
    let (_, id) = scope_parts(secret.scope);
    let changed = tx.execute(
        "UPDATE secrets SET key_id = ?5, sealed = ?6
         WHERE org = ?1 AND scope_id = ?2 AND name = ?3 AND version = ?4",
        params![secret.org, id, &secret.name, secret.version, value.key, &value.blob[..]],
    )?;
    if changed == 0 {
        return Err(match get(tx, secret.org, secret.scope, &secret.name)? {
            None => WriteError::NotFound { kind: Kind::Secret },
            Some(found) => WriteError::Moved {
                kind: Kind::Secret,
                expected: format!("version {}", secret.version),
                found: format!("version {}", found.version),
            },
        });
    }
    Ok(())
}

pub(crate) fn delete_scope(tx: &mut Tx, org: OrgId, scope: ConfigScope) -> Result<(), StoreError> {
    let (_, id) = scope_parts(scope);
    let gone =
        tx.execute("DELETE FROM secrets WHERE org = ?1 AND scope_id = ?2", params![org, id])?;
    if gone > 0 {
        tx.touch(Touch::SecretsOf(org));
    }
    Ok(())
}
