//! Logs of apps and builds: read from the nodes that wrote them, now.
//!
//! Of the others none is asked. They have nothing to say, and one that was broken into must not be
//! able to put lines into the log of an app that was never there, nor learn what is looked for.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use insula_link::{LogEntry, LogQuery, LogSubject};
use insula_model::build::{Build, BuildState};
use insula_model::{AppId, BuildId, ComponentName, InstanceId, NodeId, Timestamp};
use insula_store::{builds, instances, whereabouts};
use insula_wire::problem::Code;
use insula_wire::rest::log::{LogLine, SSE_END, SSE_LOG};

use crate::context::Cx;
use crate::endpoint::{apps, follow, public, stream};
use crate::error::ApiError;
use crate::limits;
use crate::reply::Reply;
use crate::route::{DEVELOPER, Param, Route, flag, number, read, text, time};

const QUERY: &[Param] = &[
    flag("follow", "go on with what is written from now on (streams only)"),
    time("since", "only what was written since"),
    number("tail", "only the last so many lines; 1,000 unless told otherwise"),
    text("grep", "only lines that hold this text"),
];

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/apps/{app}/logs", "read_logs", DEVELOPER, of_app)
            .live()
            .about("What an app's instances wrote")
            .query(QUERY)
            .query(&[
                text("component", "only those of this component"),
                text("instance", "only those of this instance"),
            ])
            .answers_page_or_stream::<LogLine>(),
        read("/v1/orgs/{org}/builds/{build}/log", "read_build_log", DEVELOPER, of_build)
            .live()
            .about("What a build wrote")
            .query(QUERY)
            .answers_page_or_stream::<LogLine>(),
    ]
}

async fn of_app(cx: Cx) -> Result<Reply, ApiError> {
    let (org, id): (_, AppId) = (cx.org_id()?, cx.param("app", "app")?);
    cx.read(move |tx| apps::find(tx, org, id)).await?;
    let component: Option<ComponentName> = cx.query("component")?;
    let instance: Option<InstanceId> = cx.query("instance")?;
    let place = match instance {
        Some(id) => cx.read(move |tx| Ok(instances::get(tx, org, id)?)).await?,
        None => None,
    };
    // The node of another app's instance has no say here.
    let place = place.filter(|instance| instance.app == id);
    let nodes = match &place {
        Some(instance) => [instance.node].into(),
        // One that is gone was where the app is or was.
        None => cx.read(move |tx| Ok(whereabouts::of_app(tx, org, id)?)).await?,
    };
    let query = LogQuery {
        component: component.map(|name| name.to_string()),
        instance: instance.map(|id| id.to_string()),
        nodes: Some(nodes),
        ..query(&cx, LogSubject::App(id))?
    };
    // An instance stays where it is; whoever follows an app follows it to other nodes, too.
    let beyond = if place.is_some() { Beyond::Nothing } else { Beyond::App(id) };
    answer(cx, query, beyond).await
}

async fn of_build(cx: Cx) -> Result<Reply, ApiError> {
    let (org, id): (_, BuildId) = (cx.org_id()?, cx.param("build", "build")?);
    let found = cx.read(move |tx| Ok(builds::get(tx, org, id)?)).await?;
    let build = found.ok_or_else(|| ApiError::not_found("build"))?;
    let nodes = match build.state {
        // No node has begun with it, so none has a word to say.
        BuildState::Queued => BTreeSet::new(),
        BuildState::Running { node, .. } => [node].into(),
        // Once it is done nothing says where it was.
        BuildState::Done { .. } | BuildState::Failed { .. } | BuildState::Cancelled => {
            cx.read(move |tx| Ok(whereabouts::of_app(tx, org, build.app)?)).await?
        }
    };
    let query = LogQuery { nodes: Some(nodes), ..query(&cx, LogSubject::Build(id))? };
    let beyond =
        if build.state.is_final() { Beyond::Nothing } else { Beyond::Build(Box::new(build)) };
    answer(cx, query, beyond).await
}

