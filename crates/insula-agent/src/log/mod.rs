//! The log store of a node: what apps and builds wrote, kept across redeploys within a bound.
//!
//! ```text
//! <data>/logs/<app id>/<component>/<instance id>/000000000001-1763673183000.log.gz   sealed
//!                                                000000000815-1763673184211.log      active
//!                                                out.4096.spool                      the keeper's
//! <data>/logs/builds/<build id>/…
//! ```
//!
//! A segment is named by the sequence number and the time (ms) of its first entry, and is text: one
//! line per entry (see `entry`), so `zcat` and `grep` work when nothing of ours does. One process
//! writes a directory (the keeper for instances, the agent for builds) and locks the active
//! segment; any number read. Complete lines are never taken back, only whole segments are removed.
//!
//! Not here: rates and FIFOs (see `keeper`), and who may read what (the API decides that).

mod build;
mod cursor;
mod cut;
mod entry;
mod follow;
mod layout;
mod query;
mod reader;
mod redact;
mod retain;
mod seal;
mod writer;

pub use build::LogWriter;
pub use cursor::{Cursor, CursorError};
pub use cut::{Cut, LINE_BYTES_MAX, LineCutter};
pub use entry::{Entry, Stream};
pub use follow::{Follower, LogWatch};
pub(crate) use layout::folders;
pub use layout::{LogRoot, SegmentName};
pub use query::{LogQuery, PAGE_ENTRIES_MAX, Page, query, query_build, tail_lines};
pub use redact::{REDACTED, Redactor, SECRET_BYTES_MIN};
pub use retain::{Bound, Kept, enforce_app, enforce_node, surplus};
pub use seal::Seal;
pub use writer::{AppendError, Batch, Marks, SEGMENT_BYTES_MAX, SegmentWriter};

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("read the logs in {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("write the logs in {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("watch the logs in {path}")]
    Watch {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the thread that reads logs ended")]
    Thread(#[source] tokio::task::JoinError),
}
