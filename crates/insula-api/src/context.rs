//! One request as its handler sees it: already named, admitted and within its limits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use insula_kit::trace::{RequestId, TraceParent};
use insula_model::tenancy::{Actor, Org};
use insula_model::{OrgId, Timestamp, TokenId};
use insula_store::{Page, Store, Tx};
use insula_wire::problem::{Code, Mistake};
use serde::de::DeserializeOwned;

use crate::access::{Caller, Standing};
use crate::error::ApiError;
use crate::place::Place;
use crate::reply::{Reply, Whole};
use crate::state::Api;

/// What names a request, from its first line in the log to its last.
#[derive(Debug, Clone)]
pub struct Names {
    pub request: RequestId,
    pub trace: TraceParent,
    pub peer: std::net::IpAddr,
}

#[derive(Debug)]
pub struct Cx {
    pub api: Api,
    pub names: Names,
    pub caller: Option<Caller>,
    pub standing: Standing,
    /// The org of the path, for routes that have one.
    pub org: Option<Org>,
    /// The method and the path with its parameters: what an `Idempotency-Key` is bound to.
    pub target: String,
    pub idempotency_key: Option<String>,
    pub params: BTreeMap<String, String>,
    pub query: BTreeMap<String, String>,
    pub headers: HeaderMap,
    pub body: Input,
    /// Held while a large body is worked on.
    pub heavy: Option<Place<TokenId>>,
}

/// The body of a request.
#[derive(Debug)]
pub enum Input {
    None,
    /// JSON, whole.
    Whole(Bytes),
    /// In a lock that nobody waits for: a body may move between threads, but not be shared.
    Stream(Mutex<Option<Body>>),
}

impl Input {
    pub fn stream(body: Body) -> Self {
        Self::Stream(Mutex::new(Some(body)))
    }

    /// The body, once.
    pub fn take_stream(&self) -> Result<Body, ApiError> {
        let body = match self {
            Self::Stream(body) => body.lock().unwrap_or_else(PoisonError::into_inner).take(),
            Self::None | Self::Whole(_) => None,
        };
        body.ok_or_else(|| ApiError::new(Code::BadRequest, "there is no body"))
    }
}

impl Cx {
    pub fn store(&self) -> &Store {
        &self.api.state.store
    }

    pub fn now(&self) -> Timestamp {
        self.api.now()
    }

    /// The org of the path. Every route below `/v1/orgs/{org}` has one by the time it is here.
    pub fn org(&self) -> Result<&Org, ApiError> {
        self.org.as_ref().ok_or_else(ApiError::no_such_org)
    }

    pub fn org_id(&self) -> Result<OrgId, ApiError> {
        self.org().map(|org| org.id)
    }

    pub fn caller(&self) -> Result<&Caller, ApiError> {
        self.caller.as_ref().ok_or_else(|| crate::access::unauthenticated("not signed in"))
    }

    pub fn actor(&self) -> Actor {
        self.caller.as_ref().map_or(Actor::Platform, Caller::actor)
    }

    /// A parameter of the path. What is not of its form is not there.
    pub fn param<T: FromStr>(&self, name: &str, what: &str) -> Result<T, ApiError>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.params.get(name).map_or("", String::as_str);
        text.parse().map_err(|error: T::Err| {
            ApiError::new(Code::NotFound, format!("there is no such {what}: {error}"))
        })
    }

    pub fn query<T: FromStr>(&self, name: &str) -> Result<Option<T>, ApiError>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.query.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|error| ApiError::query(name, error))
    }

    /// `?flag`, `?flag=true` and `?flag=1` are yes.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.query.get(name).map(String::as_str) {
            None => Ok(None),
            Some("" | "1" | "true") => Ok(Some(true)),
            Some("0" | "false") => Ok(Some(false)),
            Some(_) => Err(ApiError::query(name, "write true or false")),
        }
    }

    pub fn page(&self) -> Result<Page, ApiError> {
        let limit = self.query("limit")?.unwrap_or(insula_model::limits::PAGE_DEFAULT);
        match self.query("cursor")? {
            Some(cursor) => Ok(Page::after(limit, cursor)),
            None => Ok(Page::first(limit)),
        }
    }

    /// The body as JSON of the form that the route promises.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let bytes: &[u8] = match &self.body {
            Input::Whole(bytes) => bytes,
            Input::None | Input::Stream(_) => &[],
        };
        serde_json::from_slice(bytes).map_err(|error| refuse_json(&error))
    }

    /// The same, where no body is as good as an empty object.
    pub fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, ApiError> {
        match &self.body {
            Input::Whole(bytes) if !bytes.is_empty() => self.json(),
            Input::Whole(_) | Input::None | Input::Stream(_) => Ok(T::default()),
        }
    }

    /// Whether the caller would rather have a stream.
    pub fn wants_stream(&self) -> bool {
        let accept = self.headers.get_all(header::ACCEPT).iter();
        accept.filter_map(|value| value.to_str().ok()).any(|value| {
            value.split(',').any(|one| {
                let kind = one.split(';').next().unwrap_or_default();
                kind.trim().eq_ignore_ascii_case("text/event-stream")
            })
        })
    }

    /// Reads one unchanging view of everything.
    pub async fn read<T, F>(&self, query: F) -> Result<T, ApiError>
    where
        F: FnOnce(&Tx) -> Result<T, ApiError> + Send + 'static,
        T: Send + 'static,
    {
        self.store().read(query).await
    }

    /// Refuses unless `document` still has the tag that the caller has seen.
    pub fn unchanged(if_match: Option<&str>, document: &Whole) -> Result<(), ApiError> {
        let Some(if_match) = if_match else { return Ok(()) };
        let tag = crate::reply::etag_of(&document.body);
        let same = if_match.split(',').map(str::trim).any(|one| one == "*" || one == tag);
        if same {
            return Ok(());
        }
        Err(ApiError::new(Code::PreconditionFailed, "it has changed since you read it")
            .hint("read it again, and send your change with the new ETag"))
    }

    pub fn if_match(&self) -> Result<Option<String>, ApiError> {
        let Some(value) = self.headers.get(header::IF_MATCH) else { return Ok(None) };
        let text = value.to_str().map_err(|_| {
            ApiError::new(Code::BadRequest, "the If-Match header is not a tag of ours")
        })?;
        Ok(Some(text.to_owned()))
    }
}