fn query(cx: &Cx, subject: LogSubject) -> Result<LogQuery, ApiError> {
    let tail: Option<u32> = cx.query("tail")?;
    if tail.is_some_and(|tail| tail > limits::LOG_PAGE_LINES_MAX) {
        let max = limits::LOG_PAGE_LINES_MAX;
        return Err(ApiError::query("tail", format!("{max} lines at most")));
    }
    let grep: Option<String> = cx.query("grep")?;
    if grep.as_ref().is_some_and(|grep| grep.len() > limits::LOG_GREP_BYTES_MAX) {
        let max = limits::LOG_GREP_BYTES_MAX;
        return Err(ApiError::query("grep", format!("{max} bytes at most")));
    }
    let since: Option<Timestamp> = cx.query("since")?;
    Ok(LogQuery {
        subject,
        component: None,
        instance: None,
        since,
        tail: Some(tail.unwrap_or(limits::LOG_TAIL_DEFAULT)),
        grep: grep.filter(|grep| !grep.is_empty()),
        follow: cx.flag("follow")?.unwrap_or(false),
        nodes: None,
    })
}

/// What may come from nodes that cannot be asked yet.
enum Beyond {
    Nothing,
    App(AppId),
    Build(Box<Build>),
}

async fn answer(cx: Cx, query: LogQuery, beyond: Beyond) -> Result<Reply, ApiError> {
    let streams = cx.wants_stream();
    if query.follow && !streams {
        return Err(ApiError::query("follow", "only a stream can go on")
            .hint("send Accept: text/event-stream"));
    }
    let place = cx.api.stream_place(cx.caller()?.token)?;
    wait_for_nodes(&cx, query.nodes.as_ref()).await;
    if cx.api.state.hub.nodes_connected().is_empty() {
        return Err(ApiError::new(
            Code::Unavailable,
            "no node is connected, so no log can be read",
        )
        .hint("apps go on; try again once the node is back")
        .retry_after_s(2));
    }
    let tail = query.tail.unwrap_or(limits::LOG_TAIL_DEFAULT) as usize;
    let hub = &cx.api.state.hub;
    if !streams {
        let lines = collect(hub.logs(query), tail).await;
        drop(place);
        return public::whole_list(lines);
    }
    let view = cx.api.state.view.clone();
    let lines = match beyond {
        Beyond::App(app) if query.follow => follow::app(hub.logs(query), app, view, cx.now()),
        Beyond::Build(build) if query.follow => {
            follow::build(hub.clone(), query, *build, view, cx.store().clone())
        }
        Beyond::Nothing | Beyond::App(_) | Beyond::Build(_) => hub.logs(query).boxed(),
    };
    Ok(stream::answer(as_events(lines), place, cx.api.shutdown.clone()))
}

/// A server that has just begun to decide has not heard all nodes yet: they are on their way.
async fn wait_for_nodes(cx: &Cx, asked: Option<&BTreeSet<NodeId>>) {
    let state = &cx.api.state;
    while state.fleet.began_within(limits::NODES_BACK_TIME) {
        let here = state.hub.nodes_connected();
        if asked.is_none_or(|asked| asked.is_subset(&here)) && !here.is_empty() {
            return;
        }
        tokio::time::sleep(limits::NODES_BACK_LOOK).await;
    }
}

fn as_events(
    batches: impl Stream<Item = Vec<LogEntry>> + Send + 'static,
) -> impl Stream<Item = Bytes> + Send + 'static {
    let lines = batches.map(|batch| {
        let mut bytes = Vec::new();
        for entry in batch {
            bytes.extend_from_slice(&stream::event(SSE_LOG, None, &line(entry)));
        }
        Bytes::from(bytes)
    });
    let end = async { stream::event(SSE_END, None, &serde_json::json!({})) };
    lines.chain(futures_util::stream::once(end))
}

