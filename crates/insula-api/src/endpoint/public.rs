//! What everybody may see: that it lives, what it can do, and what its errors mean.

use std::sync::OnceLock;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use insula_wire::problem;
use insula_wire::rest::status::Health;

use crate::context::{Cx, shown};
use crate::error::ApiError;
use crate::reply::{JSON, Reply, Whole};
use crate::route::{Route, Rule, read};

pub fn routes() -> Vec<Route> {
    vec![
        read("/healthz", "health", Rule::Public, health)
            .about("Whether the server answers")
            .answers::<Health>(200),
        read("/openapi.json", "openapi", Rule::Public, openapi)
            .about("This document")
            .answers_object(),
        read("/errors/{code}", "explain_error", Rule::Public, page)
            .about("What an error code, or `cause-` and the code of a failure, means")
            .answers_text("text/markdown"),
    ]
}

async fn health(_: Cx) -> Result<Reply, ApiError> {
    shown(&Health { status: "ok".into() })
}

async fn openapi(_: Cx) -> Result<Reply, ApiError> {
    // It never changes while the process lives, and strangers may ask for it.
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let body = DOCUMENT.get_or_init(|| crate::openapi().to_string().into()).clone();
    Ok(Whole { status: 200, body, media_type: JSON, etag: None }.into())
}

async fn page(cx: Cx) -> Result<Reply, ApiError> {
    let name = cx.params.get("code").map_or("", String::as_str);
    let page = problem::page(name).ok_or_else(|| ApiError::not_found("error code"))?;
    Ok(text("text/markdown; charset=utf-8", page.into()))
}

fn text(media_type: &'static str, text: String) -> Reply {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    Reply::Raw(response)
}

/// For lists that are always whole.
pub fn whole_list<T: serde::Serialize>(items: Vec<T>) -> Result<Reply, ApiError> {
    Ok(Whole::ok(&insula_wire::rest::Page::whole(items))?.into())
}
