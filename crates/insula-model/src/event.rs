//! What an org can read in its history; shaped as CloudEvents.

use serde::{Deserialize, Serialize};

use crate::ids::{EventId, OrgId};
use crate::tenancy::Actor;
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub id: EventId,
    /// Dotted, in the past tense: `deployment.live`, `instance.exited`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of the shape of `before` and `after` for this kind.
    pub version: u32,
    pub time: Timestamp,
    pub actor: Actor,
    /// Nothing for what concerns the operator alone.
    pub org: Option<OrgId>,
    /// The id of what it happened to.
    pub subject: String,
    /// The app that it concerns, so that a history can be read by app.
    pub app: Option<crate::ids::AppId>,
    /// One sentence for people. Never holds a secret's value.
    pub message: String,
    pub trace: Option<String>,
    pub request: Option<String>,
    pub before: Option<serde_json::Value>,
    pub after: Option<serde_json::Value>,
}
