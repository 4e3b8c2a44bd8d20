//! What goes into a statement and what comes out: the same for every database.
//!
//! Statements number their parameters (`?1`) and use what SQLite and PostgreSQL share. There are
//! three kinds of value; ids and names are text, times and amounts are integers, flags are 0 or 1.

use std::fmt::Display;
use std::str::FromStr;

use insula_model::schema::{self, Document};
use insula_model::{Bytes, Digest, Generation, MilliCpu, Timestamp};
use serde::de::DeserializeOwned;

use crate::error::StoreError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
}

macro_rules! from_text {
    ($($type:ty),* $(,)?) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::Text(value.to_string())
            }
        }
        impl From<&$type> for Value {
            fn from(value: &$type) -> Self {
                Self::Text(value.to_string())
            }
        }
    )*};
}

from_text! {
    insula_model::OrgId, insula_model::UserId, insula_model::TokenId, insula_model::InvitationId,
    insula_model::ProjectId, insula_model::EnvironmentId, insula_model::AppId,
    insula_model::BuildId, insula_model::ReleaseId, insula_model::DeploymentId,
    insula_model::InstanceId, insula_model::RunId, insula_model::NodeId, insula_model::DomainId,
    insula_model::EventId,
    insula_model::OrgName, insula_model::ProjectName, insula_model::EnvironmentName,
    insula_model::AppName, insula_model::ComponentName, insula_model::NodeName,
    insula_model::TokenName, insula_model::HostName, insula_model::VariableName,
    insula_model::Email, insula_model::tenancy::Role, insula_model::tenancy::Actor,
    Digest,
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<u64> for Value {
    /// Databases count to 2^63; nothing of ours is larger and means it.
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Int(value.into())
    }
}

impl From<Timestamp> for Value {
    fn from(value: Timestamp) -> Self {
        Self::Int(value.as_millis())
    }
}

impl From<Generation> for Value {
    fn from(value: Generation) -> Self {
        value.0.into()
    }
}

impl From<Bytes> for Value {
    fn from(value: Bytes) -> Self {
        value.0.into()
    }
}

impl From<MilliCpu> for Value {
    fn from(value: MilliCpu) -> Self {
        value.0.into()
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Blob(value.to_vec())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The parameters of a statement, in order.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$($crate::sql::Value::from($value)),*][..]
    };
}
pub(crate) use params;

/// A row, read from its first column to its last.
pub(crate) struct Row<'s> {
    statement: &'s str,
    values: std::vec::IntoIter<Value>,
    column: usize,
}

impl<'s> Row<'s> {
    pub(crate) fn new(statement: &'s str, values: Vec<Value>) -> Self {
        Self { statement, values: values.into_iter(), column: 0 }
    }

    /// Whatever it is: for those who carry rows and do not read them.
    pub(crate) fn value(&mut self) -> Result<Value, StoreError> {
        self.column += 1;
        self.values.next().ok_or_else(|| self.refuse("the row is shorter"))
    }

    pub(crate) fn refuse(&self, problem: impl Display) -> StoreError {
        StoreError::Column {
            statement: self.statement.to_owned(),
            column: self.column,
            problem: problem.to_string(),
        }
    }

    fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        if self.values.as_slice().first() == Some(&Value::Null) {
            self.value()?;
            return Ok(None);
        }
        read(self).map(Some)
    }

    pub(crate) fn int(&mut self) -> Result<i64, StoreError> {
        match self.value()? {
            Value::Int(value) => Ok(value),
            Value::Null | Value::Text(_) | Value::Blob(_) => Err(self.refuse("not an integer")),
        }
    }

    pub(crate) fn text(&mut self) -> Result<String, StoreError> {
        match self.value()? {
            Value::Text(value) => Ok(value),
            Value::Null | Value::Int(_) | Value::Blob(_) => Err(self.refuse("not a text")),
        }
    }

    pub(crate) fn blob(&mut self) -> Result<Vec<u8>, StoreError> {
        match self.value()? {
            Value::Blob(value) => Ok(value),
            Value::Null | Value::Int(_) | Value::Text(_) => Err(self.refuse("not a blob")),
        }
    }

    pub(crate) fn optional_text(&mut self) -> Result<Option<String>, StoreError> {
        self.optional(Self::text)
    }

    /// An unsigned amount.
    pub(crate) fn amount<T: TryFrom<i64>>(&mut self) -> Result<T, StoreError> {
        let value = self.int()?;
        T::try_from(value).map_err(|_| self.refuse(format_args!("{value} is out of range")))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, StoreError> {
        Ok(self.int()? != 0)
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp, StoreError> {
        Ok(Timestamp::from_millis(self.int()?))
    }

    pub(crate) fn optional_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.optional(Self::time)
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, StoreError> {
        self.amount().map(Bytes)
    }

    pub(crate) fn cpu(&mut self) -> Result<MilliCpu, StoreError> {
        self.amount().map(MilliCpu)
    }

    /// An id, a name: whatever has one spelling.
    pub(crate) fn parse<T: FromStr<Err: Display>>(&mut self) -> Result<T, StoreError> {
        let text = self.text()?;
        text.parse().map_err(|error: T::Err| self.refuse(error))
    }

    pub(crate) fn optional_parse<T: FromStr<Err: Display>>(
        &mut self,
    ) -> Result<Option<T>, StoreError> {
        self.optional(Self::parse)
    }

    /// A versioned document, of whatever schema it was written in.
    pub(crate) fn document<T: Document>(&mut self) -> Result<T, StoreError> {
        Ok(schema::decode(&self.text()?)?)
    }

    pub(crate) fn json<T: DeserializeOwned>(
        &mut self,
        what: &'static str,
    ) -> Result<T, StoreError> {
        let text = self.text()?;
        serde_json::from_str(&text).map_err(|source| StoreError::Json { what, source })
    }
}

pub(crate) fn to_json<T: serde::Serialize>(
    what: &'static str,
    value: &T,
) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Json { what, source })
}

/// A `SELECT` that grows by the conditions that a caller asked for.
///
/// Texts are literals of ours; whatever comes from a caller is bound.
pub(crate) struct Select {
    sql: String,
    params: Vec<Value>,
}

impl Select {
    /// `sql` ends in a condition and numbers as many parameters as it is given.
    pub(crate) fn new(sql: impl Into<String>, params: &[Value]) -> Self {
        Self { sql: sql.into(), params: params.to_vec() }
    }

    /// ` AND condition`, each `?` in it standing for the next value.
    pub(crate) fn and<const N: usize>(&mut self, condition: &'static str, values: [Value; N]) {
        self.sql.push_str(" AND ");
        self.append(condition, values);
    }

    pub(crate) fn and_some<T: Into<Value>>(&mut self, condition: &'static str, value: Option<T>) {
        if let Some(value) = value {
            self.and(condition, [value.into()]);
        }
    }

    /// What comes after the conditions.
    pub(crate) fn then<const N: usize>(&mut self, text: &'static str, values: [Value; N]) {
        self.sql.push(' ');
        self.append(text, values);
    }

    fn append<const N: usize>(&mut self, text: &'static str, values: [Value; N]) {
        for part in text.split_inclusive('?') {
            self.sql.push_str(part);
            if part.ends_with('?') {
                self.params.push(Value::Null);
                self.sql.push_str(&self.params.len().to_string());
            }
        }
        let first = self.params.len() - N;
        for (slot, value) in self.params[first..].iter_mut().zip(values) {
            *slot = value;
        }
    }

    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }

    pub(crate) fn params(&self) -> &[Value] {
        &self.params
    }
}
