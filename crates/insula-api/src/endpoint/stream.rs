//! Server-sent events: one shape for logs and events, kept open by comments, ended at shutdown.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderValue, header};
use insula_kit::shutdown::Shutdown;
use insula_model::TokenId;
use serde::Serialize;

use crate::limits::STREAM_KEEP_ALIVE;
use crate::place::Place;
use crate::reply::Reply;

/// One event, as it goes over the wire. JSON has no line breaks, so one `data` line is enough.
pub fn event<T: Serialize>(name: &str, id: Option<u64>, value: &T) -> Bytes {
    let data = serde_json::to_string(value).unwrap_or_default();
    let id = id.map_or(String::new(), |id| format!("id: {id}\n"));
    format!("event: {name}\n{id}data: {data}\n\n").into()
}

/// An answer that goes on until `events` ends, the caller hangs up, or the server ends.
pub fn answer<S>(events: S, place: Place<TokenId>, shutdown: Shutdown) -> Reply
where
    S: Stream<Item = Bytes> + Send + 'static,
{
    let ended = async move { shutdown.requested().await };
    let events = with_comments(events, STREAM_KEEP_ALIVE).take_until(ended);
    let events = events.map(move |bytes| {
        let _held = &place;
        Ok::<_, Infallible>(bytes)
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer would turn a stream into a download.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Reply::Raw(response)
}

fn with_comments<S>(events: S, pause: Duration) -> impl Stream<Item = Bytes> + Send + 'static
where
    S: Stream<Item = Bytes> + Send + 'static,
{
    // The head of the answer goes out with the first bytes, so a quiet stream begins with some.
    let opening = futures_util::stream::iter([Bytes::from_static(b": open\n\n")]);
    let quiet = futures_util::stream::unfold(Box::pin(events), move |mut events| async move {
        match tokio::time::timeout(pause, events.next()).await {
            Ok(Some(bytes)) => Some((bytes, events)),
            Ok(None) => None,
            Err(_) => Some((Bytes::from_static(b": quiet\n\n"), events)),
        }
    });
    opening.chain(quiet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_block_whatever_is_in_it() {
        let text = event("log", Some(7), &"a\nb\r\n\nevent: end");
        let expected = "event: log\nid: 7\ndata: \"a\\nb\\r\\n\\nevent: end\"\n\n";
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn a_quiet_stream_says_that_it_lives() {
        let quiet = futures_util::stream::pending::<Bytes>();
        let mut stream = std::pin::pin!(with_comments(quiet, Duration::from_millis(1)));
        assert_eq!(stream.next().await.unwrap(), ": open\n\n");
        assert_eq!(stream.next().await.unwrap(), ": quiet\n\n");
        assert_eq!(stream.next().await.unwrap(), ": quiet\n\n");
    }
}
