//! Ids that join what different processes say about one thing: W3C trace ids and request ids.
//!
//! Not a tracing system: ids and the `traceparent` header alone. What crosses a socket is parsed
//! here once; a header that is wrong is dropped by the caller, never passed on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{hex, unhex};
use crate::random::Random;

/// Long enough for any UUID or ULID with a prefix; longer ones only fill logs.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// 32 hexadecimal digits, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceId([u8; 16]);

/// 16 hexadecimal digits, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId([u8; 8]);

/// The `traceparent` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: TraceId,
    pub span: SpanId,
    pub sampled: bool,
}

/// One HTTP request, as its answer and our logs name it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("a trace id is 32 lower-case hexadecimal digits, not all zero")]
    TraceId,
    #[error("not a traceparent header")]
    TraceParent,
    #[error("a request id is 1 to {REQUEST_ID_BYTES_MAX} letters, digits, `-`, `_` or `.`")]
    RequestId,
}

/// The span that carries both ids into every line logged inside it.
pub fn request_span(trace: TraceId, request: &RequestId) -> tracing::Span {
    tracing::info_span!("request", trace_id = %trace, request_id = %request)
}

impl TraceId {
    pub fn random(random: &dyn Random) -> Self {
        Self(random_nonzero(random))
    }
}

impl SpanId {
    pub fn random(random: &dyn Random) -> Self {
        Self(random_nonzero(random))
    }
}

impl TraceParent {
    /// Begins a trace of our own.
    pub fn random(random: &dyn Random) -> Self {
        Self { trace: TraceId::random(random), span: SpanId::random(random), sampled: true }
    }

    /// The same trace, one step further: what to send on.
    #[must_use]
    pub fn child(self, random: &dyn Random) -> Self {
        Self { span: SpanId::random(random), ..self }
    }
}

impl RequestId {
    pub fn random(random: &dyn Random) -> Self {
        Self(format!("req_{}", hex(&random_nonzero::<12>(random))))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TraceId {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        unhex(text).filter(|bytes| *bytes != [0; 16]).map(Self).ok_or(TraceError::TraceId)
    }
}

impl FromStr for TraceParent {
    type Err = TraceError;

    /// Version 00 exactly; a later version may have more fields at its end (W3C, §3.2.2).
    fn from_str(text: &str) -> Result<Self, TraceError> {
        let mut fields = text.split('-');
        let mut field = || fields.next().ok_or(TraceError::TraceParent);
        let [version] = unhex::<1>(field()?).ok_or(TraceError::TraceParent)?;
        let trace = field()?.parse()?;
        let span = unhex(field()?).filter(|bytes| *bytes != [0; 8]).map(SpanId);
        let [flags] = unhex::<1>(field()?).ok_or(TraceError::TraceParent)?;
        let longer = fields.next().is_some();
        if version == 0xff || (version == 0 && longer) {
            return Err(TraceError::TraceParent);
        }
        Ok(Self { trace, span: span.ok_or(TraceError::TraceParent)?, sampled: flags & 1 == 1 })
    }
}

impl FromStr for RequestId {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if text.is_empty() || text.len() > REQUEST_ID_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(TraceError::RequestId);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for TraceId {
    type Error = TraceError;

    fn try_from(text: String) -> Result<Self, TraceError> {
        text.parse()
    }
}

impl From<TraceId> for String {
    fn from(id: TraceId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for RequestId {
    type Error = TraceError;

    fn try_from(text: String) -> Result<Self, TraceError> {
        text.parse()
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> Self {
        id.0
    }
}

/// W3C gives all zeroes the meaning "none".
fn random_nonzero<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    while bytes == [0; N] {
        random.fill(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_comes_back_as_it_went() {
        let parent: TraceParent = HEADER.parse().unwrap();
        assert_eq!(parent.to_string(), HEADER);
        assert_eq!(parent.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let child = parent.child(&SeededRandom::new(1));
        assert_eq!(child.trace, parent.trace);
        assert_ne!(child.span, parent.span);
        let own = TraceParent::random(&SeededRandom::new(2));
        assert_eq!(own.to_string().parse(), Ok(own));
    }

    #[test]
    fn a_later_version_may_be_longer_and_this_one_may_not() {
        let later = HEADER.replacen("00-", "cc-", 1) + "-what-comes";
        assert!(later.parse::<TraceParent>().is_ok());
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
        ] {
            assert!(wrong.parse::<TraceParent>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_request_id_cannot_break_a_line_or_a_header() {
        assert!("abc-DEF_1.2".parse::<RequestId>().is_ok());
        let own = RequestId::random(&SeededRandom::new(3));
        assert_eq!(own.as_str().parse(), Ok(own.clone()));
        for wrong in ["", "a b", "a\r\nX: y", "\u{1b}[31m", "ä", &"x".repeat(65)] {
            assert!(wrong.parse::<RequestId>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn ids_are_strings_in_json_and_checked_on_the_way_in() {
        let id: TraceId = "4bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap();
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, "\"4bf92f3577b34da6a3ce929d0e0e4736\"");
        assert_eq!(serde_json::from_str::<TraceId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<RequestId>("\"a b\"").is_err());
    }
}
