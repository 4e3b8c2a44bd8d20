//! Mutations: once, told in the history, and harmless to repeat.
//!
//! A mutation, its event and the answer to an `Idempotency-Key` are one transaction. The kept
//! answer may hold a secret that is shown once (a token's text), and what it is compared by may be
//! derived from a password, so both are sealed with the master key before they are stored.

use std::sync::Arc;

use http::HeaderMap;
use insula_kit::digest::{hex, sha256};
use insula_kit::random::Random;
use insula_kit::seal::Sealed;
use insula_model::event::Event;
use insula_model::ids::ID_RANDOM_BYTES;
use insula_model::tenancy::Actor;
use insula_model::{AppId, Digest, EventId, OrgId, Timestamp};
use insula_store::idempotency::{self, Begin};
use insula_store::{Tx, WriteError, events};
use insula_wire::problem::Code;
use serde::{Deserialize, Serialize};

use crate::context::{Cx, Input};
use crate::error::ApiError;
use crate::limits;
use crate::reply::{JSON, Reply, Whole};
use crate::state::Api;

/// Who does something, when, and by which names it is known: what a mutation may need besides
/// what it changes.
#[derive(Debug, Clone)]
pub struct Deed {
    pub now: Timestamp,
    pub actor: Actor,
    pub org: Option<OrgId>,
    pub trace: String,
    pub request: String,
    pub random: Arc<dyn Random>,
}

/// What happened, for the history. Nothing in it may be a secret's value.
#[derive(Debug, Default)]
pub struct Happened {
    /// Dotted, in the past tense.
    pub kind: &'static str,
    pub subject: String,
    pub app: Option<AppId>,
    pub message: String,
    pub before: Option<serde_json::Value>,
    pub after: Option<serde_json::Value>,
}

impl Deed {
    pub fn id<T>(&self, make: fn(Timestamp, [u8; ID_RANDOM_BYTES]) -> T) -> T {
        let mut random = [0; ID_RANDOM_BYTES];
        self.random.fill(&mut random);
        make(self.now, random)
    }

    pub fn tell(&self, tx: &mut Tx, happened: Happened) -> Result<(), WriteError> {
        let event = Event {
            id: self.id(EventId::from_parts),
            kind: happened.kind.into(),
            version: 1,
            time: self.now,
            actor: self.actor.clone(),
            org: self.org,
            subject: happened.subject,
            app: happened.app,
            message: happened.message,
            trace: Some(self.trace.clone()),
            request: Some(self.request.clone()),
            before: happened.before,
            after: happened.after,
        };
        events::append(tx, &event)?;
        Ok(())
    }
}

impl Cx {
    pub fn deed(&self) -> Deed {
        Deed {
            now: self.now(),
            actor: self.actor(),
            org: self.org.as_ref().map(|org| org.id),
            trace: self.names.trace.trace.to_string(),
            request: self.names.request.as_str().to_owned(),
            random: Arc::clone(&self.api.state.random),
        }
    }

    /// Changes something, once: a repetition with the same `Idempotency-Key` is answered like the
    /// first time. The closure may be run again, so it does nothing but change the store.
    pub async fn write<F>(&self, mutation: F) -> Result<Reply, ApiError>
    where
        F: Fn(&mut Tx, &Deed) -> Result<Whole, ApiError> + Send + 'static,
    {
        let body = match &self.body {
            Input::Whole(bytes) => sha256(bytes),
            Input::None | Input::Stream(_) => sha256(b""),
        };
        self.write_of(hex(&body), mutation).await
    }

