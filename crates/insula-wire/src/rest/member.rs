//! Members of an org, and invitations to it.

use insula_model::tenancy::{self, Role};
use insula_model::{Email, InvitationId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::Hidden;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    #[schema(value_type = String)]
    pub user: UserId,
    #[schema(value_type = String, format = Email)]
    pub email: Email,
    pub role: String,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRole {
    /// `viewer`, `developer`, `admin` or `owner`.
    #[schema(value_type = String)]
    pub role: Role,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    #[schema(value_type = String)]
    pub id: InvitationId,
    #[schema(value_type = String, format = Email)]
    pub email: Email,
    pub role: String,
    pub invited_by: String,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateInvitation {
    #[schema(value_type = String, format = Email)]
    pub email: Email,
    #[schema(value_type = String)]
    pub role: Role,
}

/// The secret is shown here and never again; hand it to the person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InvitationCreated {
    pub invitation: Invitation,
    #[schema(value_type = String)]
    pub secret: Hidden,
}

impl From<&tenancy::Member> for Member {
    fn from(member: &tenancy::Member) -> Self {
        Self {
            user: member.user,
            email: member.email.clone(),
            role: member.role.as_str().into(),
            since: member.since,
        }
    }
}

impl From<&tenancy::Invitation> for Invitation {
    fn from(invitation: &tenancy::Invitation) -> Self {
        Self {
            id: invitation.id,
            email: invitation.email.clone(),
            role: invitation.role.as_str().into(),
            invited_by: invitation.invited_by.to_string(),
            created: invitation.created,
            expires: invitation.expires,
        }
    }
}
