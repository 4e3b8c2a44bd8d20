//! Live logs through the session: one task per stream that the server asked for.
//!
//! The queue towards the socket is short, and whoever fills it waits, so a server that reads slowly
//! slows the reading of files and nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use insula_model::{AppId, BuildId, ComponentName, InstanceId, Timestamp};
use insula_wire::node as wire;
use insula_wire::node::agent_message::Message as Up;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::log::{
    Entry, Follower, LogError, LogQuery, LogRoot, LogWatch, PAGE_ENTRIES_MAX, Page, Stream, query,
};

use super::builds::{self, Ended};

/// More people than this do not watch one node at once.
const STREAMS_MAX: usize = 64;
/// Of entries in one message: well below what a message may hold.
const CHUNK_BYTES: usize = 512 * 1024;

/// All streams of one session; they end with it.
#[derive(Debug)]
pub struct LogStreams {
    root: LogRoot,
    watch: Option<Arc<LogWatch>>,
    out: mpsc::Sender<wire::AgentMessage>,
    running: HashMap<u64, tokio::task::AbortHandle>,
    tasks: JoinSet<u64>,
}

/// Everything that reading needs, apart from the session.
struct Reader {
    root: LogRoot,
    /// Whose lines they are, as far as it was asked already.
    components: HashMap<InstanceId, String>,
    watch: Arc<LogWatch>,
    stream: u64,
    out: mpsc::Sender<wire::AgentMessage>,
}

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("the request names what is not a {what}: `{given}`")]
    Request { what: &'static str, given: String },
    #[error("{STREAMS_MAX} logs are being read already")]
    TooMany,
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("watch for new lines")]
    Watch(#[from] std::io::Error),
    /// The session is over; nobody needs to be told.
    #[error("the session ended")]
    Over,
}

/// Whose log it is.
#[derive(Debug, Clone, Copy)]
enum Of {
    App(AppId),
    Build(BuildId),
}

enum Asked {
    App { query: Box<LogQuery>, follow: bool },
    Build { build: BuildId, tail: Option<usize>, follow: bool },
}

impl LogStreams {
    pub fn new(root: LogRoot, out: mpsc::Sender<wire::AgentMessage>) -> Self {
        Self { root, watch: None, out, running: HashMap::new(), tasks: JoinSet::new() }
    }

    pub fn begin(&mut self, request: wire::LogRequest) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Ok(stream) = ended {
                self.running.remove(&stream);
            }
        }
        self.cancel(request.stream);
        let stream = request.stream;
        let prepared = self.prepare(&request);
        let (out, full) = (self.out.clone(), self.running.len() >= STREAMS_MAX);
        let task = self.tasks.spawn(async move {
            let result = match prepared {
                _ if full => Err(StreamError::TooMany),
                Ok((asked, reader)) => reader.read(asked).await,
                Err(error) => Err(error),
            };
            let error = match result {
                Ok(()) => String::new(),
                Err(StreamError::Over) => return stream,
                Err(error) => crate::error::chain(&error),
            };
            let end = wire::LogChunk { stream, entries: vec![], end: true, error };
            // If the session is over, nobody waits for the end.
            let _ = out.send(wire::AgentMessage { message: Some(Up::Log(end)) }).await;
            stream
        });
        self.running.insert(stream, task);
    }

    pub fn cancel(&mut self, stream: u64) {
        if let Some(task) = self.running.remove(&stream) {
            task.abort();
        }
    }

    fn prepare(&mut self, request: &wire::LogRequest) -> Result<(Asked, Reader), StreamError> {
        let asked = parse(request)?;
        let watch = match &self.watch {
            Some(watch) => Arc::clone(watch),
            None => Arc::clone(self.watch.insert(LogWatch::start()?)),
        };
        let (root, out) = (self.root.clone(), self.out.clone());
        let components = HashMap::new();
        Ok((asked, Reader { root, components, watch, stream: request.stream, out }))
    }
}

