//! Tokens of an org: credentials of machines.

use insula_model::tenancy::{self, Role, TokenScope};
use insula_model::{Timestamp, TokenId, TokenName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::Hidden;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    #[schema(value_type = String)]
    pub id: TokenId,
    #[schema(value_type = String)]
    pub name: TokenName,
    /// Nothing for what is not a token of an org.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    #[schema(value_type = String)]
    pub name: TokenName,
    /// At most the role of whoever makes it.
    #[schema(value_type = String)]
    pub role: Role,
    /// Never, if it is not given.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// The secret is shown here and never again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    pub token: Token,
    #[schema(value_type = String)]
    pub secret: Hidden,
}

impl From<&tenancy::Token> for Token {
    fn from(token: &tenancy::Token) -> Self {
        let role = match &token.scope {
            TokenScope::Org { role, .. } => Some(role.as_str().into()),
            TokenScope::Session { .. } | TokenScope::Operator => None,
        };
        Self {
            id: token.id,
            name: token.name.clone(),
            role,
            created: token.created,
            expires: token.expires,
        }
    }
}
