//! Live logs through the sessions: one request fans out to every node, entries come back merged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use futures_util::Stream;
use insula_model::{AppId, BuildId, NodeId, Timestamp};
use insula_wire::node as wire;
use insula_wire::node::server_message::Message;
use tokio::sync::mpsc;

use crate::hub::Hub;

/// Chunks that wait for a slow reader before its stream is cut. A node sends a few hundred entries
/// in one.
const CHUNKS_WAITING_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSubject {
    App(AppId),
    Build(BuildId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    pub subject: LogSubject,
    pub component: Option<String>,
    pub instance: Option<String>,
    pub since: Option<Timestamp>,
    pub tail: Option<u32>,
    pub grep: Option<String>,
    pub follow: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub at: Timestamp,
    pub instance: String,
    pub component: String,
    /// `out`, `err` or `platform`.
    pub channel: &'static str,
    pub line: String,
    pub sequence: u64,
}

#[derive(Debug, Default)]
pub(crate) struct LogStreams {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, OpenStream>>,
}

#[derive(Debug)]
struct OpenStream {
    chunks: mpsc::Sender<Vec<LogEntry>>,
    /// Nodes that have not said that they are done.
    awaited: Vec<NodeId>,
}

impl LogStreams {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, OpenStream>> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes a chunk from a node; whether anybody still listens.
    pub(crate) fn take(&self, node: NodeId, chunk: wire::LogChunk) -> bool {
        let mut open = self.open();
        let Some(stream) = open.get_mut(&chunk.stream) else { return false };
        // Nobody asked this node, or it has told everything.
        if !stream.awaited.contains(&node) {
            return false;
        }
        let entries: Vec<LogEntry> = chunk.entries.into_iter().map(entry).collect();
        // A reader that is this far behind is cut off: it may ask again from where it was.
        let kept = entries.is_empty() || stream.chunks.try_send(entries).is_ok();
        if chunk.end {
            stream.awaited.retain(|n| *n != node);
        }
        if !kept || stream.awaited.is_empty() {
            open.remove(&chunk.stream);
        }
        kept
    }

    /// A node's session ended: nobody waits for it any more.
    pub(crate) fn node_left(&self, node: NodeId) {
        self.open().retain(|_, stream| {
            stream.awaited.retain(|n| *n != node);
            !stream.awaited.is_empty()
        });
    }
}

fn entry(wire: wire::LogEntry) -> LogEntry {
    LogEntry {
        at: Timestamp::from_millis(wire.at_ms),
        instance: wire.instance,
        component: wire.component,
        channel: match wire.channel {
            2 => "err",
            3 => "platform",
            _ => "out",
        },
        line: String::from_utf8_lossy(&wire.line).into_owned(),
        sequence: wire.sequence,
    }
}

/// Ends a stream at the nodes when its reader goes away.
struct Ending {
    hub: Hub,
    stream: u64,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.hub.logs_streams().open().remove(&self.stream);
        let cancel = wire::LogCancel { stream: self.stream };
        for (_, way) in self.hub.ways() {
            let message = wire::ServerMessage { message: Some(Message::LogCancel(cancel)) };
            // A queue that is full belongs to a session that is about to end anyway.
            let _ = way.try_send(Box::new(Ok(message)));
        }
    }
}

impl Hub {
    /// Batches of entries from every connected node. Ends when all have told what they have, or
    /// never when following. Within a node entries come in order; between nodes as they come.
    pub fn logs(&self, query: LogQuery) -> impl Stream<Item = Vec<LogEntry>> + Send + use<> {
        let streams = self.logs_streams();
        let stream = streams.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (chunks, mut receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        let ways = self.ways();
        let awaited: Vec<NodeId> = ways.iter().map(|(node, _)| *node).collect();
        if !awaited.is_empty() {
            streams.open().insert(stream, OpenStream { chunks, awaited });
        }
        let request = request(stream, &query);
        for (node, way) in ways {
            let message =
                wire::ServerMessage { message: Some(Message::LogRequest(request.clone())) };
            if way.try_send(Box::new(Ok(message))).is_err() {
                streams.take(node, wire::LogChunk { stream, end: true, ..Default::default() });
            }
        }
        let ending = Ending { hub: self.clone(), stream };
        futures_util::stream::poll_fn(move |cx| {
            let _ = &ending;
            receiver.poll_recv(cx)
        })
    }
}

fn request(stream: u64, query: &LogQuery) -> wire::LogRequest {
    let (app, build) = match &query.subject {
        LogSubject::App(app) => (app.to_string(), String::new()),
        LogSubject::Build(build) => (String::new(), build.to_string()),
    };
    wire::LogRequest {
        stream,
        app,
        build,
        component: query.component.clone().unwrap_or_default(),
        instance: query.instance.clone().unwrap_or_default(),
        since_ms: query.since.map_or(0, Timestamp::as_millis),
        tail: query.tail.unwrap_or_default(),
        grep: query.grep.clone().unwrap_or_default(),
        follow: query.follow,
    }
}
