//! Who asks, and whether they may: the one place where that is decided.
//!
//! `decide` is a pure function over the rule of a route, the caller, and the caller's role in the
//! org of the path. What is not yours is not there: a foreign org answers like a missing one.

use insula_model::tenancy::{Actor, Role};
use insula_model::{Email, OrgId, Timestamp, TokenId, UserId};
use insula_wire::problem::Code;

use crate::error::ApiError;
use crate::route::Rule;

/// Somebody with a valid credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub token: TokenId,
    pub kind: CallerKind,
    pub expires: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerKind {
    /// By the credential of the first start.
    Operator,
    Person {
        user: UserId,
        email: Email,
        operator: bool,
    },
    Machine {
        org: OrgId,
        role: Role,
    },
}

impl Caller {
    pub fn actor(&self) -> Actor {
        match &self.kind {
            CallerKind::Operator => Actor::Operator,
            CallerKind::Person { user, .. } => Actor::User(*user),
            CallerKind::Machine { .. } => Actor::Token(self.token),
        }
    }

    pub fn is_operator(&self) -> bool {
        match &self.kind {
            CallerKind::Operator => true,
            CallerKind::Person { operator, .. } => *operator,
            CallerKind::Machine { .. } => false,
        }
    }

    pub fn person(&self) -> Option<UserId> {
        match &self.kind {
            CallerKind::Person { user, .. } => Some(*user),
            CallerKind::Operator | CallerKind::Machine { .. } => None,
        }
    }
}

/// Where the caller stands toward the org of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is no such org, or the caller has nothing to do with it.
    None,
    Role(Role),
    Operator,
}

impl Standing {
    /// The role as which the caller acts.
    pub fn role(self) -> Option<Role> {
        match self {
            Self::None => None,
            Self::Role(role) => Some(role),
            Self::Operator => Some(Role::Owner),
        }
    }
}

/// Whether a route with this rule may be used.
pub fn decide(rule: Rule, caller: Option<&Caller>, standing: Standing) -> Result<(), ApiError> {
    if rule == Rule::Public {
        return Ok(());
    }
    let Some(caller) = caller else { return Err(unauthenticated("no credential was sent")) };
    match rule {
        Rule::Public | Rule::SignedIn => Ok(()),
        Rule::Person if caller.person().is_some() => Ok(()),
        Rule::Person => Err(forbidden("only a person who has signed in may do this")),
        Rule::Operator if caller.is_operator() => Ok(()),
        Rule::Operator => Err(forbidden("only the operator of the installation may do this")),
        Rule::Org(least) => match standing {
            Standing::None => Err(ApiError::no_such_org()),
            Standing::Operator => Ok(()),
            Standing::Role(role) if role >= least => Ok(()),
            Standing::Role(role) => {
                Err(forbidden(format!("this takes the role {least}, and yours here is {role}"))
                    .hint("ask an owner or admin of the org"))
            }
        },
        Rule::OperatorOfOrg => match standing {
            Standing::None => Err(ApiError::no_such_org()),
            Standing::Operator => Ok(()),
            Standing::Role(_) => {
                Err(forbidden("only the operator of the installation may do this"))
            }
        },
    }
}

pub fn unauthenticated(detail: impl Into<String>) -> ApiError {
    ApiError::new(Code::Unauthenticated, detail)
        .hint("sign in with `insula login`, or send `Authorization: Bearer <token>`")
}

fn forbidden(detail: impl Into<String>) -> ApiError {
    ApiError::new(Code::Forbidden, detail)
}
