//! Hosts of an app's own, beside the default one.

use insula_model::app::Domain;
use insula_model::{AppId, DomainId, HostName, OrgId};

use crate::error::{Kind, StoreError, WriteError};
use crate::hosts;
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::Tx;

const SELECT: &str = "SELECT id, org, app, host, created FROM domains";

fn read(row: &mut Row<'_>) -> Result<Domain, StoreError> {
    Ok(Domain {
        id: row.parse()?,
        org: row.parse()?,
        app: row.parse()?,
        host: row.parse()?,
        created: row.time()?,
    })
}

/// Gives the app the host, if nobody has it and no other org ever had it.
pub fn add(tx: &mut Tx, domain: &Domain) -> Result<(), WriteError> {
    if crate::apps::get(tx, domain.org, domain.app)?.is_none() {
        return Err(WriteError::NotFound { kind: Kind::App });
    }
    hosts::claim(tx, domain.org, domain.app, &domain.host)?;
    let made = tx.execute(
        "INSERT INTO domains (id, org, app, host, created) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (id) DO NOTHING",
        params![domain.id, domain.org, domain.app, &domain.host, domain.created],
    )?;
    if made == 0 {
        return Err(WriteError::Exists { kind: Kind::Domain });
    }
    tx.touch(domain.id);
    Ok(())
}

pub fn get(tx: &Tx, org: OrgId, id: DomainId) -> Result<Option<Domain>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, id], read)
}

pub fn by_host(tx: &Tx, org: OrgId, host: &HostName) -> Result<Option<Domain>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND host = ?2"), params![org, host], read)
}

pub(crate) fn get_any_org(tx: &Tx, id: DomainId) -> Result<Option<Domain>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id], read)
}

pub fn list(
    tx: &Tx,
    org: OrgId,
    app: Option<AppId>,
    page: &Page,
) -> Result<Paged<Domain>, StoreError> {
    let mut select = Select::new(format!("{SELECT} WHERE org = ?1"), params![org]);
    select.and_some("app = ?", app);
    page::read(tx, "domains", select, Order::Oldest, page, read, |domain| {
        (String::new(), domain.id.to_string())
    })
}

pub(crate) fn all_any_org(tx: &Tx) -> Result<Vec<Domain>, StoreError> {
    tx.query(&format!("{SELECT} ORDER BY id"), &[], read)
}

/// Takes the host from the app. It stays reserved for the org.
pub fn remove(tx: &mut Tx, org: OrgId, id: DomainId) -> Result<(), WriteError> {
    let domain = get(tx, org, id)?.ok_or(WriteError::NotFound { kind: Kind::Domain })?;
    tx.execute("DELETE FROM domains WHERE id = ?1", params![id])?;
    hosts::release(tx, &domain.host)?;
    tx.touch(id);
    Ok(())
}

pub(crate) fn delete_of_app(tx: &mut Tx, app: AppId) -> Result<(), StoreError> {
    let gone: Vec<DomainId> =
        tx.returning("DELETE FROM domains WHERE app = ?1 RETURNING id", params![app], |row| {
            row.parse()
        })?;
    gone.into_iter().for_each(|id| tx.touch(id));
    Ok(())
}
