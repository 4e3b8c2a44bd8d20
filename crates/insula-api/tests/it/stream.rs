//! Streams: events as they happen, the end of the server, and how many one may have.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::stage::{Stage, With};

/// A reader of a stream.
pub struct Following {
    body: Incoming,
    held: String,
}

impl Following {
    pub async fn open(stage: &Stage, path: &str) -> Self {
        Self::open_with(stage, path, With::token(&stage.operator)).await
    }

    pub async fn open_with(stage: &Stage, path: &str, with: With) -> Self {
        let with = with.header("accept", "text/event-stream");
        let response = stage.begin("GET", path, with).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), held: String::new() }
    }

    /// The next event's name, id and data; nothing at the end.
    pub async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            if let Some(at) = self.held.find("\n\n") {
                let block: String = self.held.drain(..at + 2).collect();
                let field = |name: &str| {
                    let line = block.lines().find_map(|line| line.strip_prefix(name));
                    line.unwrap_or_default().to_owned()
                };
                if block.starts_with(':') {
                    continue;
                }
                let data = serde_json::from_str(&field("data: ")).unwrap();
                return Some((field("event: "), field("id: "), data));
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame());
            let frame = frame.await.expect("the stream says something")?.ok()?;
            self.held.push_str(str::from_utf8(frame.data_ref()?).unwrap());
        }
    }
}

#[tokio::test]
async fn events_are_followed_and_taken_up_again_without_a_gap() {
    let stage = Stage::open().await;
    stage.app("default", "before").await;
    let mut following = Following::open(&stage, "/v1/orgs/default/events").await;
    let one = stage.app("default", "one").await;
    let (name, id, data) = following.next().await.unwrap();
    assert_eq!((name.as_str(), &data["subject"]), ("event", &json!(one)));
    drop(following);
    let two = stage.app("default", "two").await;
    let path = format!("/v1/orgs/default/events?after={id}");
    let mut again = Following::open(&stage, &path).await;
    assert_eq!(again.next().await.unwrap().2["subject"], json!(two));
    let with = With::token(&stage.operator).header("last-event-id", id);
    let mut browser = Following::open_with(&stage, "/v1/orgs/default/events", with).await;
    assert_eq!(browser.next().await.unwrap().2["subject"], json!(two));
}

#[tokio::test]
async fn a_stream_shows_no_other_org() {
    let stage = Stage::open().await;
    stage.org("acme").await;
    let mut following = Following::open(&stage, "/v1/orgs/acme/events?after=0").await;
    stage.app("default", "foreign").await;
    let own = stage.app("acme", "own").await;
    loop {
        let (_, _, data) = following.next().await.unwrap();
        let acme = stage.get(&stage.operator, "/v1/orgs/acme").await.ok()["id"].clone();
        assert_eq!(data["org"], acme);
        if data["subject"] == json!(own) {
            break;
        }
    }
}

#[tokio::test]
async fn streams_end_with_the_server_and_there_are_only_so_many() {
    let stage = Stage::open().await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(Following::open(&stage, "/v1/orgs/default/events").await);
    }
    let with = With::token(&stage.operator).header("accept", "text/event-stream");
    let refused = stage.send("GET", "/v1/orgs/default/events", with).await;
    refused.refused(429, "too_many_streams");
    let mut last = open.pop().unwrap();
    stage.end();
    assert!(last.next().await.is_none());
}

#[tokio::test]
async fn logs_need_a_node_and_a_stream_to_be_followed() {
    let stage = Stage::open().await;
    let app = stage.app("default", "shop").await;
    let path = format!("/v1/orgs/default/apps/{app}/logs");
    let answer = stage.get(&stage.operator, &path).await;
    answer.refused(503, "unavailable");
    assert!(answer.header("retry-after").is_some());
    let follow = stage.get(&stage.operator, &format!("{path}?follow=true")).await;
    follow.refused(400, "bad_request");
    let many = stage.get(&stage.operator, &format!("{path}?tail=1000000")).await;
    many.refused(400, "bad_request");
}
