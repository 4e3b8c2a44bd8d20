//! What a fleet promises, at full length, for `cargo xtask soak NAME`.
//!
//! The tests tell the same stories in seconds (`tests/it/fleet`). Here they last as long as the
//! promise says, with somebody who asks each app each second and somebody who looks at each
//! process. Each prints a table and ends with an error if the promise was not kept.

mod apps;
mod before;
mod cut_off;
mod database;
mod due;
mod migrate;
pub mod s3;
mod span;
mod table;
mod upgrade;
mod visitors;
mod writers;

use anyhow::Result;

/// Servers cut off for an hour: from one node, in a second fleet from all nodes, and in a third
/// while certificates fall due.
pub fn cut_off(mut args: impl Iterator<Item = String>) -> Result<()> {
    cut_off::run(args.next().as_deref())
}

/// PostgreSQL away for a minute, killed and frozen, while everybody writes.
pub fn database() -> Result<()> {
    database::run()
}

/// One box to PostgreSQL and S3 and back, while it is used.
pub fn migrate() -> Result<()> {
    migrate::run()
}

/// From a build of before to this one, part by part.
pub fn upgrade(args: impl Iterator<Item = String>) -> Result<()> {
    upgrade::run(args)
}
