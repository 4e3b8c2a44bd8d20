//! Releases of an app.

use insula_model::{AppId, ReleaseId};
use insula_store::releases;
use insula_store::releases::KeptRelease;
use insula_wire::rest::Page;
use insula_wire::rest::release::Release;

use crate::context::{Cx, page_of, shown};
use crate::endpoint::apps;
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::{Route, VIEWER, read};

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/apps/{app}/releases", "list_releases", VIEWER, list)
            .about("An app's releases, the newest first")
            .paged()
            .answers_page::<Release>(),
        read("/v1/orgs/{org}/releases/{release}", "show_release", VIEWER, show)
            .about("A release")
            .answers::<Release>(200),
    ]
}

fn view(kept: &KeptRelease, live: Option<ReleaseId>) -> Release {
    Release::new(&kept.release, live == Some(kept.release.id), kept.artifact_kept)
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, page): (_, _) = (cx.org_id()?, cx.page()?);
    let id: AppId = cx.param("app", "app")?;
    let shown_page = cx
        .read(move |tx| {
            let live = apps::find(tx, org, id)?.live.map(|live| live.release);
            let paged = releases::list(tx, org, id, &page)?;
            Ok(page_of(paged, |kept| view(&kept, live)))
        })
        .await?;
    shown::<Page<Release>>(&shown_page)
}

async fn show(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org_id()?;
    let id: ReleaseId = cx.param("release", "release")?;
    let said = cx
        .read(move |tx| {
            let kept = releases::get(tx, org, id)?.ok_or_else(|| ApiError::not_found("release"))?;
            let live = insula_store::apps::get(tx, org, kept.release.app)?;
            Ok(view(&kept, live.and_then(|app| app.live).map(|live| live.release)))
        })
        .await?;
    shown(&said)
}
