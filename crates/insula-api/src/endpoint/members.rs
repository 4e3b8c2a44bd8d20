//! Members of an org and their roles. Nobody gives more than they have.

use insula_model::UserId;
use insula_model::tenancy::Role;
use insula_store::{Tx, WriteError, members};
use insula_wire::problem::Code;
use insula_wire::rest::member::{Member, SetRole};

use crate::access::Standing;
use crate::context::{Cx, page_of, shown};
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{ADMIN, Route, VIEWER, delete, put, read};
use crate::write::Happened;

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/members", "list_members", VIEWER, list)
            .about("The members of an org")
            .paged()
            .answers_page::<Member>(),
        put("/v1/orgs/{org}/members/{user}", "set_role", ADMIN, set_role)
            .about("Gives a member another role, one's own at most")
            .takes::<SetRole>()
            .answers::<Member>(200),
        delete("/v1/orgs/{org}/members/{user}", "remove_member", ADMIN, remove)
            .about("Takes a person out of the org")
            .answers_nothing(),
    ]
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, page) = (cx.org_id()?, cx.page()?);
    let paged = cx.read(move |tx| Ok(members::list(tx, org, &page)?)).await?;
    shown(&page_of(paged, |member| Member::from(&member)))
}

/// Refuses to deal in a role above one's own: an admin neither makes nor unmakes owners.
pub fn within(standing: Standing, role: Role) -> Result<(), ApiError> {
    let own = standing.role();
    if own.is_some_and(|own| role <= own) {
        return Ok(());
    }
    let own = own.map_or("none", Role::as_str);
    Err(ApiError::new(
        Code::Forbidden,
        format!("this concerns the role {role}, and yours is {own}"),
    )
    .hint(format!("ask somebody with the role {role}")))
}

async fn set_role(cx: Cx) -> Result<Reply, ApiError> {
    let asked: SetRole = cx.json()?;
    let (org, standing) = (cx.org_id()?, cx.standing);
    let user: UserId = cx.param("user", "member")?;
    within(standing, asked.role)?;
    cx.write(move |tx, deed| {
        let before = member(tx, org, user)?;
        within(standing, before.role)?;
        members::set_role(tx, org, user, asked.role)?;
        let after = member(tx, org, user)?;
        deed.tell(
            tx,
            Happened {
                kind: "member.role_set",
                subject: user.to_string(),
                message: format!("{} is {} now", after.email, after.role),
                before: Some(serde_json::json!({ "role": before.role })),
                after: Some(serde_json::json!({ "role": after.role })),
                ..Happened::default()
            },
        )?;
        Whole::ok(&Member::from(&after))
    })
    .await
}

async fn remove(cx: Cx) -> Result<Reply, ApiError> {
    let (org, standing) = (cx.org_id()?, cx.standing);
    let user: UserId = cx.param("user", "member")?;
    cx.write(move |tx, deed| {
        let before = member(tx, org, user)?;
        within(standing, before.role)?;
        members::remove(tx, org, user)?;
        deed.tell(
            tx,
            Happened {
                kind: "member.removed",
                subject: user.to_string(),
                message: format!("{} is no member any more", before.email),
                before: Some(serde_json::json!({ "role": before.role })),
                ..Happened::default()
            },
        )?;
        Ok(Whole::nothing())
    })
    .await
}

fn member(
    tx: &Tx,
    org: insula_model::OrgId,
    user: UserId,
) -> Result<insula_model::tenancy::Member, ApiError> {
    let missing = WriteError::NotFound { kind: insula_store::Kind::Member };
    Ok(members::get(tx, org, user)?.ok_or(missing)?)
}
