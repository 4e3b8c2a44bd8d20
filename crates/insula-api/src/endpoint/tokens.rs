//! Tokens of an org: the credentials of its machines.

use insula_kit::token::Token as TokenText;
use insula_model::TokenId;
use insula_model::tenancy::{self, TokenScope};
use insula_store::{SecretHash, tokens};
use insula_wire::rest::page::Hidden;
use insula_wire::rest::token::{CreateToken, Token, TokenCreated};

use crate::context::{Cx, page_of, shown};
use crate::endpoint::members::within;
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{ADMIN, Route, delete, post, read};
use crate::write::Happened;

/// What a machine's token begins with.
const PREFIX: &str = "inst";

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/tokens", "list_tokens", ADMIN, list)
            .about("The org's tokens, without their text")
            .paged()
            .answers_page::<Token>(),
        post("/v1/orgs/{org}/tokens", "create_token", ADMIN, create)
            .about("Makes a token: its text is shown once")
            .takes::<CreateToken>()
            .answers::<TokenCreated>(201),
        delete("/v1/orgs/{org}/tokens/{token}", "delete_token", ADMIN, revoke)
            .about("Revokes a token, at once")
            .answers_nothing(),
    ]
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, page) = (cx.org_id()?, cx.page()?);
    let paged = cx.read(move |tx| Ok(tokens::list(tx, org, &page)?)).await?;
    shown(&page_of(paged, |known| Token::from(&known.token)))
}

async fn create(cx: Cx) -> Result<Reply, ApiError> {
    let asked: CreateToken = cx.json()?;
    let org = cx.org_id()?;
    within(cx.standing, asked.role)?;
    if asked.expires.is_some_and(|expires| expires <= cx.now()) {
        return Err(ApiError::field("expires", "this moment has passed"));
    }
    cx.write(move |tx, deed| {
        let text = TokenText::generate(PREFIX, &*deed.random);
        let token = tenancy::Token {
            id: deed.id(TokenId::from_parts),
            name: asked.name.clone(),
            scope: TokenScope::Org { org, role: asked.role },
            created: deed.now,
            expires: asked.expires,
        };
        tokens::insert(tx, &token, &SecretHash(*text.hash().as_bytes()))?;
        deed.tell(
            tx,
            Happened {
                kind: "token.created",
                subject: token.id.to_string(),
                message: format!("the token {} was made, as {}", token.name, asked.role),
                ..Happened::default()
            },
        )?;
        let secret = Hidden(text.expose().to_owned());
        Whole::created(&TokenCreated { token: Token::from(&token), secret })
    })
    .await
}

async fn revoke(cx: Cx) -> Result<Reply, ApiError> {
    let (org, standing) = (cx.org_id()?, cx.standing);
    let id: TokenId = cx.param("token", "token")?;
    cx.write(move |tx, deed| {
        let known = tokens::get(tx, org, id)?.ok_or_else(|| ApiError::not_found("token"))?;
        if let TokenScope::Org { role, .. } = known.token.scope {
            within(standing, role)?;
        }
        tokens::revoke(tx, org, id)?;
        deed.tell(
            tx,
            Happened {
                kind: "token.deleted",
                subject: id.to_string(),
                message: format!("the token {} was revoked", known.token.name),
                ..Happened::default()
            },
        )?;
        Ok(Whole::nothing())
    })
    .await
}
