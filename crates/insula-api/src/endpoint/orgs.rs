//! Orgs: made and bounded by the operator, ended by an owner.

use insula_model::OrgId;
use insula_model::tenancy::{self, Quota};
use insula_store::{Tx, WriteError, members, orgs, quotas};
use insula_wire::problem::Code;
use insula_wire::rest::org::{CreateOrg, KeyRotated, Org, Quota as WireQuota, SetQuota, Usage};

use crate::access::CallerKind;
use crate::bootstrap::Bootstrap;
use crate::context::{Cx, page_of, shown};
use crate::endpoint::projects;
use crate::endpoint::public::whole_list;
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{OWNER, Route, Rule, VIEWER, delete, post, put, read};
use crate::write::Happened;

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs", "list_orgs", Rule::SignedIn, list)
            .about("The orgs that one may see")
            .paged()
            .answers_page::<Org>(),
        post("/v1/orgs", "create_org", Rule::Operator, create)
            .about("Makes an org, with the project `default` and its environment `production`")
            .takes::<CreateOrg>()
            .answers::<Org>(201),
        read("/v1/orgs/{org}", "show_org", VIEWER, show)
            .about("An org, by id or name")
            .answers::<Org>(200),
        delete("/v1/orgs/{org}", "delete_org", OWNER, end)
            .about("Ends an org that has no apps")
            .answers_nothing(),
        read("/v1/orgs/{org}/usage", "show_usage", VIEWER, usage)
            .about("What the org uses, beside what it may")
            .answers::<Usage>(200),
        read("/v1/orgs/{org}/quota", "show_quota", VIEWER, show_quota)
            .about("What the org may use at once")
            .answers::<WireQuota>(200),
        put("/v1/orgs/{org}/quota", "set_quota", Rule::OperatorOfOrg, set_quota)
            .about("Sets what the org may use at once")
            .conditional()
            .takes::<SetQuota>()
            .answers::<WireQuota>(200),
        post("/v1/orgs/{org}/data-key/rotate", "rotate_data_key", OWNER, rotate)
            .about("Seals all secrets of the org with a new key")
            .answers::<KeyRotated>(200),
    ]
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let caller = cx.caller()?.clone();
    let page = cx.page()?;
    if caller.is_operator() {
        let paged = cx.read(move |tx| Ok(orgs::list(tx, &page)?)).await?;
        return shown(&page_of(paged, |org| Org::from(&org)));
    }
    let ids: Vec<OrgId> = match caller.kind {
        CallerKind::Operator => Vec::new(),
        CallerKind::Machine { org, .. } => vec![org],
        CallerKind::Person { user, .. } => {
            let of = cx.read(move |tx| Ok(members::of_user(tx, user)?)).await?;
            of.into_iter().map(|member| member.org).collect()
        }
    };
    let found = cx.read(move |tx| those(tx, &ids)).await?;
    whole_list(found.iter().map(Org::from).collect())
}

