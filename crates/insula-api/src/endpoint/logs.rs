//! Logs of apps and builds: read from the nodes that wrote them, now.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use insula_link::{LogEntry, LogQuery, LogSubject};
use insula_model::{AppId, BuildId, ComponentName, InstanceId, Timestamp};
use insula_store::builds;
use insula_wire::problem::Code;
use insula_wire::rest::log::{LogLine, SSE_END, SSE_LOG};

use crate::context::Cx;
use crate::endpoint::{apps, public, stream};
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
    let query = LogQuery {
        component: component.map(|name| name.to_string()),
        instance: instance.map(|id| id.to_string()),
        ..query(&cx, LogSubject::App(id))?
    };
    answer(cx, query).await
}

async fn of_build(cx: Cx) -> Result<Reply, ApiError> {
    let (org, id): (_, BuildId) = (cx.org_id()?, cx.param("build", "build")?);
    let found = cx.read(move |tx| Ok(builds::get(tx, org, id)?)).await?;
    found.ok_or_else(|| ApiError::not_found("build"))?;
    let query = query(&cx, LogSubject::Build(id))?;
    answer(cx, query).await
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
    })
}

async fn answer(cx: Cx, query: LogQuery) -> Result<Reply, ApiError> {
    let streams = cx.wants_stream();
    if query.follow && !streams {
        return Err(ApiError::query("follow", "only a stream can go on")
            .hint("send Accept: text/event-stream"));
    }
    if cx.api.state.hub.nodes_connected().is_empty() {
        return Err(ApiError::new(
            Code::Unavailable,
            "no node is connected, so no log can be read",
        )
        .hint("apps go on; try again once the node is back")
        .retry_after_s(2));
    }
    let place = cx.api.stream_place(cx.caller()?.token)?;
    let tail = query.tail;
    let batches = cx.api.state.hub.logs(query);
    if streams {
        return Ok(stream::answer(as_events(batches), place, cx.api.shutdown.clone()));
    }
    let mut lines = collect(batches).await;
    // Each node sent its own last lines; together they may be more.
    lines.sort_by(|a, b| (a.at, &a.instance, a.sequence).cmp(&(b.at, &b.instance, b.sequence)));
    let beyond = lines.len().saturating_sub(tail.unwrap_or(u32::MAX) as usize);
    lines.drain(..beyond);
    drop(place);
    public::whole_list(lines)
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

/// What the nodes have, within a time: one that does not answer is not waited for for ever.
async fn collect(batches: impl Stream<Item = Vec<LogEntry>>) -> Vec<LogLine> {
    let mut batches = std::pin::pin!(batches);
    let mut lines = Vec::new();
    let deadline = tokio::time::Instant::now() + limits::LOG_PAGE_TIME;
    while let Ok(Some(batch)) = tokio::time::timeout_at(deadline, batches.next()).await {
        lines.extend(batch.into_iter().map(line));
    }
    lines
}

fn line(entry: LogEntry) -> LogLine {
    LogLine {
        at: entry.at,
        instance: entry.instance,
        component: entry.component,
        channel: entry.channel.into(),
        line: entry.line,
        sequence: entry.sequence,
    }
}