fn parse(request: &wire::LogRequest) -> Result<Asked, StreamError> {
    fn id<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, StreamError> {
        let given = || insula_model::names::excerpt(text);
        text.parse().map_err(|_| StreamError::Request { what, given: given() })
    }
    fn given<T>(
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, StreamError>,
    ) -> Result<Option<T>, StreamError> {
        if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
    }
    let tail = match request.tail {
        0 => None,
        count => Some(usize::try_from(count).unwrap_or(PAGE_ENTRIES_MAX).min(PAGE_ENTRIES_MAX)),
    };
    if !request.build.is_empty() {
        let build = id("build", &request.build)?;
        return Ok(Asked::Build { build, tail, follow: request.follow });
    }
    let query = LogQuery {
        component: given(&request.component, |text| id::<ComponentName>("component", text))?,
        instance: given(&request.instance, |text| id::<InstanceId>("instance", text))?,
        since: (request.since_ms > 0).then(|| Timestamp::from_millis(request.since_ms)),
        tail,
        grep: (!request.grep.is_empty()).then(|| request.grep.clone()),
        ..LogQuery::of(id::<AppId>("app", &request.app)?)
    };
    Ok(Asked::App { query: Box::new(query), follow: request.follow })
}

impl Reader {
    async fn read(mut self, asked: Asked) -> Result<(), StreamError> {
        match asked {
            Asked::App { query, follow: true } => {
                let app = query.app;
                let mut follower = Follower::new(&self.watch, self.root.clone(), *query);
                loop {
                    let page = follower.next().await?;
                    self.send(page, Of::App(app)).await?;
                }
            }
            Asked::App { query, follow: false } => self.history(*query).await,
            Asked::Build { build, tail, follow } => {
                let mut pages = builds::Pages::new(self.root.clone(), build, tail);
                loop {
                    let (page, ended) = pages.next().await?;
                    self.send(page, Of::Build(build)).await?;
                    match ended {
                        Ended::Yes => return Ok(()),
                        Ended::No if !follow => return Ok(()),
                        Ended::No => pages.wait().await,
                    }
                }
            }
        }
    }

    async fn history(&mut self, mut asked: LogQuery) -> Result<(), StreamError> {
        loop {
            let (root, now) = (self.root.clone(), asked.clone());
            let page = tokio::task::spawn_blocking(move || query(&root, &now))
                .await
                .map_err(LogError::Thread)??;
            let (more, cursor) = (page.more, page.cursor.clone());
            self.send(page, Of::App(asked.app)).await?;
            if !more || asked.tail.is_some() {
                return Ok(());
            }
            asked.after = Some(cursor);
        }
    }

    async fn send(&mut self, page: Page, of: Of) -> Result<(), StreamError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in page.entries {
            bytes += entry.text.len() + size_of::<Entry>();
            let component = match (of, entry.instance) {
                (Of::App(app), Some(instance)) => self.component(app, instance),
                (Of::App(_) | Of::Build(_), _) => String::new(),
            };
            entries.push(to_wire(entry, of, component));
            if bytes >= CHUNK_BYTES {
                self.push(std::mem::take(&mut entries)).await?;
                bytes = 0;
            }
        }
        if entries.is_empty() { Ok(()) } else { self.push(entries).await }
    }

    /// By the folder that its log lies in.
    fn component(&mut self, app: AppId, instance: InstanceId) -> String {
        if let Some(known) = self.components.get(&instance) {
            return known.clone();
        }
        let folders = std::fs::read_dir(self.root.app(app)).into_iter().flatten().flatten();
        let name = folders
            .filter(|folder| folder.path().join(instance.to_string()).is_dir())
            .find_map(|folder| folder.file_name().into_string().ok())
            .unwrap_or_default();
        self.components.insert(instance, name.clone());
        name
    }

    async fn push(&self, entries: Vec<wire::LogEntry>) -> Result<(), StreamError> {
        let chunk = wire::LogChunk { stream: self.stream, entries, ..Default::default() };
        let message = wire::AgentMessage { message: Some(Up::Log(chunk)) };
        self.out.send(message).await.map_err(|_| StreamError::Over)
    }
}

fn to_wire(entry: Entry, of: Of, component: String) -> wire::LogEntry {
    let instance = match (entry.instance, of) {
        (Some(instance), _) => instance.to_string(),
        (None, Of::Build(build)) => build.to_string(),
        (None, Of::App(_)) => String::new(),
    };
    wire::LogEntry {
        at_ms: entry.at.as_millis(),
        instance,
        component,
        channel: match entry.stream {
            Stream::Out => 1,
            Stream::Err => 2,
            Stream::Platform => 3,
        },
        line: entry.text.into_bytes(),
        sequence: entry.seq,
    }
}
