//! The first start: the operator's credential, and an org with a project and an environment.
//!
//! Everything is made or found, so that it can be done at every start.

use insula_kit::clock::Clock;
use insula_kit::random::Random;
use insula_kit::token::{Token, TokenError};
use insula_model::app::{Environment, Project};
use insula_model::ids::ID_RANDOM_BYTES;
use insula_model::tenancy::{self, Org, Quota, TokenScope};
use insula_model::{
    EnvironmentId, EnvironmentName, NameError, OrgId, OrgName, ProjectId, ProjectName, Timestamp,
    TokenId,
};
use insula_store::{SecretHash, Store, StoreError, Tx, WriteError};
use insula_store::{environments, orgs, projects, tokens};

/// What there is after it.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    pub org: OrgName,
    pub project: ProjectName,
    pub environment: EnvironmentName,
}

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("read the operator's credential")]
    Token(#[from] TokenError),
    #[error("name the first org")]
    Name(#[from] NameError),
    #[error("make the operator's credential and the first org")]
    Write(#[from] WriteError),
}

impl From<StoreError> for BootstrapError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}

impl Bootstrap {
    /// Org `default`, project `default`, environment `production`.
    pub fn usual() -> Result<Self, NameError> {
        Ok(Self {
            org: "default".parse()?,
            project: "default".parse()?,
            environment: "production".parse()?,
        })
    }
}

/// Whether other servers use the store too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// The data folder's file is the operator's only credential: those before it are revoked.
    Alone,
    /// Each server's folder may have one.
    Shared,
}

/// Lets the holder of `token` act as the operator. The first org is made once, when there is none.
pub async fn bootstrap(
    store: &Store,
    clock: &dyn Clock,
    random: &dyn Random,
    token: &str,
    first: Bootstrap,
    company: Company,
) -> Result<(), BootstrapError> {
    let hash = SecretHash(*Token::parse(token)?.hash().as_bytes());
    let name = "operator".parse()?;
    let now = Timestamp::from_millis(clock.now_ms());
    let ids: Vec<[u8; ID_RANDOM_BYTES]> = (0..4)
        .map(|_| {
            let mut bytes = [0; ID_RANDOM_BYTES];
            random.fill(&mut bytes);
            bytes
        })
        .collect();
    store
        .write(move |tx| {
            operator(tx, &hash, &name, now, ids[0], company)?;
            if orgs::count(tx)? == 0 {
                first_org(tx, &first, now, &ids[1..])?;
            }
            Ok(())
        })
        .await
}

fn operator(
    tx: &mut Tx,
    hash: &SecretHash,
    name: &insula_model::TokenName,
    now: Timestamp,
    random: [u8; ID_RANDOM_BYTES],
    company: Company,
) -> Result<(), BootstrapError> {
    let known = tokens::find(tx, hash, now)?;
    let keep = known.as_ref().map(|known| known.token.id);
    let page = insula_store::Page::first(insula_model::limits::PAGE_MAX);
    for other in tokens::list_operator(tx, &page)?.items {
        if company == Company::Alone && Some(other.token.id) != keep {
            tokens::revoke_operator(tx, other.token.id)?;
        }
    }
    if known.is_none() {
        let token = tenancy::Token {
            id: TokenId::from_parts(now, random),
            name: name.clone(),
            scope: TokenScope::Operator,
            created: now,
            expires: None,
        };
        tokens::insert(tx, &token, hash)?;
    }
    Ok(())
}

fn first_org(
    tx: &mut Tx,
    first: &Bootstrap,
    now: Timestamp,
    random: &[[u8; ID_RANDOM_BYTES]],
) -> Result<(), BootstrapError> {
    let org = OrgId::from_parts(now, random[0]);
    let project = ProjectId::from_parts(now, random[1]);
    let environment = EnvironmentId::from_parts(now, random[2]);
    let quota = Quota::default();
    orgs::create(tx, &Org { id: org, name: first.org.clone(), quota, created: now })?;
    projects::create(tx, &Project { id: project, org, name: first.project.clone(), created: now })?;
    let name = first.environment.clone();
    environments::create(tx, &Environment { id: environment, org, project, name, created: now })?;
    Ok(())
}
