//! Answers that went well.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use insula_kit::digest::{hex, sha256};
use serde::Serialize;

use crate::error::ApiError;

#[derive(Debug)]
pub enum Reply {
    /// A whole answer, which can be kept and repeated.
    Whole(Whole),
    /// One that was kept under an `Idempotency-Key`, now or before.
    Kept { whole: Whole, replayed: bool },
    /// Anything else: streams.
    Raw(Response),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub status: u16,
    pub body: Bytes,
    pub media_type: &'static str,
    pub etag: Option<String>,
}

pub const JSON: &str = "application/json";

impl Whole {
    pub fn json<T: Serialize>(status: u16, value: &T) -> Result<Self, ApiError> {
        let body = serde_json::to_vec(value).map_err(ApiError::internal)?;
        Ok(Self { status, body: body.into(), media_type: JSON, etag: None })
    }

    pub fn ok<T: Serialize>(value: &T) -> Result<Self, ApiError> {
        Self::json(200, value)
    }

    pub fn created<T: Serialize>(value: &T) -> Result<Self, ApiError> {
        Self::json(201, value)
    }

    pub fn nothing() -> Self {
        Self { status: 204, body: Bytes::new(), media_type: JSON, etag: None }
    }

    /// With the tag of this very document.
    pub fn tagged(mut self) -> Self {
        self.etag = Some(etag_of(&self.body));
        self
    }
}

/// The tag of a document as it is shown: it changes when the document does.
pub fn etag_of(body: &[u8]) -> String {
    format!("\"{}\"", &hex(&sha256(body))[..32])
}

impl From<Whole> for Reply {
    fn from(whole: Whole) -> Self {
        Self::Whole(whole)
    }
}

impl From<Reply> for Response {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Raw(response) => response,
            Reply::Kept { whole, replayed } => {
                let mut response = Self::from(Reply::Whole(whole));
                if replayed {
                    let name = HeaderName::from_static("idempotency-replayed");
                    response.headers_mut().insert(name, HeaderValue::from_static("true"));
                }
                response
            }
            Reply::Whole(whole) => {
                let mut response = Self::new(Body::from(whole.body));
                *response.status_mut() =
                    StatusCode::from_u16(whole.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let headers = response.headers_mut();
                if whole.status != 204 {
                    let media_type = HeaderValue::from_static(whole.media_type);
                    headers.insert(header::CONTENT_TYPE, media_type);
                }
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                if let Some(tag) = whole.etag.and_then(|tag| HeaderValue::from_str(&tag).ok()) {
                    headers.insert(header::ETAG, tag);
                }
                response
            }
        }
    }
}