/// The last lines that the nodes have, within a time: one that does not answer is not waited for for
/// ever. Each node sends its own last lines, so together they are more; the older ones are let go of
/// on the way.
async fn collect(batches: impl Stream<Item = Vec<LogEntry>>, tail: usize) -> Vec<LogLine> {
    let mut batches = std::pin::pin!(batches);
    let mut page = Page { lines: Vec::new(), bytes: 0, tail };
    let deadline = tokio::time::Instant::now() + limits::LOG_PAGE_TIME;
    while let Ok(Some(batch)) = tokio::time::timeout_at(deadline, batches.next()).await {
        page.add(batch.into_iter().map(line));
    }
    page.cut();
    page.lines
}

struct Page {
    lines: Vec<LogLine>,
    bytes: usize,
    tail: usize,
}

impl Page {
    fn add(&mut self, lines: impl Iterator<Item = LogLine>) {
        for line in lines {
            self.bytes += line.line.len();
            self.lines.push(line);
        }
        if self.lines.len() > 2 * self.tail || self.bytes > 2 * limits::LOG_PAGE_BYTES_MAX {
            self.cut();
        }
    }

    /// The newest in order, as many as were asked for and as fit.
    fn cut(&mut self) {
        let lines = &mut self.lines;
        lines.sort_by(|a, b| (a.at, &a.instance, a.sequence).cmp(&(b.at, &b.instance, b.sequence)));
        let mut bytes = 0;
        let fits = lines.iter().rev().take(self.tail).take_while(|line| {
            bytes += line.line.len();
            bytes <= limits::LOG_PAGE_BYTES_MAX
        });
        let kept = fits.count();
        lines.drain(..lines.len() - kept);
        self.bytes = lines.iter().map(|line| line.line.len()).sum();
    }
}

fn line(mut entry: LogEntry) -> LogLine {
    if entry.line.len() > limits::LOG_LINE_BYTES_MAX {
        let mut ends = (0..=limits::LOG_LINE_BYTES_MAX).rev();
        let end = ends.find(|at| entry.line.is_char_boundary(*at)).unwrap_or(0);
        entry.line.truncate(end);
        entry.line.shrink_to_fit();
    }
    LogLine {
        at: entry.at,
        instance: entry.instance,
        component: entry.component,
        channel: entry.channel.into(),
        line: entry.line,
        sequence: entry.sequence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: i64, line: &str) -> LogEntry {
        LogEntry {
            at: Timestamp::from_millis(at),
            instance: "ins_1".into(),
            component: "web".into(),
            channel: "out",
            line: line.to_owned(),
            sequence: at as u64,
        }
    }

    #[tokio::test]
    async fn of_all_that_nodes_send_the_last_lines_are_kept_in_order() {
        let batches = [vec![entry(5, "e"), entry(6, "f")], vec![entry(1, "a"), entry(2, "b")]];
        let lines = collect(futures_util::stream::iter(batches), 3).await;
        assert_eq!(
            lines.iter().map(|line| line.line.as_str()).collect::<Vec<_>>(),
            ["b", "e", "f"]
        );
    }

    #[test]
    fn a_node_that_sends_without_end_fills_no_memory() {
        let mut page = Page { lines: Vec::new(), bytes: 0, tail: 1_000 };
        let endless = "€".repeat(1 << 16);
        for at in 0..2_000 {
            page.add([entry(at, &endless), entry(at, "short")].into_iter().map(line));
            assert!(page.bytes <= 2 * limits::LOG_PAGE_BYTES_MAX + limits::LOG_LINE_BYTES_MAX);
        }
        page.cut();
        assert!((600..1_000).contains(&page.lines.len()), "{}", page.lines.len());
        for at in 2_000..12_000 {
            page.add([line(entry(at, ""))].into_iter());
            assert!(page.lines.len() <= 2_001);
        }
        page.cut();
        assert_eq!(page.lines.len(), 1_000);
    }
}
