//! Follows the logs of an app: what is there, then what comes, in every instance old and new.
//!
//! Readers are woken by inotify on the directories, so they need nothing from the keeper and do not
//! notice when it is away. One inotify instance serves all readers of a process, because a user may
//! have only 128 of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::Stream;
use insula_model::InstanceId;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::Notify;

use super::LogError;
use super::cursor::Cursor;
use super::entry::Entry;
use super::layout::{LogRoot, SegmentName};
use super::query::{LogQuery, PAGE_BYTES_MAX, Page, query};
use super::reader::InstanceReader;

/// Enough for some hundred events; the rest waits in the kernel.
const EVENT_BUFFER_BYTES: usize = 8 << 10;
/// The thread calls nothing deep.
const WATCH_STACK_BYTES: usize = 128 << 10;

/// Wakes readers when a directory changes. Has a thread of its own, which sleeps in the kernel.
#[derive(Debug)]
pub struct LogWatch {
    inotify: Arc<OwnedFd>,
    readers: Arc<Mutex<Readers>>,
    /// Closing it ends the thread.
    _alive: OwnedFd,
}

/// By watch descriptor: who asked, and under which path.
type Readers = HashMap<i32, Vec<(PathBuf, Weak<Wake>)>>;

#[derive(Debug, Default)]
struct Wake {
    dirty: Mutex<BTreeSet<PathBuf>>,
    notify: Notify,
}

impl LogWatch {
    pub fn start() -> io::Result<Arc<Self>> {
        let inotify = Arc::new(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?);
        let (ended, alive) = pipe_with(PipeFlags::CLOEXEC)?;
        let readers = Arc::new(Mutex::new(Readers::new()));
        let (fd, askers) = (Arc::clone(&inotify), Arc::clone(&readers));
        std::thread::Builder::new()
            .name("log-watch".to_owned())
            .stack_size(WATCH_STACK_BYTES)
            .spawn(move || dispatch(&fd, &ended, &askers))?;
        Ok(Arc::new(Self { inotify, readers, _alive: alive }))
    }

    fn add(&self, path: &Path, wake: &Arc<Wake>) -> io::Result<()> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(&*self.inotify, path, flags)?;
        let askers = readers.entry(watch).or_default();
        if !askers.iter().any(|(_, w)| std::ptr::eq(w.as_ptr(), Arc::as_ptr(wake))) {
            askers.push((path.to_owned(), Arc::downgrade(wake)));
        }
        Ok(())
    }

    fn remove(&self, wake: &Arc<Wake>) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|watch, askers| {
            askers.retain(|(_, w)| !std::ptr::eq(w.as_ptr(), Arc::as_ptr(wake)));
            if askers.is_empty() {
                // Fails if the directory is gone, and with it the watch.
                let _ = inotify::remove_watch(&*self.inotify, *watch);
            }
            !askers.is_empty()
        });
    }
}

fn dispatch(inotify: &OwnedFd, ended: &OwnedFd, readers: &Mutex<Readers>) {
    loop {
        let mut fds = [PollFd::new(inotify, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::warn!(%error, "watch the logs");
                return;
            }
        }
        let mut buffer = [MaybeUninit::uninit(); EVENT_BUFFER_BYTES];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        while let Ok(event) = events.next() {
            let mut readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                readers.values().flatten().for_each(poke);
                continue;
            }
            readers.get(&event.wd()).into_iter().flatten().for_each(poke);
            if event.events().contains(ReadFlags::IGNORED) {
                readers.remove(&event.wd());
            }
        }
    }
}

fn poke((path, wake): &(PathBuf, Weak<Wake>)) {
    if let Some(wake) = wake.upgrade() {
        wake.dirty.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        wake.notify.notify_one();
    }
}

/// One reader of the logs of an app.
pub struct Follower {
    watch: Arc<LogWatch>,
    wake: Arc<Wake>,
    /// None only if reading panicked.
    state: Option<Box<State>>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}

struct State {
    root: LogRoot,
    query: LogQuery,
    phase: Phase,
    cursor: Cursor,
    /// Where the live part began: readers leave out what the pages before had.
    began: Cursor,
    live: BTreeMap<PathBuf, (InstanceId, InstanceReader)>,
    /// Changed, and not read to the end yet.
    dirty: BTreeSet<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    History,
    Live,
}

impl Follower {
    /// `query.until` has no meaning here and is left out.
    pub fn new(watch: &Arc<LogWatch>, root: LogRoot, mut query: LogQuery) -> Self {
        query.until = None;
        let cursor = query.after.clone().unwrap_or_default();
        let state = State {
            root,
            query,
            phase: Phase::History,
            began: cursor.clone(),
            cursor,
            live: BTreeMap::new(),
            dirty: BTreeSet::new(),
        };
        Self { watch: Arc::clone(watch), wake: Arc::default(), state: Some(Box::new(state)) }
    }

