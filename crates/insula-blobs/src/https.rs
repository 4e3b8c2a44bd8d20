//! The HTTP client under an S3 store: hyper over rustls with ring.
//!
//! object_store's own transport is reqwest, whose TLS without aws-lc depends on a provider that
//! somebody must have installed for the whole process. This one brings its own.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};

/// A store that does not accept a connection within this is unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until the answer begins, the sending of one part (8 MiB) included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Servers close idle connections after a minute or more; be first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// Twice what one batch sends at once; the rest would lie idle.
const IDLE_PER_HOST_MAX: usize = 32;

#[derive(Debug)]
pub(crate) struct Https {
    pub allow_http: bool,
}

struct Transport {
    client: Client<HttpsConnector<TcpConnector>, HttpRequestBody>,
}

impl HttpConnector for Https {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let failed = |source| object_store::Error::Generic { store: "S3", source };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(|error| failed(Box::new(error)))?;
        let builder = if self.allow_http { builder.https_or_http() } else { builder.https_only() };
        let mut tcp = TcpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .build(builder.enable_http1().wrap_connector(tcp));
        Ok(HttpClient::new(Transport { client }))
    }
}

impl HttpService for Transport {
    // Spelled out as the trait's macro would, which is one dependency less.
    fn call<'a, 'out>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'out>>
    where
        'a: 'out,
        Self: 'out,
    {
        Box::pin(async move {
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.client.request(request))
                .await
                .map_err(|late| HttpError::new(HttpErrorKind::Timeout, late))?
                .map_err(|error| HttpError::new(kind_of(&error), Told::all(&error)))?;
            let (head, body) = answer.into_parts();
            let body =
                body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, Told::all(&error)));
            Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
        })
    }
}

/// What decides whether object_store tries again: a request that was never sent always may.
fn kind_of(error: &hyper_util::client::legacy::Error) -> HttpErrorKind {
    if error.is_connect() {
        return HttpErrorKind::Connect;
    }
    let mut source = error.source();
    while let Some(error) = source {
        if error.downcast_ref::<std::io::Error>().is_some() {
            return HttpErrorKind::Interrupted;
        }
        source = error.source();
    }
    HttpErrorKind::Request
}

/// An error with all its causes in one line: object_store prints the first alone, which for a
/// certificate that nobody trusts is "client error (Connect)".
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

impl Told {
    fn all(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self(text)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport(hyper, rustls, ring)")
    }
}
