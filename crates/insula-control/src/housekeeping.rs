//! What has had its time: remembered answers, old events, artifacts of old releases, blobs that
//! nothing refers to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;
use insula_blobs::{Kind, Listed, Manifest, Shelf};
use insula_model::feed::Change;
use insula_model::{AppId, Digest, Millis, OrgId, Timestamp};
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
/// A blob younger than this may belong to a deployment that is being made. By the clock of the store
/// that holds it; ours may be another.
const BLOB_AGE_MIN: Millis = Millis::secs(24 * 3_600);
/// Artifacts of anything live within this time stay, whatever the count.
const LIVE_KEPT: Millis = Millis::secs(30 * 24 * 3_600);
/// A manifest of the most files that a source may have.
const MANIFEST_SIZE_MAX: insula_model::Bytes = insula_model::Bytes::mib(64);
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

/// Blobs that nothing referred to in the round before. A blob goes only when that is so twice: the
/// time between two rounds is measured by a clock that never jumps, and that of the store may.
type Unneeded = BTreeMap<OrgId, BTreeSet<Digest>>;

/// Runs until it is dropped: for one term. Whatever it does may be left half-way.
pub(crate) async fn run(cx: &Cx, fence: Fence, board: &Board) {
    let mut unneeded = Unneeded::new();
    let mut wait = FIRST_ROUND;
    loop {
        tokio::time::sleep(wait).await;
        wait = ROUND;
        let (began, now) = (Instant::now(), Timestamp::from_millis(cx.clock.now_ms()));
        let mut pass = Pass::default();
        if let Err(error) = round(cx, fence, now, &mut unneeded, &mut pass).await {
            warn!(error = &error as &dyn std::error::Error, "housekeeping stopped half-way");
            pass.error = Some(error.to_string());
        }
        pass.took_micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        board.note(Reconciler::Housekeeping, pass, now);
    }
}

