//! The HTTP API of a server on the ground, asked in the server's place.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{API, Fleet};
use crate::http::{Answer, Connection};

impl Fleet {
    pub fn operator_token(&self) -> Result<String> {
        let server = self.servers.first().context("no server")?;
        let text = std::fs::read_to_string(server.data.join("operator.json"))?;
        let operator: Value = serde_json::from_str(&text)?;
        Ok(operator["token"].as_str().context("token")?.to_owned())
    }

    /// A request with the operator's token.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        self.api_as(&self.operator_token()?, method, path, body)
    }

    pub fn api_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let server = self.servers.first().context("no server")?;
        let bearer = format!("Bearer {token}");
        let body = body.map(Value::to_string).unwrap_or_default();
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        server.place.inside(|| {
            Connection::open(API.parse()?)?.send(method, API, path, &headers, body.as_bytes())
        })
    }
}
