//! Seals and opens the secrets of orgs, and the identity of the fleet (see `fleet`).
//!
//! Each org has data keys, kept in the store under the master key, which is a file that backups
//! leave out. A value is bound to its org, scope, name and version, so that a row moved elsewhere
//! does not open. The API seals through here, the control plane opens through here, and nobody
//! else sees a value. Runs inside the caller's transaction; never logs, never prints.

pub mod fleet;

use std::collections::BTreeMap;

use insula_kit::random::Random;
use insula_kit::seal::{self, Key, Keyring, SealError, SecretBytes};
use insula_model::app::{App, ConfigScope, Secret};
use insula_model::{OrgId, Timestamp, VariableName};
use insula_store::data_keys::{self, DataKey, KeyId};
use insula_store::secrets::{self, Sealed, SealedSecret};
use insula_store::{StoreError, Tx, WriteError};

/// Values resealed in one transaction of a rotation: short enough that others are not held up.
const RESEAL_AT_ONCE: usize = 200;

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("open the data key {key} of {org}: is it the master key of this data folder?")]
    DataKey {
        org: OrgId,
        key: KeyId,
        #[source]
        source: SealError,
    },
    #[error("open the secret {name} of {org}")]
    Value {
        org: OrgId,
        name: VariableName,
        #[source]
        source: SealError,
    },
    #[error("{org} has no data key {key}, which seals one of its secrets")]
    KeyLost { org: OrgId, key: KeyId },
    #[error("the secret {name} of {org} is not UTF-8")]
    Text { org: OrgId, name: VariableName },
    #[error("open the key of the fleet's authority: is it the master key of this fleet?")]
    Authority(#[source] SealError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<StoreError> for VaultError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}

/// Sets a secret's newest value under the org's current data key, making the first key if needed.
pub fn set(
    tx: &mut Tx,
    master: &Keyring,
    random: &dyn Random,
    secret: NewSecret<'_>,
) -> Result<Secret, VaultError> {
    let NewSecret { org, scope, name, value, now } = secret;
    let (id, key) = current_key(tx, master, random, org, now)?;
    let version = secrets::next_version(tx, org, scope, name)?;
    let secret = Secret { org, scope, name: name.clone(), version, updated: now };
    let blob = seal::seal(&key, &value_place(&secret), value.as_bytes(), random).into_bytes();
    secrets::set(tx, &secret, &Sealed { key: id, blob })?;
    Ok(secret)
}

/// What `set` takes.
#[expect(missing_debug_implementations, reason = "it holds the value")]
pub struct NewSecret<'a> {
    pub org: OrgId,
    pub scope: ConfigScope,
    pub name: &'a VariableName,
    pub value: &'a str,
    pub now: Timestamp,
}

/// The newest values that an app sees, the narrower scope winning. A value under a data key that
/// the master key does not open is lost: its name is left out, until it is set again.
pub fn values_of_app(
    tx: &Tx,
    master: &Keyring,
    app: &App,
) -> Result<BTreeMap<VariableName, String>, VaultError> {
    let mut keys = BTreeMap::new();
    let mut values = BTreeMap::new();
    for (name, sealed) in secrets::values_of_app(tx, app)? {
        let opened = match open(tx, master, &mut keys, &sealed) {
            Err(VaultError::DataKey { .. }) => continue,
            other => other?,
        };
        let text = String::from_utf8(opened.expose().to_vec())
            .map_err(|_| VaultError::Text { org: app.org, name: name.clone() })?;
        values.insert(name, text);
    }
    Ok(values)
}

/// Gives the org a new data key. Its values follow with `reseal_some`.
pub fn rotate(
    tx: &mut Tx,
    master: &Keyring,
    random: &dyn Random,
    org: OrgId,
    now: Timestamp,
) -> Result<KeyId, VaultError> {
    let next = data_keys::current(tx, org)?.map_or(KeyId(1), |key| KeyId(key.id.0 + 1));
    new_key(tx, master, random, org, next, now)?;
    Ok(next)
}

