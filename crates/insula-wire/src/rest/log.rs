//! Lines of logs: a page of them, or one after the other as server-sent events.
//!
//! A stream sends events named `log` (a `LogLine`), and before it ends `end`, or `error` with a
//! `Problem`. Lines that begin with a colon keep the connection open and mean nothing.

use insula_model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The instance or the build that wrote it.
    pub instance: String,
    pub component: String,
    /// `out`, `err` or `platform`.
    pub channel: String,
    /// Without its end; bytes that are not UTF-8 are replaced.
    pub line: String,
    /// Counts the lines of its instance.
    pub sequence: u64,
}

/// Names of the events in a stream of lines.
pub const SSE_LOG: &str = "log";
pub const SSE_END: &str = "end";
pub const SSE_ERROR: &str = "error";
