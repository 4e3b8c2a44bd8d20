//! Logs that go on elsewhere: an app comes to other nodes while it is followed, and a build that is
//! queued gets a node.
//!
//! Where that is says the control plane's view. Nobody else is asked: see `logs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use insula_link::{Hub, LogEntry, LogQuery, LogStream};
use insula_model::build::{Build, BuildState};
use insula_model::{AppId, NodeId, Timestamp};
use insula_plan::View;
use insula_store::{Store, StoreError, builds, whereabouts};
use tokio::sync::watch;

use crate::limits::LOG_PAGE_TIME;

type Lines = BoxStream<'static, Vec<LogEntry>>;

/// Asks the nodes, too, that get instances of the app from now on.
pub fn app(
    lines: LogStream,
    app: AppId,
    mut view: watch::Receiver<View>,
    since: Timestamp,
) -> Lines {
    view.mark_changed();
    let followed = unfold((lines, Some(view)), move |(mut lines, mut view)| async move {
        loop {
            let Some(seen) = &mut view else {
                // Nothing is decided any more; what was asked for goes on.
                return lines.next().await.map(|batch| (batch, (lines, view)));
            };
            tokio::select! {
                batch = lines.next() => return batch.map(|batch| (batch, (lines, view))),
                changed = seen.changed() => match changed {
                    Ok(()) => {
                        let world = Arc::clone(&seen.borrow_and_update().0);
                        let here = world.instances.of_app(app).map(|instance| instance.node);
                        here.for_each(|node| lines.also(node, since));
                    }
                    Err(_) => view = None,
                },
            }
        }
    });
    followed.boxed()
}

/// Asks the node that has the build, once one has, and the next one if it begins again elsewhere.
pub fn build(
    hub: Hub,
    query: LogQuery,
    build: Build,
    mut view: watch::Receiver<View>,
    store: Store,
) -> Lines {
    view.mark_changed();
    let building = Building { hub, query, build, store, view: Some(view), lines: None };
    unfold(building, |mut building| async move {
        let batch = building.next().await?;
        Some((batch, building))
    })
    .boxed()
}

struct Building {
    hub: Hub,
    query: LogQuery,
    /// As it was last seen.
    build: Build,
    store: Store,
    /// Looked at until the build is over.
    view: Option<watch::Receiver<View>>,
    /// Nothing until a node has it.
    lines: Option<LogStream>,
}

impl Building {
    async fn next(&mut self) -> Option<Vec<LogEntry>> {
        loop {
            match (&mut self.view, &mut self.lines) {
                (None, None) => return None,
                (None, Some(lines)) => {
                    // Its node has all of it and says so; one that does not is not waited for.
                    return tokio::time::timeout(LOG_PAGE_TIME, lines.next()).await.ok().flatten();
                }
                (Some(view), None) => match view.changed().await {
                    Ok(()) => self.look().await,
                    Err(_) => self.view = None,
                },
                (Some(view), Some(lines)) => tokio::select! {
                    batch = lines.next() => return batch,
                    changed = view.changed() => match changed {
                        Ok(()) => self.look().await,
                        Err(_) => self.view = None,
                    },
                },
            }
        }
    }

    /// Sees where the build is now.
    async fn look(&mut self) {
        let Some(view) = &mut self.view else { return };
        let world = Arc::clone(&view.borrow_and_update().0);
        match world.builds.get(&self.build.id) {
            Some(build) => self.build = Build::clone(build),
            None => match self.stored().await {
                Ok(Some(build)) => self.build = build,
                // It is gone, and its log with it.
                Ok(None) => return self.view = None,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    return tracing::warn!(error, "look where a build is that is followed");
                }
            },
        }
        match self.build.state {
            BuildState::Queued => {}
            BuildState::Running { node, .. } => match &mut self.lines {
                Some(lines) => lines.also(node, Timestamp::from_millis(0)),
                None => self.lines = Some(self.ask([node].into(), true)),
            },
            BuildState::Done { .. } | BuildState::Failed { .. } | BuildState::Cancelled => {
                self.view = None;
                if self.lines.is_none() {
                    // It was over before its node was seen.
                    self.lines = self.whereabouts().await.map(|nodes| self.ask(nodes, false));
                }
            }
        }
    }

    fn ask(&self, nodes: BTreeSet<NodeId>, follow: bool) -> LogStream {
        self.hub.logs(LogQuery { nodes: Some(nodes), follow, ..self.query.clone() })
    }

    async fn stored(&self) -> Result<Option<Build>, StoreError> {
        let (org, id) = (self.build.org, self.build.id);
        self.store.read(move |tx| builds::get(tx, org, id)).await
    }

    async fn whereabouts(&self) -> Option<BTreeSet<NodeId>> {
        let (org, app) = (self.build.org, self.build.app);
        let found = self.store.read(move |tx| whereabouts::of_app(tx, org, app)).await;
        found
            .inspect_err(|error| {
                let error = error as &dyn std::error::Error;
                tracing::warn!(error, "look where a build was that is followed");
            })
            .ok()
    }
}
