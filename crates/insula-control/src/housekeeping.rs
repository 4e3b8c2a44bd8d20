//! What has had its time: remembered answers, old events, artifacts of old releases, blobs that
//! nothing refers to.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use insula_blobs::{Kind, Manifest, Shelf};
use insula_model::feed::Change;
use insula_model::{AppId, Bytes, Digest, Millis, OrgId, Timestamp};
use insula_store::{StoreError, WriteError, blobs as refs, feed, releases, sweep};
use tracing::{debug, info, warn};

use crate::Cx;
use crate::core::report::{Pass, Reconciler};
use crate::fence::Fence;
use crate::status::Board;

/// Between rounds. Everything here is about days.
const ROUND: Duration = Duration::from_secs(15 * 60);
/// Before the first round: a start has better things to do.
const FIRST_ROUND: Duration = Duration::from_secs(60);
/// A blob younger than this may belong to a deployment that is being made.
const BLOB_AGE_MIN: Millis = Millis::secs(24 * 3_600);
/// Artifacts of anything live within this time stay, whatever the count.
const LIVE_KEPT: Millis = Millis::secs(30 * 24 * 3_600);
/// A manifest of the most files that a source may have.
const MANIFEST_SIZE_MAX: Bytes = Bytes::mib(64);
/// Digests read from the store in one go.
const DIGESTS_AT_ONCE: usize = 5_000;

#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("read or write the store")]
    Store(#[from] StoreError),
    #[error("change the store")]
    Write(#[from] WriteError),
    #[error("read or delete blobs")]
    Blobs(#[from] insula_blobs::BlobError),
}

/// Runs until it is dropped: for one term. Whatever it does may be left half-way.
pub(crate) async fn run(cx: &Cx, fence: Fence, board: &Board) {
    let mut wait = FIRST_ROUND;
    loop {
        tokio::time::sleep(wait).await;
        wait = ROUND;
        let (began, now) = (Instant::now(), Timestamp::from_millis(cx.clock.now_ms()));
        let mut pass = Pass::default();
        if let Err(error) = round(cx, fence, now, &mut pass).await {
            warn!(error = &error as &dyn std::error::Error, "housekeeping stopped half-way");
            pass.error = Some(error.to_string());
        }
        pass.took_micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        board.note(Reconciler::Housekeeping, pass, now);
    }
}

async fn round(cx: &Cx, fence: Fence, now: Timestamp, pass: &mut Pass) -> Result<(), RoundError> {
    let swept = cx
        .store
        .write(move |tx| {
            fence.check(tx)?;
            Ok::<_, WriteError>(sweep::all(tx, now)?)
        })
        .await?;
    debug!(?swept, "swept");
    pass.did("event swept", swept.events);
    pass.did("answer swept", swept.answers);
    let (_, rows) = cx.store.read(feed::snapshot).await?;
    let apps: Vec<(OrgId, AppId)> = rows
        .iter()
        .filter_map(|row| if let Change::App(app) = row { Some((app.org, app.id)) } else { None })
        .collect();
    let orgs =
        rows.iter().filter_map(|row| if let Change::Org(org) = row { Some(org) } else { None });
    for org in orgs {
        let own = apps.iter().filter(|(of, _)| *of == org.id).map(|(_, app)| *app).collect();
        // What fails for one org is done for the others.
        let kept = org.quota.releases_kept;
        let dropped = drop_artifacts(cx, fence, org.id, own, kept, now).await;
        let collected = collect_blobs(cx, org.id, now).await;
        for (what, done) in [("artifact dropped", dropped), ("blob collected", collected)] {
            match done {
                Ok(count) => pass.did(what, count),
                Err(error) => {
                    let cause = &error as &dyn std::error::Error;
                    warn!(org = %org.id, error = cause, "housekeeping failed");
                    pass.error = Some(format!("{}: {error}", org.id));
                }
            }
        }
    }
    Ok(())
}

async fn drop_artifacts(
    cx: &Cx,
    fence: Fence,
    org: OrgId,
    apps: Vec<AppId>,
    keep: u32,
    now: Timestamp,
) -> Result<usize, RoundError> {
    let since = Timestamp::from_millis(now.as_millis().saturating_sub_unsigned(LIVE_KEPT.0));
    let dropped = cx
        .store
        .write(move |tx| {
            fence.check(tx)?;
            let mut dropped = 0;
            for app in &apps {
                for release in releases::past_keeping(tx, org, *app, keep, since)? {
                    releases::drop_artifact(tx, org, release)?;
                    dropped += 1;
                }
            }
            Ok::<usize, WriteError>(dropped)
        })
        .await?;
    if dropped > 0 {
        info!(%org, dropped, "let go of artifacts of old releases");
    }
    Ok(dropped)
}

async fn collect_blobs(cx: &Cx, org: OrgId, now: Timestamp) -> Result<usize, RoundError> {
    let Some(needed) = needed(cx, org).await? else { return Ok(0) };
    let mut candidates = Vec::new();
    for kind in [Kind::Chunk, Kind::Manifest, Kind::Artifact] {
        let shelf = Shelf::new(org, kind);
        let mut listed = std::pin::pin!(cx.blobs.list(shelf));
        while let Some(found) = listed.try_next().await? {
            if now.since(found.modified) > BLOB_AGE_MIN && !needed.contains(&found.digest) {
                candidates.push((shelf, found.digest));
            }
        }
    }
    if candidates.is_empty() {
        return Ok(0);
    }
    // Listing took its time, and what nobody needed then may be part of a deployment now.
    let Some(needed) = self::needed(cx, org).await? else { return Ok(0) };
    let mut collected = 0;
    for (shelf, digest) in candidates {
        if !needed.contains(&digest) {
            cx.blobs.delete(shelf, digest).await?;
            collected += 1;
        }
    }
    if collected > 0 {
        info!(%org, collected, "collected blobs that nothing refers to");
    }
    Ok(collected)
}

/// What an org refers to, and what that names in turn; nothing if that cannot be told.
async fn needed(cx: &Cx, org: OrgId) -> Result<Option<BTreeSet<Digest>>, RoundError> {
    let mut needed = BTreeSet::new();
    let mut after: Option<Digest> = None;
    loop {
        let from = after;
        let some = cx
            .store
            .read(move |tx| refs::referenced(tx, org, from.as_ref(), DIGESTS_AT_ONCE))
            .await?;
        let Some(last) = some.last() else { break };
        after = Some(*last);
        needed.extend(some);
    }
    // A manifest that stays keeps its chunks.
    let manifests = Shelf::new(org, Kind::Manifest);
    for digest in needed.clone() {
        match cx.blobs.get_bytes(manifests, digest, MANIFEST_SIZE_MAX).await {
            Ok(bytes) => match Manifest::decode(&bytes) {
                Ok(manifest) => {
                    needed.extend(manifest.chunks().into_iter().map(|chunk| chunk.digest))
                }
                Err(error) => {
                    // Whatever it is, deleting what it may name would be worse than keeping it.
                    warn!(%org, %digest, %error, "a manifest cannot be read; nothing is collected");
                    return Ok(None);
                }
            },
            Err(insula_blobs::BlobError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(needed))
}