    /// The same, for a body that was read by the handler: `body` is what it is recognised by.
    pub async fn write_of<F>(&self, body: String, mutation: F) -> Result<Reply, ApiError>
    where
        F: Fn(&mut Tx, &Deed) -> Result<Whole, ApiError> + Send + 'static,
    {
        let deed = self.deed();
        let Some(key) = self.idempotency_key.clone() else {
            let done = self.store().write(move |tx| mutation(tx, &deed)).await?;
            return Ok(done.into());
        };
        let attempt = Attempt {
            api: self.api.clone(),
            caller: self.caller.as_ref().map_or("public".into(), |c| c.token.to_string()),
            key,
            target: self.target.clone(),
            body,
        };
        let done: (Whole, bool) =
            self.store().write(move |tx| attempt.once(tx, &deed, &mutation)).await?;
        Ok(Reply::Kept { whole: done.0, replayed: done.1 })
    }
}

/// The `Idempotency-Key` of a request, if it has one that can be used.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let bytes = value.as_bytes();
    let fits = (1..=limits::IDEMPOTENCY_KEY_BYTES_MAX).contains(&bytes.len());
    if fits && bytes.iter().all(u8::is_ascii_graphic) {
        return Ok(Some(String::from_utf8_lossy(bytes).into_owned()));
    }
    let max = limits::IDEMPOTENCY_KEY_BYTES_MAX;
    Err(ApiError::new(
        Code::IdempotencyKeyInvalid,
        format!("an Idempotency-Key has 1 to {max} visible ASCII characters"),
    )
    .hint("use a random UUID"))
}

/// A mutation with a key.
struct Attempt {
    api: Api,
    caller: String,
    key: String,
    target: String,
    body: String,
}

/// What is kept, sealed.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Of the body that it was the answer to.
    body: String,
    status: u16,
    answer: String,
    etag: Option<String>,
}

impl From<Kept> for Whole {
    fn from(kept: Kept) -> Self {
        let body = kept.answer.into_bytes().into();
        Self { status: kept.status, body, media_type: JSON, etag: kept.etag }
    }
}

fn reused() -> ApiError {
    ApiError::new(Code::IdempotencyKeyReused, "this Idempotency-Key was used for another request")
        .hint("use a new key for each thing that you want done")
}

impl Attempt {
    /// The answer, and whether it is one of before.
    fn once(
        &self,
        tx: &mut Tx,
        deed: &Deed,
        mutation: &impl Fn(&mut Tx, &Deed) -> Result<Whole, ApiError>,
    ) -> Result<(Whole, bool), ApiError> {
        // What two bodies are compared by is in the sealed part, so the store sees one for all.
        let request = idempotency::Request {
            caller: self.caller.clone(),
            key: self.key.clone(),
            route: self.target.clone(),
            body: Digest::from_sha256([0; 32]),
        };
        match idempotency::begin(tx, &request, deed.now)? {
            Begin::New => {}
            Begin::Conflict => return Err(reused()),
            Begin::Replay { answer, .. } => {
                let kept = self.open(answer)?;
                if kept.body != self.body {
                    return Err(reused());
                }
                return Ok((kept.into(), true));
            }
        }
        let whole = mutation(tx, deed)?;
        let answer = self.seal(&whole)?;
        idempotency::finish(tx, &request, whole.status, &answer, deed.now)?;
        Ok((whole, false))
    }

    fn place(&self) -> Vec<u8> {
        format!("idempotency\n{}\n{}", self.caller, self.key).into_bytes()
    }

    fn seal(&self, whole: &Whole) -> Result<Vec<u8>, ApiError> {
        let kept = Kept {
            body: self.body.clone(),
            status: whole.status,
            answer: String::from_utf8_lossy(&whole.body).into_owned(),
            etag: whole.etag.clone(),
        };
        let plain = serde_json::to_vec(&kept).map_err(ApiError::internal)?;
        let state = &self.api.state;
        Ok(state.master.seal(&self.place(), &plain, &*state.random).into_bytes())
    }

    fn open(&self, sealed: Vec<u8>) -> Result<Kept, ApiError> {
        let plain = Sealed::from_bytes(sealed)
            .and_then(|sealed| self.api.state.master.open(&self.place(), &sealed))
            .map_err(ApiError::internal)?;
        serde_json::from_slice(plain.expose()).map_err(ApiError::internal)
    }
}
