//! Invitations: a secret that is shown once makes a person a member.

use insula_kit::token::Token as TokenText;
use insula_model::tenancy;
use insula_model::{InvitationId, Millis};
use insula_store::{SecretHash, invitations};
use insula_wire::rest::member::{CreateInvitation, Invitation, InvitationCreated};
use insula_wire::rest::page::Hidden;

use crate::context::{Cx, page_of, shown};
use crate::endpoint::members::within;
use crate::error::ApiError;
use crate::limits::INVITATION_DAYS;
use crate::reply::{Reply, Whole};
use crate::route::{ADMIN, Route, delete, post, read};
use crate::write::Happened;

/// What an invitation's secret begins with.
const PREFIX: &str = "insi";

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/invitations", "list_invitations", ADMIN, list)
            .about("Invitations that were not accepted yet")
            .paged()
            .answers_page::<Invitation>(),
        post("/v1/orgs/{org}/invitations", "create_invitation", ADMIN, create)
            .about("Invites a person: the secret is shown once")
            .takes::<CreateInvitation>()
            .answers::<InvitationCreated>(201),
        delete("/v1/orgs/{org}/invitations/{invitation}", "delete_invitation", ADMIN, withdraw)
            .about("Withdraws an invitation")
            .answers_nothing(),
    ]
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, page) = (cx.org_id()?, cx.page()?);
    let paged = cx.read(move |tx| Ok(invitations::list(tx, org, &page)?)).await?;
    shown(&page_of(paged, |invitation| Invitation::from(&invitation)))
}

async fn create(cx: Cx) -> Result<Reply, ApiError> {
    let asked: CreateInvitation = cx.json()?;
    let org = cx.org_id()?;
    within(cx.standing, asked.role)?;
    cx.write(move |tx, deed| {
        let text = TokenText::generate(PREFIX, &*deed.random);
        let invitation = tenancy::Invitation {
            id: deed.id(InvitationId::from_parts),
            org,
            email: asked.email.clone(),
            role: asked.role,
            invited_by: deed.actor.clone(),
            created: deed.now,
            expires: deed.now.plus(Millis::secs(INVITATION_DAYS * 24 * 3_600)),
        };
        invitations::create(tx, &invitation, &SecretHash(*text.hash().as_bytes()))?;
        deed.tell(
            tx,
            Happened {
                kind: "invitation.created",
                subject: invitation.id.to_string(),
                message: format!("{} was invited as {}", invitation.email, invitation.role),
                ..Happened::default()
            },
        )?;
        let secret = Hidden(text.expose().to_owned());
        Whole::created(&InvitationCreated { invitation: Invitation::from(&invitation), secret })
    })
    .await
}

async fn withdraw(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org_id()?;
    let id: InvitationId = cx.param("invitation", "invitation")?;
    cx.write(move |tx, deed| {
        invitations::revoke(tx, org, id)?;
        deed.tell(
            tx,
            Happened {
                kind: "invitation.deleted",
                subject: id.to_string(),
                message: "an invitation was withdrawn".into(),
                ..Happened::default()
            },
        )?;
        Ok(Whole::nothing())
    })
    .await
}
