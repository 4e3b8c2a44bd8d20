//! HTTP on a visitor's connection: bytes to requests, answers to bytes.
//!
//! A trait, because the HTTP/1 that stands here today (hyper's) will give way to one of our own.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::body::{RequestBody, ResponseBody};
use crate::front::{Front, Link};
use crate::limits::Limits;
use crate::strict::Refusal;

pub(crate) trait Bytes: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Bytes for T {}

/// The bare connection, once an answer has switched protocols.
pub(crate) type Upgrade = Pin<Box<dyn Future<Output = io::Result<Box<dyn Bytes>>>>>;

pub(crate) struct Visit {
    pub(crate) request: Request<RequestBody>,
    /// What the bytes were refused for; then the request is not the visitor's.
    pub(crate) refusal: Option<Refusal>,
    /// Where HTTP/1.1 allows it.
    pub(crate) upgrade: Option<Upgrade>,
}

pub(crate) trait Handler: Clone + 'static {
    fn handle(
        &self,
        visit: Visit,
        link: &Arc<Link>,
    ) -> impl Future<Output = Response<ResponseBody>>;
}

pub(crate) trait Codec {
    /// Until the visitor leaves, or, once `ending` turns true, until his last answer is out.
    fn serve<H: Handler>(
        &self,
        front: Front,
        handler: H,
        ending: watch::Receiver<bool>,
    ) -> impl Future<Output = ()>;
}

#[derive(Debug)]
pub(crate) struct HyperHttp1 {
    builder: http1::Builder,
}

#[derive(Debug)]
pub(crate) struct HyperHttp2 {
    builder: http2::Builder<Local>,
    stall_timeout: Duration,
}

impl HyperHttp1 {
    pub(crate) fn new(limits: &Limits) -> Self {
        let mut builder = http1::Builder::new();
        // Time is the front's business, as is the size of a head.
        builder
            .header_read_timeout(None)
            .max_headers(limits.headers_max)
            .max_buf_size(2 * limits.head_bytes_max.max(8 * 1024));
        Self { builder }
    }
}

impl HyperHttp2 {
    pub(crate) fn new(limits: &Limits) -> Self {
        let mut builder = http2::Builder::new(Local);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_max)
            .max_header_list_size(u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX));
        Self { builder, stall_timeout: limits.stall_timeout }
    }
}

impl Codec for HyperHttp1 {
    async fn serve<H: Handler>(&self, front: Front, handler: H, mut ending: watch::Receiver<bool>) {
        let link = front.link();
        let service = service_fn({
            let link = Arc::clone(&link);
            move |mut request: Request<Incoming>| {
                let (handler, link) = (handler.clone(), Arc::clone(&link));
                async move {
                    let in_flight = link.adopt_request();
                    let upgrade = upgrade_of(&mut request);
                    let request = request.map(RequestBody::of);
                    let visit = Visit { request, refusal: link.take_refusal(), upgrade };
                    let response = handler.handle(visit, &link).await;
                    Ok::<_, Infallible>(response.map(|body| body.hold(in_flight)))
                }
            }
        });
        let io = TokioIo::new(front);
        let mut connection = pin!(self.builder.serve_connection(io, service).with_upgrades());
        tokio::select! {
            _ = &mut connection => return,
            () = ended(&mut ending) => {}
        }
        link.end();
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

impl Codec for HyperHttp2 {
    async fn serve<H: Handler>(&self, front: Front, handler: H, mut ending: watch::Receiver<bool>) {
        let link = front.link();
        let patience = self.stall_timeout;
        let service = service_fn(move |request: Request<Incoming>| {
            let (handler, link) = (handler.clone(), Arc::clone(&link));
            async move {
                let in_flight = link.begin_request();
                let request = request.map(RequestBody::of);
                let visit = Visit { request, refusal: None, upgrade: None };
                let response = handler.handle(visit, &link).await;
                Ok::<_, Infallible>(response.map(|body| body.hold(in_flight).watched(patience)))
            }
        });
        let io = TokioIo::new(front);
        let mut connection = pin!(self.builder.serve_connection(io, service));
        tokio::select! {
            _ = &mut connection => return,
            () = ended(&mut ending) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

async fn ended(ending: &mut watch::Receiver<bool>) {
    // Without a sender the thread is gone, which is an end as well.
    let _ = ending.wait_for(|ending| *ending).await;
}

fn upgrade_of(request: &mut Request<Incoming>) -> Option<Upgrade> {
    if request.version() != http::Version::HTTP_11 {
        return None;
    }
    Some(upgraded(hyper::upgrade::on(request)))
}

pub(crate) fn upgraded(on: hyper::upgrade::OnUpgrade) -> Upgrade {
    Box::pin(async move {
        let upgraded = on.await.map_err(io::Error::other)?;
        Ok(Box::new(TokioIo::new(upgraded)) as Box<dyn Bytes>)
    })
}

/// Futures of one thread stay on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
