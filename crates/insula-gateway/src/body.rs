//! Bodies on their way through: never collected, watched for silence, counted.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::task::AbortHandle;
use tokio::time::Sleep;

use crate::endpoint::Lease;
use crate::front::InFlight;
use crate::pool::Returning;
use crate::traffic::Counts;

#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("read a request's body")]
    Request(#[source] hyper::Error),
    #[error("read an answer's body")]
    Answer(#[source] hyper::Error),
    #[error("nothing of a body came for {0:?}")]
    Silent(Duration),
    #[error("a visitor took nothing of an answer for {0:?}")]
    Untaken(Duration),
    #[error("a request's body is larger than {0} bytes")]
    TooLarge(u64),
}

/// From a visitor to an app.
#[derive(Debug)]
pub(crate) struct RequestBody {
    source: Option<Incoming>,
    silence: Silence,
    left: u64,
    max: u64,
    progress: Progress,
}

/// What whoever waits for an answer wants to know of the body that is still being sent.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    last: Rc<Cell<Instant>>,
    too_large: Rc<Cell<bool>>,
    /// A visitor who stopped sending, or broke off.
    broken: Rc<Cell<bool>>,
    touched: Rc<Cell<bool>>,
}

/// From an app, or from ourselves, to a visitor.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    flow: Rc<RefCell<Flow>>,
    /// Where nobody else notices a visitor who takes nothing (see `watched`).
    patience: Option<Duration>,
    watcher: Option<AbortHandle>,
}

#[derive(Debug)]
struct Flow {
    source: Source,
    /// Since when a piece waits for the visitor to ask for the next one.
    offered: Option<Instant>,
    /// Last, so that the connection hears of it when everything else is given back.
    in_flight: Option<InFlight>,
}

#[derive(Debug)]
enum Source {
    /// Nothing, once it is sent.
    Page(Option<Bytes>),
    App(Box<App>),
    /// Taken away, because the visitor did not take it.
    Withdrawn(Duration),
}

#[derive(Debug)]
struct App {
    body: Incoming,
    ended: bool,
    silence: Silence,
    sent: u64,
    counts: Arc<Counts>,
    connection: Option<Returning>,
    _lease: Lease,
}

/// Notices when nothing comes for too long. Costs nothing while something comes.
#[derive(Debug)]
struct Silence {
    patience: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    listening: bool,
}

impl RequestBody {
    pub(crate) fn of(source: Incoming) -> Self {
        let source = Some(source).filter(|body| !body.is_end_stream());
        Self {
            source,
            silence: Silence::new(Duration::MAX),
            left: u64::MAX,
            max: u64::MAX,
            progress: Progress::new(),
        }
    }

    pub(crate) fn empty() -> Self {
        Self {
            source: None,
            silence: Silence::new(Duration::MAX),
            left: 0,
            max: 0,
            progress: Progress::new(),
        }
    }

    pub(crate) fn bounded(mut self, max: u64, patience: Duration) -> Self {
        (self.left, self.max) = (max, max);
        self.silence = Silence::new(patience);
        self
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }
}

impl Progress {
    fn new() -> Self {
        Self {
            last: Rc::new(Cell::new(Instant::now())),
            too_large: Rc::default(),
            broken: Rc::default(),
            touched: Rc::default(),
        }
    }

    pub(crate) fn last(&self) -> Instant {
        self.last.get()
    }

    pub(crate) fn too_large(&self) -> bool {
        self.too_large.get()
    }

    pub(crate) fn broken(&self) -> bool {
        self.broken.get()
    }