fn those(tx: &Tx, ids: &[OrgId]) -> Result<Vec<tenancy::Org>, ApiError> {
    let mut found = Vec::new();
    for id in ids {
        found.extend(orgs::get(tx, *id)?);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

async fn create(cx: Cx) -> Result<Reply, ApiError> {
    let asked: CreateOrg = cx.json()?;
    let development = cx.api.config.development;
    let first = Bootstrap::usual().map_err(ApiError::internal)?;
    cx.write(move |tx, deed| {
        if development && orgs::count(tx)? > 0 {
            return Err(ApiError::new(
                Code::SecondOrg,
                "in development mode nothing keeps tenants apart, so there is one org only",
            )
            .hint("run `insula up` as root to have several orgs; `insula doctor` says what is missing"));
        }
        let org = tenancy::Org {
            id: deed.id(OrgId::from_parts),
            name: asked.name.clone(),
            quota: Quota::default(),
            created: deed.now,
        };
        let in_use = orgs::by_name(tx, &org.name)?.is_some();
        orgs::create(tx, &org).map_err(|error| name_refused(error, in_use))?;
        let mut deed = deed.clone();
        deed.org = Some(org.id);
        deed.tell(tx, Happened {
            kind: "org.created",
            subject: org.id.to_string(),
            message: format!("the org {} was made", org.name),
            ..Happened::default()
        })?;
        // One can deploy to it at once, as to the org that the platform came with.
        projects::make(tx, &deed, org.id, &first.project)?;
        Whole::created(&Org::from(&org))
    })
    .await
}

/// Says why a name is refused that no org has.
fn name_refused(error: WriteError, in_use: bool) -> ApiError {
    match error {
        WriteError::NameTaken { name, .. } if !in_use => ApiError::new(
            Code::NameTaken,
            format!("`{name}` was the name of an org that has ended"),
        )
        .hint("the name of an org is never used again: choose another"),
        error => error.into(),
    }
}

async fn show(cx: Cx) -> Result<Reply, ApiError> {
    Ok(Whole::ok(&Org::from(cx.org()?))?.tagged().into())
}

async fn end(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org()?.clone();
    cx.write(move |tx, deed| {
        // Ending an org ends all that is in it, so apps have to be deleted one by one before.
        let filter = insula_store::apps::Filter::default();
        let first = insula_store::Page::first(1);
        if !insula_store::apps::list(tx, org.id, &filter, &first)?.items.is_empty() {
            return Err(ApiError::new(Code::NotEmpty, "the org still has apps")
                .hint("delete its apps first"));
        }
        orgs::delete(tx, org.id)?;
        deed.tell(
            tx,
            Happened {
                kind: "org.deleted",
                subject: org.id.to_string(),
                message: format!("the org {} was ended", org.name),
                ..Happened::default()
            },
        )?;
        Ok(Whole::nothing())
    })
    .await
}

async fn usage(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org()?.clone();
    let used = cx.read(move |tx| Ok(quotas::usage(tx, org.id)?)).await?;
    shown(&Usage {
        quota: WireQuota::from(&cx.org()?.quota),
        instances: used.instances,
        memory_bytes: used.memory.0,
        cpu_millis: used.cpu.0,
        builds: used.builds_queued + used.builds_running,
        disk_bytes: used.disk.0,
    })
}

async fn show_quota(cx: Cx) -> Result<Reply, ApiError> {
    Ok(Whole::ok(&WireQuota::from(&cx.org()?.quota))?.tagged().into())
}

async fn set_quota(cx: Cx) -> Result<Reply, ApiError> {
    let asked: SetQuota = cx.json()?;
    let quota = Quota::from(asked);
    let (id, if_match) = (cx.org_id()?, cx.if_match()?);
    cx.write(move |tx, deed| {
        let org = orgs::get(tx, id)?.ok_or_else(|| ApiError::not_found("org"))?;
        let before = WireQuota::from(&org.quota);
        Cx::unchanged(if_match.as_deref(), &Whole::ok(&before)?)?;
        orgs::set_quota(tx, id, &quota)?;
        let after = WireQuota::from(&quota);
        deed.tell(
            tx,
            Happened {
                kind: "org.quota_set",
                subject: id.to_string(),
                message: format!("the quota of {} was set", org.name),
                before: serde_json::to_value(&before).ok(),
                after: serde_json::to_value(&after).ok(),
                ..Happened::default()
            },
        )?;
        Ok(Whole::ok(&after)?.tagged())
    })
    .await
}

async fn rotate(cx: Cx) -> Result<Reply, ApiError> {
    let (id, master) = (cx.org_id()?, std::sync::Arc::clone(&cx.api.state.master));
    let random = std::sync::Arc::clone(&cx.api.state.random);
    let reply = {
        let master = std::sync::Arc::clone(&master);
        cx.write(move |tx, deed| {
            let key = insula_vault::rotate(tx, &master, &*deed.random, id, deed.now)?;
            deed.tell(
                tx,
                Happened {
                    kind: "org.data_key_rotated",
                    subject: id.to_string(),
                    message: format!("secrets are sealed with the new data key {key}"),
                    ..Happened::default()
                },
            )?;
            Whole::ok(&KeyRotated { key: key.0 })
        })
        .await?
    };
    // In short transactions, so that others are not held up. Interrupted, the next rotation (or a
    // repetition of this one) finishes it; until then the older keys stay.
    loop {
        let (master, random) = (std::sync::Arc::clone(&master), std::sync::Arc::clone(&random));
        let reseal = move |tx: &mut Tx| {
            insula_vault::reseal_some(tx, &master, &*random, id).map_err(ApiError::from)
        };
        if cx.store().write(reseal).await? {
            return Ok(reply);
        }
    }
}
