//! Live logs through the sessions: one request fans out to nodes, entries come back merged.
//!
//! What a node says is believed of the logs that it was asked for, and only those are asked who can
//! have them: whoever reads an app's logs says which nodes these are, and which more while it
//! follows. It waits for a slow reader in a share of its own: a node that floods a stream is missing
//! from it, the others are not.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};

use futures_util::Stream;
use insula_model::{AppId, BuildId, NodeId, Timestamp};
use insula_wire::node as wire;
use insula_wire::node::server_message::Message;
use tokio::sync::mpsc;

use crate::hub::{Hub, ToNode};

/// What waits for a slow reader, of all nodes together. A node sends half a MiB in one chunk.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What may wait of one node however many were asked: a few chunks.
const WAITING_BYTES_OF_NODE_MIN: usize = 2 * 1024 * 1024;

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
    /// Who can have such lines, and is asked; nothing if anybody can.
    pub nodes: Option<BTreeSet<NodeId>>,
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
    /// Not bounded by itself: `waiting` is.
    chunks: mpsc::UnboundedSender<Chunk>,
    /// Nodes that have not said that they are done, and how many bytes of each wait.
    awaited: BTreeMap<NodeId, usize>,
    /// Nobody was asked yet, and somebody may be.
    begins_later: bool,
    /// Of all nodes.
    waiting: usize,
    of_node_max: usize,
}

#[derive(Debug)]
struct Chunk {
    node: NodeId,
    bytes: usize,
    entries: Vec<LogEntry>,
}

impl OpenStream {
    /// Whether there was room for it.
    fn push(&mut self, node: NodeId, entries: Vec<LogEntry>) -> bool {
        // Nobody asked this node, or it has told everything.
        let Some(of_node) = self.awaited.get_mut(&node) else { return false };
        let bytes = entries.iter().map(size).sum();
        if *of_node + bytes > self.of_node_max || self.waiting + bytes > WAITING_BYTES_MAX {
            return false;
        }
        *of_node += bytes;
        self.waiting += bytes;
        self.chunks.send(Chunk { node, bytes, entries }).is_ok()
    }

    fn taken(&mut self, node: NodeId, bytes: usize) {
        self.waiting -= bytes;
        if let Some(of_node) = self.awaited.get_mut(&node) {
            *of_node -= bytes;
        }
    }

    /// Nothing more comes: everybody who was asked has told all, or is gone.
    fn is_over(&self) -> bool {
        self.awaited.is_empty() && !self.begins_later
    }

    /// Goes without this node from here on, and says so.
    fn cut(&mut self, node: NodeId, now: Timestamp) {
        self.awaited.remove(&node);
        let entry = LogEntry {
            at: now,
            instance: String::new(),
            component: String::new(),
            channel: "platform",
            line: format!("from here on lines of {node} are missing: it sent more than was read"),
            sequence: 0,
        };
        // One for each node that was asked, so they need no bound; whoever is gone misses nothing.
        let _ = self.chunks.send(Chunk { node, bytes: 0, entries: vec![entry] });
    }
}

fn size(entry: &LogEntry) -> usize {
    size_of::<LogEntry>() + entry.line.len() + entry.instance.len() + entry.component.len()
}

impl LogStreams {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, OpenStream>> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes a chunk from a node; whether anybody still listens to it.
    pub(crate) fn take(&self, node: NodeId, chunk: wire::LogChunk, now: Timestamp) -> bool {
        let mut open = self.open();
        let Some(stream) = open.get_mut(&chunk.stream) else { return false };
        if !stream.awaited.contains_key(&node) {
            return false;
        }
        let entries: Vec<LogEntry> = chunk.entries.into_iter().map(entry).collect();
        let kept = entries.is_empty() || stream.push(node, entries);
        if !kept {
            stream.cut(node, now);
        } else if chunk.end {
            stream.awaited.remove(&node);
        }
        if stream.is_over() {
            open.remove(&chunk.stream);
        }
        kept
    }

