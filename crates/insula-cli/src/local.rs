//! The installation on this machine, as the binary itself asks it: with the operator's credential,
//! over the same API as everybody else. Decides nothing and prints nothing.

use std::path::Path;

use insula_model::NodeId;
use insula_wire::problem::Code;
use insula_wire::rest::node::Node;

use crate::client::{Client, ClientError, Server, Target};
use crate::credentials;

#[derive(Debug)]
pub struct Local {
    client: Client,
}

#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("find the operator's credential: {0}")]
    Credential(String),
    #[error("ask the API on this machine")]
    Asked(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Local {
    /// Of this data folder, once its server has answered for the first time.
    pub fn at(data: &Path) -> Result<Self, LocalError> {
        let found = credentials::operator(data, true);
        let found = found.map_err(|failure| LocalError::Credential(failure.message))?;
        let Some(operator) = found else {
            return Err(LocalError::Credential("there is none".into()));
        };
        let server: Server =
            operator.server.parse().map_err(|error| LocalError::Asked(Box::new(error)))?;
        let client = Client::new(server, Some(&operator.token), false, Box::new(|_| ()));
        Ok(Self { client: client.map_err(asked)? })
    }

    /// The node as the server that decides sees it; nothing if it knows none of this id.
    pub async fn node(&self, id: NodeId) -> Result<Option<Node>, LocalError> {
        match self.client.get(&Target::v1(&["nodes", &id.to_string()])).await {
            Ok(node) => Ok(Some(node)),
            Err(error) if error.code() == Some(Code::NotFound.as_str()) => Ok(None),
            Err(error) => Err(asked(error)),
        }
    }
}

fn asked(error: ClientError) -> LocalError {
    LocalError::Asked(Box::new(error))
}
