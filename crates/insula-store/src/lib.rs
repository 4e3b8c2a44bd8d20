//! The only SQL of Insula: rows in, words of the model out.
//!
//! A caller brings a closure over a transaction (`Store::read`, `Store::write`) and calls the typed
//! functions of the modules below inside it. Acknowledged is durable: `write` answers only once its
//! commit is on the disk; commits are made in groups. What the control plane needs to know of a
//! mutation is told in the commit-ordered `feed`, written in the same transaction. The database is
//! a SQLite file, or a PostgreSQL that several servers share; what is above cannot tell.
//!
//! Every function that reads or changes a row of an org takes the org too, so that a stranger's id
//! is simply not found; what looks across orgs says so in its name. Nothing here reads a clock or
//! makes an id, decides who may do what, or knows how a secret is sealed.

pub mod apps;
pub mod authority;
mod backup;
pub mod blobs;
pub mod builds;
mod cohorts;
mod copy;
pub mod data_keys;
mod database;
pub mod deployments;
pub mod domains;
pub mod enrolments;
pub mod environments;
mod error;
pub mod events;
pub mod feed;
pub mod gateways;
mod group;
mod hosts;
pub mod idempotency;
pub mod instances;
pub mod invitations;
pub mod joins;
pub mod leases;
pub mod members;
mod migrate;
pub mod nodes;
mod page;
mod postgres;
pub mod projects;
pub mod quotas;
pub mod releases;
pub mod runs;
pub mod secrets;
pub mod servers;
mod sql;
mod sqlite;
mod store;
pub mod sweep;
pub mod tokens;
mod tx;
pub mod users;
pub mod variables;
pub mod whereabouts;

pub mod orgs;

pub use backup::{RestoreError, backup, restore};
pub use copy::{CopiedTable, CopyError, RowsDigest, copy};
pub use database::DbError;
pub use error::{Kind, OpenError, StoreError, WriteError};
pub use page::{Cursor, Page, Paged};
pub use postgres::{PostgresUrl, PostgresUrlError};
pub use store::{Patience, Place, Store, StoreConfig, WriteCounts};
pub use tx::{SecretHash, Tx};
