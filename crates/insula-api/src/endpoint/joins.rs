//! Tokens with which nodes and gateways join the fleet, for the operator.

use insula_kit::token::Token as TokenText;
use insula_model::JoinId;
use insula_model::fleet::{self, JoinGrant};
use insula_model::limits::{JOIN_TIME_DEFAULT, JOIN_TIME_MAX, NODE_LABELS_MAX};
use insula_model::node::Site;
use insula_store::{SecretHash, joins};
use insula_wire::problem::Code;
use insula_wire::rest::join::{CreateJoin, Join, JoinCreated, JoinRole};
use insula_wire::rest::page::Hidden;

use crate::context::{Cx, page_of, shown};
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{Route, Rule, delete, post, read};
use crate::write::Happened;

/// What the secret part of a join token begins with.
const PREFIX: &str = "insj";

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/joins", "list_joins", Rule::Operator, list)
            .about("Tokens to join with, without their text")
            .paged()
            .answers_page::<Join>(),
        post("/v1/joins", "create_join", Rule::Operator, create)
            .about("Makes a token with which one node or gateway joins: its text is shown once")
            .takes::<CreateJoin>()
            .answers::<JoinCreated>(201),
        delete("/v1/joins/{join}", "delete_join", Rule::Operator, revoke)
            .about("Revokes a token that was not used yet")
            .answers_nothing(),
    ]
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let page = cx.page()?;
    let paged = cx.read(move |tx| Ok(joins::list(tx, &page)?)).await?;
    shown(&page_of(paged, |join| Join::from(&join)))
}

async fn create(cx: Cx) -> Result<Reply, ApiError> {
    let asked: CreateJoin = cx.json()?;
    let now = cx.now();
    let expires = asked.expires.unwrap_or(now.plus(JOIN_TIME_DEFAULT));
    if expires <= now {
        return Err(ApiError::field("expires", "this moment has passed"));
    }
    if expires > now.plus(JOIN_TIME_MAX) {
        return Err(ApiError::field("expires", format!("a token lasts {JOIN_TIME_MAX} at most")));
    }
    if asked.labels.len() > NODE_LABELS_MAX {
        let text = format!("a node has {NODE_LABELS_MAX} labels at most");
        return Err(ApiError::field("labels", text));
    }
    let fleet = &cx.api.state.fleet;
    let (servers, Some(fingerprint)) = (fleet.servers(), fleet.fingerprint()) else {
        return Err(ApiError::new(Code::Unavailable, "the fleet's authority is not ready yet")
            .retry_after_s(1));
    };
    cx.write(move |tx, deed| {
        let text = TokenText::generate(PREFIX, &*deed.random);
        let join = fleet::Join {
            id: deed.id(JoinId::from_parts),
            grants: grant(&asked),
            created: deed.now,
            expires,
            used: None,
        };
        joins::create(tx, &join, &SecretHash(*text.hash().as_bytes()))?;
        let what = match asked.role {
            JoinRole::Node => "a node",
            JoinRole::Gateway => "a gateway",
        };
        deed.tell(
            tx,
            Happened {
                kind: "join.created",
                subject: join.id.to_string(),
                message: format!("a token for {what} to join was made, until {expires}"),
                ..Happened::default()
            },
        )?;
        // The text names the authority, so that who joins knows whom it speaks to.
        let secret = Hidden(format!("{}.{fingerprint}", text.expose()));
        let join = Join::from(&join);
        Whole::created(&JoinCreated { join, secret, servers: servers.clone() })
    })
    .await
}

fn grant(asked: &CreateJoin) -> JoinGrant {
    match asked.role {
        JoinRole::Gateway => JoinGrant::Gateway,
        JoinRole::Node => JoinGrant::Node {
            name: asked.name.clone(),
            site: Site {
                pool: asked.pool.clone(),
                zone: asked.zone.clone(),
                labels: asked.labels.clone(),
            },
        },
    }
}

async fn revoke(cx: Cx) -> Result<Reply, ApiError> {
    let id: JoinId = cx.param("join", "token to join with")?;
    cx.write(move |tx, deed| {
        joins::delete(tx, id)?;
        deed.tell(
            tx,
            Happened {
                kind: "join.deleted",
                subject: id.to_string(),
                message: "a token to join with was revoked".into(),
                ..Happened::default()
            },
        )?;
        Ok(Whole::nothing())
    })
    .await
}