    fn taken(&self, stream: u64, node: NodeId, bytes: usize) {
        if let Some(stream) = self.open().get_mut(&stream) {
            stream.taken(node, bytes);
        }
    }

    /// A node's session ended: nobody waits for it any more.
    pub(crate) fn node_left(&self, node: NodeId) {
        self.open().retain(|_, stream| {
            stream.awaited.remove(&node);
            !stream.is_over()
        });
    }

    /// Awaits one more node; false if the stream has ended.
    fn also_await(&self, stream: u64, node: NodeId) -> bool {
        let mut open = self.open();
        let Some(stream) = open.get_mut(&stream) else { return false };
        stream.begins_later = false;
        stream.awaited.insert(node, 0);
        true
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

/// Batches of entries. Within a node they come in order; between nodes as they come.
#[derive(Debug)]
pub struct LogStream {
    hub: Hub,
    stream: u64,
    query: LogQuery,
    /// Who was asked. One whose session ended is not asked again: what it told would come twice.
    asked: BTreeSet<NodeId>,
    chunks: mpsc::UnboundedReceiver<Chunk>,
}

impl LogStream {
    /// Asks one more node, for what it has since then. For those who follow: what they follow may
    /// begin elsewhere.
    pub fn also(&mut self, node: NodeId, since: Timestamp) {
        if self.asked.contains(&node) {
            return;
        }
        let Some(way) = self.hub.way(node) else { return };
        self.asked.insert(node);
        if self.hub.logs_streams().also_await(self.stream, node) {
            let query = LogQuery { since: Some(since), tail: None, ..self.query.clone() };
            self.hub.ask_for_logs(self.stream, request(self.stream, &query), node, &way);
        }
    }
}

impl Stream for LogStream {
    type Item = Vec<LogEntry>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.poll_recv(cx).map(|chunk| {
            let Chunk { node, bytes, entries } = chunk?;
            self.hub.logs_streams().taken(self.stream, node, bytes);
            Some(entries)
        })
    }
}

/// Ends it at the nodes when its reader goes away.
impl Drop for LogStream {
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
    /// What connected nodes have. Ends when all that were asked have told what they have; whoever
    /// follows waits for more of them, and for the first if none could be asked.
    pub fn logs(&self, query: LogQuery) -> LogStream {
        let streams = self.logs_streams();
        let stream = streams.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (chunks, receiver) = mpsc::unbounded_channel::<Chunk>();
        let mut ways = self.ways();
        if let Some(nodes) = &query.nodes {
            ways.retain(|(node, _)| nodes.contains(node));
        }
        let awaited: BTreeMap<NodeId, usize> = ways.iter().map(|(node, _)| (*node, 0)).collect();
        let asked = awaited.keys().copied().collect();
        let begins_later = awaited.is_empty() && query.follow && query.nodes.is_some();
        let share = WAITING_BYTES_MAX / awaited.len().max(1);
        let of_node_max = share.max(WAITING_BYTES_OF_NODE_MIN);
        let opened = OpenStream { chunks, awaited, begins_later, waiting: 0, of_node_max };
        if !opened.is_over() {
            streams.open().insert(stream, opened);
        }
        let request = request(stream, &query);
        for (node, way) in ways {
            self.ask_for_logs(stream, request.clone(), node, &way);
        }
        LogStream { hub: self.clone(), stream, query, asked, chunks: receiver }
    }

    fn ask_for_logs(&self, stream: u64, request: wire::LogRequest, node: NodeId, way: &ToNode) {
        let message = wire::ServerMessage { message: Some(Message::LogRequest(request)) };
        if way.try_send(Box::new(Ok(message))).is_err() {
            let end = wire::LogChunk { stream, end: true, ..Default::default() };
            let now = Timestamp::from_millis(self.now_ms());
            self.logs_streams().take(node, end, now);
        }
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