/// A JSON body that is not what was asked for. Values are not repeated: one may be a secret.
fn refuse_json(error: &serde_json::Error) -> ApiError {
    use serde_json::error::Category;
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        Category::Syntax | Category::Eof | Category::Io => ApiError::new(
            Code::InvalidJson,
            format!("the body is not JSON: line {line}, column {column}"),
        ),
        Category::Data => {
            let message = without_values(&error.to_string());
            ApiError::new(Code::InvalidField, message.clone())
                .mistakes(vec![Mistake { message, ..Mistake::default() }])
        }
    }
}

/// Longer refusals are the sender's own text.
const JSON_REFUSAL_CHARS_MAX: usize = 300;

/// serde quotes a wrong string value in double quotes: `invalid type: string "hunter2"`, and a
/// field that is not known in back quotes, which is shown only if it looks like one. Our own types
/// quote names in back quotes, shortened and harmless; those stay.
fn without_values(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut inside, mut escaped) = (false, false);
    for c in known_looking(text).chars() {
        match (inside, c) {
            (false, '"') => {
                inside = true;
                out.push_str("\"…\"");
            }
            (false, c) => out.push(if c.is_control() { '\u{fffd}' } else { c }),
            (true, _) if escaped => escaped = false,
            (true, '\\') => escaped = true,
            (true, '"') => inside = false,
            (true, _) => {}
        }
    }
    if out.chars().nth(JSON_REFUSAL_CHARS_MAX).is_some() {
        out = out.chars().take(JSON_REFUSAL_CHARS_MAX).chain(['…']).collect();
    }
    out
}

/// The text, without the name of an unknown field that is no name of a field at all.
fn known_looking(text: &str) -> Cow<'_, str> {
    const UNKNOWN: &str = "unknown field `";
    let Some(rest) = text.strip_prefix(UNKNOWN) else { return text.into() };
    // The last quote before what serde says next; the name itself may hold quotes.
    let end = rest.rfind("`, expected ").or_else(|| rest.rfind("`, there are no fields"));
    let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
    let plain = (1..=40).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if plain { text.into() } else { format!("{UNKNOWN}…{after}").into() }
}

/// A page of the store as a page of the wire.
pub fn page_of<T, U>(
    paged: insula_store::Paged<T>,
    map: impl FnMut(T) -> U,
) -> insula_wire::rest::Page<U> {
    let next = paged.next.as_ref().map(ToString::to_string);
    insula_wire::rest::Page { items: paged.items.into_iter().map(map).collect(), next }
}

/// An answer with a document, from a handler that only reads.
pub fn shown<T: serde::Serialize>(value: &T) -> Result<Reply, ApiError> {
    Ok(Whole::ok(value)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_body_does_not_repeat_values() {
        for text in [
            r#"invalid type: string "hunter2", expected u32 at line 1 column 5"#,
            r#"invalid type: string "a\"hunter2", expected u32"#,
            r#"unknown variant "hunter2"#,
            "unknown field `hunter2`, expected `value`",
            "unknown field `a`, expected `hunter2`, expected `value`",
        ] {
            assert!(!without_values(text).contains("hunter2"), "{text}");
        }
        let known = "unknown field `vlaue`, expected `value`";
        assert_eq!(without_values(known), known);
        assert_eq!(without_values("`a b` is not a name\x1b"), "`a b` is not a name\u{fffd}");
    }
}
