//! The answer to "why": what was decided, and what stands in the way.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// The id that was asked about.
    pub subject: String,
    /// One sentence.
    pub summary: String,
    /// What it follows from, the nearest first.
    pub reasons: Vec<String>,
    /// What to do next, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