    /// Waits for entries; oldest first within a page. The page's cursor leads back to here.
    pub async fn next(&mut self) -> Result<Page, LogError> {
        loop {
            let page = self.read().await?;
            if !page.entries.is_empty() {
                return Ok(page);
            }
            if !page.more {
                self.wake.notify.notified().await;
            }
        }
    }

    /// Ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Page, LogError>> + Send {
        futures_util::stream::unfold(Some(self), |follower| async move {
            let mut follower = follower?;
            let page = follower.next().await;
            let next = page.is_ok().then_some(follower);
            Some((page, next))
        })
    }

    async fn read(&mut self) -> Result<Page, LogError> {
        let (watch, wake) = (Arc::clone(&self.watch), Arc::clone(&self.wake));
        let Some(mut state) = self.state.take() else { return Ok(Page::default()) };
        let work = tokio::task::spawn_blocking(move || {
            let page = state.read(&watch, &wake);
            (state, page)
        });
        let (state, page) = work.await.map_err(LogError::Thread)?;
        self.state = Some(state);
        page
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.watch.remove(&self.wake);
    }
}

impl State {
    fn read(&mut self, watch: &LogWatch, wake: &Arc<Wake>) -> Result<Page, LogError> {
        let path = self.root.app(self.query.app);
        match self.phase {
            Phase::History => {
                // Watched before it is read, so that nothing falls in between.
                self.look(watch, wake).map_err(|source| LogError::Watch { path, source })?;
                self.history()
            }
            Phase::Live => {
                let news =
                    std::mem::take(&mut *wake.dirty.lock().unwrap_or_else(PoisonError::into_inner));
                let known = news.iter().all(|path| self.live.contains_key(path));
                self.dirty.extend(news);
                if !known {
                    self.look(watch, wake)
                        .map_err(|source| LogError::Watch { path: path.clone(), source })?;
                }
                self.news().map_err(|source| LogError::Read { path, source })
            }
        }
    }

    fn history(&mut self) -> Result<Page, LogError> {
        let mut page = query(&self.root, &self.query)?;
        self.cursor = page.cursor.clone();
        if !page.more {
            self.phase = Phase::Live;
            self.began = page.cursor.clone();
            self.dirty = self.live.keys().cloned().collect();
            // Once more at once: something may have come since.
            page.more = true;
        }
        self.query.after = Some(page.cursor.clone());
        Ok(page)
    }

    fn news(&mut self) -> io::Result<Page> {
        let filter = self.query.filter();
        let mut page = Page::default();
        let mut bytes = 0;
        while let Some(path) = self.dirty.pop_first() {
            let Some((instance, reader)) = self.live.get_mut(&path) else { continue };
            while let Some(raw) = reader.next()? {
                if !self.began.admits(Some(*instance), raw.seq, raw.ms) {
                    continue;
                }
                if let Some(entry) = filter.entry(raw, Some(*instance)) {
                    bytes += entry.text.len() + size_of::<Entry>();
                    page.entries.push(entry);
                }
                if bytes > PAGE_BYTES_MAX {
                    page.more = true;
                    break;
                }
            }
            if page.more {
                self.dirty.insert(path);
                break;
            }
        }
        page.entries.sort_by_key(|e| (e.at, e.instance, e.seq));
        for entry in &page.entries {
            self.cursor.advance(entry.instance, entry.seq, entry.at.as_millis());
        }
        page.cursor = self.cursor.clone();
        Ok(page)
    }

    /// Watches the directories and opens readers for instances that may still write.
    fn look(&mut self, watch: &LogWatch, wake: &Arc<Wake>) -> io::Result<()> {
        let app = self.root.app(self.query.app);
        // An app that has not run yet can be followed too.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&app)?;
        watch.add(&app, wake)?;
        for component in super::layout::folders(&app)? {
            let wanted = self.query.component.as_ref();
            if wanted.is_none_or(|name| component.ends_with(name.as_str())) {
                gone_is_fine(watch.add(&component, wake))?;
            }
        }
        let wanted = self.query.component.as_ref();
        let dirs = self.root.instances(self.query.app, wanted, self.query.instance)?;
        for dir in dirs {
            if self.live.contains_key(&dir.path) {
                continue;
            }
            // Added before it is listed; a sealed newest segment means that the instance is gone.
            gone_is_fine(watch.add(&dir.path, wake))?;
            let over = SegmentName::list(&dir.path)?.last().is_some_and(|newest| newest.sealed);
            if over && self.phase == Phase::History {
                continue;
            }
            let reader = InstanceReader::open(&dir.path, self.began.since_ms())?;
            self.dirty.insert(dir.path.clone());
            self.live.insert(dir.path, (dir.instance, reader));
        }
        self.live.retain(|path, _| path.exists());
        Ok(())
    }
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
