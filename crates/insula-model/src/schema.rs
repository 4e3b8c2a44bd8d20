//! Stored documents carry `schema = N`; old ones are read through upcasters.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::build::Build;
use crate::deployment::Deployment;
use crate::instance::{Instance, Run};
use crate::release::Release;
use crate::routes::RouteTable;
use crate::target::NodeTarget;

/// A type that is stored or sent as a document.
pub trait Document: Serialize + DeserializeOwned {
    /// For error texts: "release".
    const KIND: &'static str;
    /// What is written today.
    const SCHEMA: u64;
    /// Turns a document of `schema` into one of `schema + 1`. Asked only for `1..SCHEMA`.
    fn upcast(schema: u64, document: Map<String, Value>) -> Map<String, Value>;
}

#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("read a {kind}: it is not a JSON document with a schema number")]
    Shape { kind: &'static str },
    #[error("read a {kind} of schema {found}: this version knows 1 to {known}")]
    Newer { kind: &'static str, found: u64, known: u64 },
    #[error("read a {kind} of schema {schema}")]
    Content { kind: &'static str, schema: u64, source: serde_json::Error },
}

pub fn encode<T: Document>(value: &T) -> Result<String, DocumentError> {
    let content = |source| DocumentError::Content { kind: T::KIND, schema: T::SCHEMA, source };
    let mut document = match serde_json::to_value(value).map_err(content)? {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            return Err(DocumentError::Shape { kind: T::KIND });
        }
    };
    document.insert("schema".into(), T::SCHEMA.into());
    serde_json::to_string(&document).map_err(content)
}

pub fn decode<T: Document>(text: &str) -> Result<T, DocumentError> {
    let shape = || DocumentError::Shape { kind: T::KIND };
    let Ok(Value::Object(mut document)) = serde_json::from_str(text) else { return Err(shape()) };
    let schema = document.remove("schema").and_then(|s| s.as_u64()).ok_or_else(shape)?;
    if schema == 0 || schema > T::SCHEMA {
        return Err(DocumentError::Newer { kind: T::KIND, found: schema, known: T::SCHEMA });
    }
    for step in schema..T::SCHEMA {
        document = T::upcast(step, document);
    }
    serde_json::from_value(Value::Object(document)).map_err(|source| DocumentError::Content {
        kind: T::KIND,
        schema,
        source,
    })
}

macro_rules! first_schema {
    ($($type:ty = $kind:literal;)*) => {$(
        impl Document for $type {
            const KIND: &'static str = $kind;
            const SCHEMA: u64 = 1;
            fn upcast(_: u64, document: Map<String, Value>) -> Map<String, Value> {
                document
            }
        }
    )*};
}

first_schema! {
    Build = "build";
    Deployment = "deployment";
    Instance = "instance";
    Run = "run";
    Release = "release";
    NodeTarget = "node target";
    RouteTable = "route table";
}
