//! The API of one server of the fleet, asked in its place while others are hurt.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::fleet::ground::Place;
use crate::fleet::process::Role;
use crate::http::{Answer, Connection};

#[derive(Debug, Clone)]
pub struct Asker {
    pub place: Place,
    api: SocketAddr,
    bearer: String,
}

impl Asker {
    /// As the operator, whose token stands in the data folder.
    pub fn of(role: &Role) -> Result<Self> {
        let operator: Value =
            serde_json::from_str(&std::fs::read_to_string(role.data.join("operator.json"))?)?;
        let text = |name: &str| {
            operator[name].as_str().with_context(|| format!("no {name} in operator.json"))
        };
        let api = text("server")?.trim_start_matches("http://").parse()?;
        let bearer = format!("Bearer {}", text("token")?);
        Ok(Self { place: role.place.clone(), api, bearer })
    }

    /// To be called from within the place.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let headers =
            [("Authorization", self.bearer.as_str()), ("Content-Type", "application/json")];
        let host = self.api.to_string();
        Connection::open(self.api)?.send(method, &host, path, &headers, body.as_bytes())
    }

    /// The id of the server that decides, as this one knows it. To be called from within the place.
    pub fn leader(&self) -> Result<Option<String>> {
        let status: Value = serde_json::from_slice(&self.ask("GET", "/v1/status", "")?.body)?;
        let servers = status["servers"].as_array().context("servers")?;
        let leads = servers.iter().find(|one| one["leads"] == true);
        Ok(leads.and_then(|one| one["id"].as_str()).map(str::to_owned))
    }
}

/// Which of several servers this is.
pub fn id(role: &Role) -> Result<String> {
    let text = std::fs::read_to_string(role.data.join("server/id.json"))?;
    let said: Value = serde_json::from_str(&text)?;
    Ok(said["server"].as_str().context("the server's id")?.to_owned())
}
