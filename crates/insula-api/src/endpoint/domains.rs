//! Host names of an app beside its own, and what its hosts route to.

use insula_model::limits::PAGE_MAX;
use insula_model::{AppId, DomainId, HostName, app};
use insula_store::{Page as Paging, domains};
use insula_wire::problem::Code;
use insula_wire::rest::domain::{AddDomain, Domain, Route as WireRoute};

use crate::context::{Cx, page_of, shown};
use crate::endpoint::apps;
use crate::endpoint::public::whole_list;
use crate::error::ApiError;
use crate::limits;
use crate::reply::{Reply, Whole};
use crate::route::{ADMIN, Route, VIEWER, delete, post, read};
use crate::write::Happened;

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/apps/{app}/domains", "list_domains", VIEWER, list)
            .about("The hosts that the app has beside its own")
            .paged()
            .answers_page::<Domain>(),
        post("/v1/orgs/{org}/apps/{app}/domains", "add_domain", ADMIN, add)
            .about("Gives the app a host")
            .takes::<AddDomain>()
            .answers::<Domain>(201),
        delete("/v1/orgs/{org}/domains/{domain}", "remove_domain", ADMIN, remove)
            .about("Takes a host from its app; it stays reserved for the org")
            .answers_nothing(),
        read("/v1/orgs/{org}/apps/{app}/routes", "list_routes", VIEWER, routed)
            .live()
            .about("Which hosts and paths lead to which components, and who answers there now")
            .answers_page::<WireRoute>(),
    ]
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, page) = (cx.org_id()?, cx.page()?);
    let id: AppId = cx.param("app", "app")?;
    let paged = cx
        .read(move |tx| {
            apps::find(tx, org, id)?;
            Ok(domains::list(tx, org, Some(id), &page)?)
        })
        .await?;
    shown(&page_of(paged, |domain| Domain::from(&domain)))
}

/// What tenants may not take: the platform's own names, and names without a domain.
fn check_host(host: &HostName, suffix: &HostName) -> Result<(), ApiError> {
    let (host, suffix) = (host.as_str(), suffix.as_str());
    let own = host == suffix || host.ends_with(&format!(".{suffix}"));
    if own {
        return Err(ApiError::field(
            "host",
            format!("names under {suffix} are given by the platform"),
        ));
    }
    if !host.contains('.') {
        return Err(ApiError::field("host", "write the whole name, as in shop.example.org"));
    }
    Ok(())
}

async fn add(cx: Cx) -> Result<Reply, ApiError> {
    let asked: AddDomain = cx.json()?;
    check_host(&asked.host, &cx.api.config.suffix)?;
    let org = cx.org_id()?;
    let id: AppId = cx.param("app", "app")?;
    cx.write(move |tx, deed| {
        let app = apps::find(tx, org, id)?;
        let there = domains::list(tx, org, Some(id), &Paging::first(PAGE_MAX))?;
        if there.items.len() >= limits::DOMAINS_PER_APP_MAX {
            let max = limits::DOMAINS_PER_APP_MAX;
            return Err(ApiError::new(
                Code::QuotaExceeded,
                format!("an app has {max} domains at most"),
            ));
        }
        if let Some(own) = domains::by_host(tx, org, &asked.host)? {
            return Err(leads_already(&asked.host, &apps::find(tx, org, own.app)?));
        }
        let domain = app::Domain {
            id: deed.id(DomainId::from_parts),
            org,
            app: id,
            host: asked.host.clone(),
            created: deed.now,
        };
        domains::add(tx, &domain)?;
        deed.tell(
            tx,
            Happened {
                kind: "domain.added",
                subject: domain.id.to_string(),
                app: Some(id),
                message: format!("{}: {} leads to it now", app.name, domain.host),
                ..Happened::default()
            },
        )?;
        Whole::created(&Domain::from(&domain))
    })
    .await
}

/// Of the caller's own org, so the app may be named.
fn leads_already(host: &HostName, app: &app::App) -> ApiError {
    ApiError::new(Code::NameTaken, format!("{host} leads to `{}` already", app.name))
        .hint(format!("to move it, first `insula domains remove {host} --app {}`", app.name))
}

async fn remove(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org_id()?;
    let id: DomainId = cx.param("domain", "domain")?;
    cx.write(move |tx, deed| {
        let domain = domains::get(tx, org, id)?.ok_or_else(|| ApiError::not_found("domain"))?;
        domains::remove(tx, org, id)?;
        let app = apps::find(tx, org, domain.app)?.name;
        deed.tell(
            tx,
            Happened {
                kind: "domain.removed",
                subject: id.to_string(),
                app: Some(domain.app),
                message: format!("{app}: {} leads nowhere now", domain.host),
                ..Happened::default()
            },
        )?;
        Ok(Whole::nothing())
    })
    .await
}

async fn routed(cx: Cx) -> Result<Reply, ApiError> {
    let (org, id): (_, AppId) = (cx.org_id()?, cx.param("app", "app")?);
    cx.read(move |tx| apps::find(tx, org, id)).await?;
    let view = cx.api.state.view.borrow().clone();
    let table = insula_plan::routes::table(&view.0);
    let own = table.routes.into_iter().filter(|route| route.app == id).map(|route| WireRoute {
        host: route.host,
        path: route.path,
        preserve: route.preserve,
        component: route.component,
        endpoints: route.endpoints.iter().map(|one| one.address.to_string()).collect(),
    });
    whole_list(own.collect::<Vec<_>>())
}