async fn round(
    cx: &Cx,
    fence: Fence,
    now: Timestamp,
    unneeded: &mut Unneeded,
    pass: &mut Pass,
) -> Result<(), RoundError> {
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
        let collected = collect_blobs(cx, org.id, unneeded.entry(org.id).or_default()).await;
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

/// `before` is what nothing referred to in the round before, and then in this one.
async fn collect_blobs(
    cx: &Cx,
    org: OrgId,
    before: &mut BTreeSet<Digest>,
) -> Result<usize, RoundError> {
    let Some(unneeded) = unneeded(cx, org).await? else { return Ok(0) };
    let digests = unneeded.iter().map(|(_, found)| found.digest).collect();
    let before = std::mem::replace(before, digests);
    if !unneeded.iter().any(|(_, found)| before.contains(&found.digest)) {
        return Ok(0);
    }
    let Some(now) = time_of_blobs(cx, org).await? else { return Ok(0) };
    // All that took its time, and what nobody needed then may be part of a deployment now.
    let Some(needed) = needed(cx, org).await? else { return Ok(0) };
    let mut collected = 0;
    for (shelf, Listed { digest, modified, .. }) in unneeded {
        let is_old = now.since(modified) > BLOB_AGE_MIN;
        if is_old && before.contains(&digest) && !needed.contains(&digest) {
            cx.blobs.delete(shelf, digest).await?;
            collected += 1;
        }
    }
    if collected > 0 {
        info!(%org, collected, "collected blobs that nothing refers to");
    }
    Ok(collected)
}

/// What an org has and does not refer to; nothing if that cannot be told.
async fn unneeded(cx: &Cx, org: OrgId) -> Result<Option<Vec<(Shelf, Listed)>>, RoundError> {
    let Some(needed) = needed(cx, org).await? else { return Ok(None) };
    let mut unneeded = Vec::new();
    for kind in [Kind::Chunk, Kind::Manifest, Kind::Artifact] {
        let shelf = Shelf::new(org, kind);
        let mut listed = std::pin::pin!(cx.blobs.list(shelf));
        while let Some(found) = listed.try_next().await? {
            if !needed.contains(&found.digest) {
                unneeded.push((shelf, found));
            }
        }
    }
    Ok(Some(unneeded))
}

/// What the clock shows by which the blobs' times are told: that of a blob that is made now, where
/// there are fewest. If we end before it is gone again, nothing refers to it.
async fn time_of_blobs(cx: &Cx, org: OrgId) -> Result<Option<Timestamp>, RoundError> {
    let shelf = Shelf::new(org, Kind::Manifest);
    // Never the same twice: one that is there already would keep its time.
    let mut bytes = [0; 32];
    cx.random.fill(&mut bytes);
    let made = cx.blobs.put_bytes(shelf, Bytes::copy_from_slice(&bytes)).await?;
    let listed = cx.blobs.list(shelf);
    let found = listed.try_filter(|found| std::future::ready(found.digest == made.digest));
    let found = std::pin::pin!(found).try_next().await;
    cx.blobs.delete(shelf, made.digest).await?;
    Ok(found?.map(|found| found.modified))
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use insula_blobs::{BlobConfig, Blobs};
    use insula_kit::clock::{Clock, SystemClock, TestClock};
    use insula_kit::random::SeededRandom;
    use insula_kit::seal::{Key, Keyring};
    use insula_link::Hub;
    use insula_store::{Store, StoreConfig};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn cx(folder: &Path, clock_ms: i64) -> Cx {
        let random = Arc::new(SeededRandom::new(1));
        Cx {
            store: Store::open(StoreConfig::new(folder.join("insula.db"))).unwrap(),
            hub: Hub::new().0,
            blobs: Blobs::open(BlobConfig::Directory { path: folder.join("blobs") }).unwrap(),
            clock: Arc::new(TestClock::new(clock_ms)),
            keys: Arc::new(Keyring::new(Key::generate(random.as_ref()))),
            random,
            suffix: "localhost".parse().unwrap(),
            rules: insula_plan::Rules::default(),
        }
    }

    /// As if everything had been put there earlier.
    fn age(folder: &Path, by: Duration) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                age(&path, by);
            } else {
                let file = std::fs::File::options().write(true).open(&path).unwrap();
                let modified = file.metadata().unwrap().modified().unwrap();
                file.set_modified(modified - by).unwrap();
            }
        }
    }

    async fn chunks(cx: &Cx, org: OrgId) -> Vec<Digest> {
        let listed = cx.blobs.list(Shelf::new(org, Kind::Chunk));
        let mut digests: Vec<_> = listed.map_ok(|found| found.digest).try_collect().await.unwrap();
        digests.sort_unstable();
        digests
    }

    #[tokio::test]
    async fn a_leader_whose_clock_is_a_day_ahead_collects_nothing_that_is_young() {
        let folder = tempfile::tempdir().unwrap();
        let ahead = SystemClock.now_ms() + 25 * 3_600 * 1_000;
        let cx = cx(folder.path(), ahead);
        let org = OrgId::from_parts(Timestamp::from_millis(1), [1; 10]);
        let shelf = Shelf::new(org, Kind::Chunk);
        let put =
            |text: &'static str| cx.blobs.put_bytes(shelf, Bytes::from_static(text.as_bytes()));
        let old = put("of last week").await.unwrap().digest;
        age(&folder.path().join("blobs"), 2 * DAY);
        let young = put("of a minute ago").await.unwrap().digest;
        let mut before = BTreeSet::new();
        assert_eq!(collect_blobs(&cx, org, &mut before).await.unwrap(), 0, "seen once");
        assert!(before.contains(&old) && before.contains(&young));
        assert_eq!(collect_blobs(&cx, org, &mut before).await.unwrap(), 1);
        assert_eq!(chunks(&cx, org).await, [young]);
        let manifests = cx.blobs.list(Shelf::new(org, Kind::Manifest));
        assert_eq!(manifests.try_collect::<Vec<_>>().await.unwrap(), [], "the clock is gone again");
    }

    #[tokio::test]
    async fn when_the_stores_own_clock_jumps_what_was_just_put_there_has_a_round_to_be_named() {
        let folder = tempfile::tempdir().unwrap();
        let cx = cx(folder.path(), SystemClock.now_ms());
        let org = OrgId::from_parts(Timestamp::from_millis(1), [1; 10]);
        let mut before = BTreeSet::new();
        assert_eq!(collect_blobs(&cx, org, &mut before).await.unwrap(), 0);
        let just =
            cx.blobs.put_bytes(Shelf::new(org, Kind::Chunk), Bytes::from_static(b"just now"));
        let just = just.await.unwrap().digest;
        age(&folder.path().join("blobs"), 2 * DAY);
        assert_eq!(collect_blobs(&cx, org, &mut before).await.unwrap(), 0);
        assert_eq!(chunks(&cx, org).await, [just]);
    }
}
