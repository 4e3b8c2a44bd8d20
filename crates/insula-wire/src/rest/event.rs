//! Events: what an org can read in its history.
//!
//! A stream sends each as a server-sent event named `event` whose id goes into `?after=`, or into
//! `Last-Event-ID`, to go on from there.

use insula_model::event;
use insula_model::{AppId, EventId, OrgId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The name of the events in a stream of them.
pub const SSE_EVENT: &str = "event";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    #[schema(value_type = String)]
    pub id: EventId,
    /// Dotted, in the past tense: `deployment.live`.
    #[serde(rename = "type")]
    pub kind: String,
    pub version: u32,
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    pub actor: String,
    /// What people call the actor: the e-mail address of a member, the name of a token. Absent for
    /// those that are gone, and for `operator` and `platform`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_name: Option<String>,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<OrgId>,
    /// The id of what it happened to.
    pub subject: String,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    #[schema(value_type = Option<Object>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
    #[schema(value_type = Option<Object>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
}

impl Event {
    pub fn new(event: event::Event, actor_name: Option<String>) -> Self {
        Self {
            id: event.id,
            kind: event.kind,
            version: event.version,
            time: event.time,
            actor: event.actor.to_string(),
            actor_name,
            org: event.org,
            subject: event.subject,
            app: event.app,
            message: event.message,
            trace: event.trace,
            request: event.request,
            before: event.before,
            after: event.after,
        }
    }
}