/// Seals some of the values that are under older keys with the current one, and forgets keys that
/// seal nothing any more. True once nothing is left to do.
pub fn reseal_some(
    tx: &mut Tx,
    master: &Keyring,
    random: &dyn Random,
    org: OrgId,
) -> Result<bool, VaultError> {
    let Some(current) = data_keys::current(tx, org)? else { return Ok(true) };
    let key = open_key(master, &current)?;
    let mut keys = BTreeMap::new();
    let left = secrets::not_under_key(tx, org, current.id, RESEAL_AT_ONCE)?;
    for sealed in &left {
        let value = open(tx, master, &mut keys, sealed)?;
        let place = value_place(&sealed.secret);
        let blob = seal::seal(&key, &place, value.expose(), random).into_bytes();
        secrets::reseal(tx, &sealed.secret, &Sealed { key: current.id, blob })?;
    }
    if left.len() == RESEAL_AT_ONCE {
        return Ok(false);
    }
    for old in data_keys::list(tx, org)?.into_iter().filter(|k| k.id != current.id) {
        data_keys::delete(tx, org, old.id)?;
    }
    Ok(true)
}

/// Wraps every org's data keys, and the key of the fleet's authority, with the newest master key.
/// What it opens them with stands in the ring as an older one. Answers how many keys orgs have.
pub fn rewrap_all(tx: &mut Tx, master: &Keyring, random: &dyn Random) -> Result<usize, VaultError> {
    let keys = data_keys::list_any_org(tx)?;
    for row in &keys {
        let key = open_key(master, row)?;
        let wrapped = key.seal_under(master.current(), &key_place(row.org, row.id), random);
        data_keys::rewrap(tx, row.org, row.id, wrapped.as_bytes())?;
    }
    fleet::reseal(tx, master, random)?;
    Ok(keys.len())
}

fn current_key(
    tx: &mut Tx,
    master: &Keyring,
    random: &dyn Random,
    org: OrgId,
    now: Timestamp,
) -> Result<(KeyId, Key), VaultError> {
    match data_keys::current(tx, org)? {
        Some(row) => match open_key(master, &row) {
            Ok(key) => Ok((row.id, key)),
            // The master key of that time is lost. What is set from now on must not be.
            Err(_) => {
                let next = KeyId(row.id.0 + 1);
                Ok((next, new_key(tx, master, random, org, next, now)?))
            }
        },
        None => {
            let first = KeyId(1);
            Ok((first, new_key(tx, master, random, org, first, now)?))
        }
    }
}

fn new_key(
    tx: &mut Tx,
    master: &Keyring,
    random: &dyn Random,
    org: OrgId,
    id: KeyId,
    now: Timestamp,
) -> Result<Key, VaultError> {
    let key = Key::generate(random);
    let wrapped = key.seal_under(master.current(), &key_place(org, id), random).into_bytes();
    data_keys::insert(tx, &DataKey { org, id, wrapped, created: now })?;
    Ok(key)
}

fn open_key(master: &Keyring, row: &DataKey) -> Result<Key, VaultError> {
    let failed = |source| VaultError::DataKey { org: row.org, key: row.id, source };
    let sealed = seal::Sealed::from_bytes(row.wrapped.clone()).map_err(failed)?;
    Key::open_under(master, &key_place(row.org, row.id), &sealed).map_err(failed)
}

fn open(
    tx: &Tx,
    master: &Keyring,
    keys: &mut BTreeMap<KeyId, Key>,
    sealed: &SealedSecret,
) -> Result<SecretBytes, VaultError> {
    let Secret { org, name, .. } = &sealed.secret;
    let id = sealed.value.key;
    if let std::collections::btree_map::Entry::Vacant(entry) = keys.entry(id) {
        let row =
            data_keys::get(tx, *org, id)?.ok_or(VaultError::KeyLost { org: *org, key: id })?;
        entry.insert(open_key(master, &row)?);
    }
    let key = keys.get(&id).ok_or(VaultError::KeyLost { org: *org, key: id })?;
    let failed = |source| VaultError::Value { org: *org, name: name.clone(), source };
    let envelope = seal::Sealed::from_bytes(sealed.value.blob.clone()).map_err(failed)?;
    seal::open(key, &value_place(&sealed.secret), &envelope).map_err(failed)
}

/// What a wrapped data key is bound to.
fn key_place(org: OrgId, id: KeyId) -> Vec<u8> {
    format!("insula data key 1:{org}:{id}").into_bytes()
}

/// What a sealed value is bound to.
fn value_place(secret: &Secret) -> Vec<u8> {
    let Secret { org, scope, name, version, .. } = secret;
    let scope = match scope {
        ConfigScope::Project(id) => id.to_string(),
        ConfigScope::Environment(id) => id.to_string(),
        ConfigScope::App(id) => id.to_string(),
    };
    format!("insula secret 1:{org}:{scope}:{name}:{version}").into_bytes()
}
