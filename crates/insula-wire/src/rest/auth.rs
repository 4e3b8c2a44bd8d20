//! Signing in and out, who one is, and passwords.

use insula_model::tenancy::Role;
use insula_model::{Email, OrgId, OrgName, Timestamp, TokenName, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::Hidden;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    #[schema(value_type = String, format = Email)]
    pub email: Email,
    #[schema(value_type = String, format = Password)]
    pub password: Hidden,
}

/// The token is shown here and never again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedIn {
    #[schema(value_type = String)]
    pub token: Hidden,
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    #[schema(value_type = String)]
    pub user: UserId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Whoami {
    /// As events name this caller: a user's id, a token's id, or `operator`.
    pub actor: String,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    /// Of the token, if it is one of an org.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<TokenName>,
    pub operator: bool,
    pub orgs: Vec<OrgRole>,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrgRole {
    #[schema(value_type = String)]
    pub id: OrgId,
    #[schema(value_type = String)]
    pub name: OrgName,
    /// `viewer`, `developer`, `admin` or `owner`.
    pub role: String,
}

impl OrgRole {
    pub fn new(id: OrgId, name: OrgName, role: Role) -> Self {
        Self { id, name, role: role.as_str().into() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    #[schema(value_type = String, format = Password)]
    pub current: Hidden,
    #[schema(value_type = String, format = Password)]
    pub new: Hidden,
}

/// Whoever holds the secret of an invitation becomes a member, and a user if they are none yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptInvitation {
    #[schema(value_type = String)]
    pub secret: Hidden,
    /// The new user's password; that of the user who exists already, otherwise.
    #[schema(value_type = String, format = Password)]
    pub password: Hidden,
}