    /// Something of it was taken: it cannot be sent again.
    pub(crate) fn touched(&self) -> bool {
        self.touched.get()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(source) = &mut this.source else { return Poll::Ready(None) };
        this.progress.touched.set(true);
        let Poll::Ready(frame) = Pin::new(source).poll_frame(cx) else {
            if this.silence.too_long(cx) {
                this.progress.broken.set(true);
                return Poll::Ready(Some(Err(BodyError::Silent(this.silence.patience))));
            }
            return Poll::Pending;
        };
        this.silence.broken();
        this.progress.last.set(Instant::now());
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let len = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                if len > this.left {
                    this.progress.too_large.set(true);
                    Some(Err(BodyError::TooLarge(this.max)))
                } else {
                    this.left -= len;
                    Some(Ok(frame))
                }
            }
            Some(Err(error)) => {
                this.progress.broken.set(true);
                Some(Err(BodyError::Request(error)))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.source.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.source.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl ResponseBody {
    fn new(source: Source) -> Self {
        let flow = Flow { source, offered: None, in_flight: None };
        Self { flow: Rc::new(RefCell::new(flow)), patience: None, watcher: None }
    }

    pub(crate) fn page(text: String) -> Self {
        Self::new(Source::Page(Some(Bytes::from(text))))
    }

    pub(crate) fn empty() -> Self {
        Self::new(Source::Page(None))
    }

    pub(crate) fn app(
        body: Incoming,
        patience: Duration,
        counts: Arc<Counts>,
        connection: Returning,
        lease: Lease,
    ) -> Self {
        Self::new(Source::App(Box::new(App {
            ended: body.is_end_stream(),
            body,
            silence: Silence::new(patience),
            sent: 0,
            counts,
            connection: Some(connection),
            _lease: lease,
        })))
    }

    pub(crate) fn hold(self, in_flight: InFlight) -> Self {
        self.flow.borrow_mut().in_flight = Some(in_flight);
        self
    }

    /// Lets go of the app if the visitor takes nothing for so long. For HTTP/2: there a visitor
    /// stops one stream while the connection moves, and would hold an instance for ever.
    pub(crate) fn watched(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }
}

/// Ends when the body is dropped, or when it has withdrawn it.
async fn watch(flow: Weak<RefCell<Flow>>, patience: Duration) {
    let mut deadline = Instant::now() + patience;
    loop {
        tokio::time::sleep_until(deadline.into()).await;
        let Some(flow) = flow.upgrade() else { return };
        let mut flow = flow.borrow_mut();
        let now = Instant::now();
        deadline = flow.offered.unwrap_or(now) + patience;
        if deadline <= now {
            flow.source = Source::Withdrawn(patience);
            flow.in_flight = None;
            return;
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut flow = self.flow.borrow_mut();
        flow.offered = None;
        let frame = match &mut flow.source {
            Source::Page(page) => return Poll::Ready(page.take().map(|b| Ok(Frame::data(b)))),
            Source::Withdrawn(patience) => {
                return Poll::Ready(Some(Err(BodyError::Untaken(*patience))));
            }
            Source::App(app) => {
                let frame = ready!(app.poll_frame(cx));
                if app.ended {
                    // The app is done, however long the visitor takes for the rest.
                    flow.source = Source::Page(None);
                }
                frame
            }
        };
        flow.offered = Some(Instant::now());
        let moves = matches!(flow.source, Source::App(_));
        drop(flow);
        if let (true, Some(patience), None) = (moves, self.patience, &self.watcher) {
            let watching = watch(Rc::downgrade(&self.flow), patience);
            self.watcher = Some(tokio::task::spawn_local(watching).abort_handle());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.flow.borrow().source {
            Source::Page(page) => page.is_none(),
            Source::App(app) => app.body.is_end_stream(),
            Source::Withdrawn(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.flow.borrow().source {
            Source::Page(page) => SizeHint::with_exact(page.as_ref().map_or(0, |p| p.len() as u64)),
            Source::App(app) => app.body.size_hint(),
            Source::Withdrawn(_) => SizeHint::default(),
        }
    }
}

impl App {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending if self.silence.too_long(cx) => {
                return Poll::Ready(Some(Err(BodyError::Silent(self.silence.patience))));
            }
            Poll::Pending => return Poll::Pending,
        };
        self.silence.broken();
        match &frame {
            Some(Ok(frame)) => {
                self.sent += frame.data_ref().map_or(0, |b| b.len() as u64);
                self.ended = self.body.is_end_stream();
            }
            Some(Err(_)) => {}
            None => self.ended = true,
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Answer)))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if self.sent > 0 {
            self.counts.sent(self.sent);
        }
        // What was not read to its end is still on the wire; such a connection is of no use.
        if self.ended
            && let Some(connection) = self.connection.take()
        {
            connection.give_back();
        }
    }
}

impl Silence {
    fn new(patience: Duration) -> Self {
        Self { patience, sleep: None, listening: false }
    }

    fn broken(&mut self) {
        self.listening = false;
    }

    fn too_long(&mut self, cx: &mut Context<'_>) -> bool {
        let sleep = match &mut self.sleep {
            Some(sleep) => sleep,
            none => none.insert(Box::pin(tokio::time::sleep(self.patience))),
        };
        if !self.listening {
            self.listening = true;
            // `Duration::MAX` is what `sleep` turns into the far future by itself.
            if let Some(deadline) = tokio::time::Instant::now().checked_add(self.patience) {
                sleep.as_mut().reset(deadline);
            }
        }
        poll_sleep(sleep.as_mut(), cx).is_ready()
    }
}

fn poll_sleep(sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
    ready!(sleep.poll(cx));
    Poll::Ready(())
}
