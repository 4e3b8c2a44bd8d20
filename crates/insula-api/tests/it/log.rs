//! Logs through a node's session: what an agent says over its socket is what a developer reads.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use insula_link::blobs::{Answer, BlobError, BlobKind, BlobStore, BlobStream};
use insula_link::{Hub, serve};
use insula_model::build::{Build, BuildState};
use insula_model::deployment::{Cause, CauseCode};
use insula_model::feed::Change;
use insula_model::{Digest, NodeId, OrgId, Timestamp};
use insula_store::{Tx, builds, instances, orgs};
use insula_wire::facts::NodeFacts;
use insula_wire::node as wire;
use insula_wire::node::agent_message::Message as FromAgent;
use insula_wire::node::server_message::Message as ToAgent;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::scene::Scene;
use crate::stage::{Stage, With};
use crate::stream::Following;

/// The first one is that of the first scene.
pub fn node_id(n: u8) -> NodeId {
    NodeId::from_parts(Timestamp::from_millis(1_794_000_000_000), [n; 10])
}

/// Anything that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The agent of these stories asks for no blobs.
struct NoBlobs;

impl BlobStore for NoBlobs {
    fn get(&self, _: OrgId, _: BlobKind, _: Digest) -> Answer<'_, BlobStream> {
        Box::pin(async { Err(BlobError::NotFound) })
    }

    fn put(
        &self,
        _: OrgId,
        _: BlobKind,
        _: Option<Digest>,
        _: BlobStream,
    ) -> Answer<'_, (Digest, u64)> {
        Box::pin(async { Err(BlobError::NotFound) })
    }
}

/// An agent with a session: the protocol's own client.
pub struct Agent {
    sender: mpsc::Sender<wire::AgentMessage>,
    answers: Streaming<wire::ServerMessage>,
}

impl Agent {
    async fn join(stage: &Stage) -> Self {
        Self::join_at(&stage.hub, stage.folder(), 1).await
    }

    /// At the hub of any server.
    pub async fn join_at(hub: &Hub, folder: &std::path::Path, n: u8) -> Self {
        let socket = folder.join(format!("node-{n}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let blobs = std::sync::Arc::new(NoBlobs);
        tokio::spawn(serve::nodes(hub.clone(), blobs, None, listener, std::future::pending()));
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let channel =
            Endpoint::from_static("http://insula").connect_with_connector(connector).await.unwrap();
        let offer = crate::deploy::offer();
        let facts = NodeFacts { offer, relay: None, clock: None, site: None };
        let hello = wire::Hello {
            node: node_id(n).to_string(),
            name: format!("node-{n}"),
            version: "0.1.0".into(),
            protocol: wire::PROTOCOL,
            facts: serde_json::to_string(&facts).unwrap(),
            generation: 0,
        };
        let (sender, receiver) = mpsc::channel(16);
        let first = wire::AgentMessage { message: Some(FromAgent::Hello(hello)) };
        sender.send(first).await.unwrap();
        let mut client = wire::node_client::NodeClient::new(channel);
        let answers = client.session(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let mut agent = Self { sender, answers };
        assert!(matches!(agent.hear().await, ToAgent::Welcome(_)));
        wait_for(hub, n).await;
        agent
    }

    pub async fn hear(&mut self) -> ToAgent {
        let answer = tokio::time::timeout(PATIENCE, self.answers.next()).await.unwrap();
        answer.unwrap().unwrap().message.unwrap()
    }

    pub async fn asked_for_logs(&mut self) -> wire::LogRequest {
        loop {
            if let ToAgent::LogRequest(request) = self.hear().await {
                return request;
            }
        }
    }

    /// The reader's end is noticed when there is something to write, or at the next comment.
    pub async fn is_told_to_stop(&mut self, stream: u64) {
        loop {
            self.say(stream, &[(2, "two")], false).await;
            let heard = tokio::time::timeout(Duration::from_millis(20), self.answers.next()).await;
            let heard = heard.ok().flatten().and_then(|heard| heard.ok()?.message);
            if let Some(ToAgent::LogCancel(cancel)) = heard {
                assert_eq!(cancel.stream, stream);
                return;
            }
        }
    }

    /// Says what it was not asked for, until the server has refused it; hears of no question meanwhile.
    async fn forges(&mut self, stream: u64) {
        self.say(stream, &[(1, "forged")], true).await;
        self.is_not_asked_before_the_end_of(stream).await;
    }

    /// Every node hears of the end of a stream.
    async fn is_not_asked_before_the_end_of(&mut self, stream: u64) {
        loop {
            match self.hear().await {
                ToAgent::LogRequest(_) => panic!("it was asked"),
                ToAgent::LogCancel(cancel) if cancel.stream == stream => return,
                _ => {}
            }
        }
    }

    pub async fn say(&self, stream: u64, lines: &[(i64, &str)], end: bool) {
        let entries = lines.iter().map(|(at_ms, line)| wire::LogEntry {
            at_ms: *at_ms,
            instance: "ins_x".into(),
            component: "web".into(),
            channel: 2,
            line: line.as_bytes().to_vec(),
            sequence: u64::try_from(*at_ms).unwrap(),
        });
        let chunk =
            wire::LogChunk { stream, entries: entries.collect(), end, ..Default::default() };
        let message = wire::AgentMessage { message: Some(FromAgent::Log(chunk)) };
        self.sender.send(message).await.unwrap();
    }
}

/// The session is known to the hub by the time of the welcome, or a moment later.
async fn wait_for(hub: &Hub, n: u8) {
    let node = node_id(n);
    let joined = async {
        while !hub.nodes_connected().contains(&node) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, joined).await.unwrap();
}

#[tokio::test]
async fn a_page_of_a_log_is_what_the_nodes_have() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let mut agent = Agent::join(&stage).await;
    let path = format!(
        "/v1/orgs/acme/apps/{}/logs?tail=2&component=web&grep=a%20b&since=1970-01-01T00:00:00Z",
        scene.ids["app"]
    );
    let answering = async {
        let asked = agent.asked_for_logs().await;
        assert_eq!((asked.app.as_str(), asked.component.as_str()), (&*scene.ids["app"], "web"));
        assert_eq!((asked.tail, asked.grep.as_str(), asked.follow), (2, "a b", false));
        agent.say(asked.stream, &[(3, "third"), (1, "first")], false).await;
        agent.say(asked.stream, &[(2, "second \u{fffd}\n")], true).await;
    };
    let (answer, ()) = tokio::join!(stage.get(&stage.operator, &path), answering);
    let page = answer.ok();
    let lines: Vec<_> = page["items"].as_array().unwrap().iter().map(|l| &l["line"]).collect();
    assert_eq!(lines, ["second \u{fffd}\n", "third"], "in order, and only the last two");
    assert_eq!(page["items"][0]["channel"], "err");
    assert_eq!(page["items"][0]["at"], "1970-01-01T00:00:00.002Z");
}

#[tokio::test]
async fn a_log_is_followed_until_its_reader_goes_away() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let mut agent = Agent::join(&stage).await;
    let path = format!("/v1/orgs/acme/apps/{}/logs?follow=true", scene.ids["app"]);
    let mut following = Following::open(&stage, &path).await;
    let asked = agent.asked_for_logs().await;
    assert!(asked.follow);
    agent.say(asked.stream, &[(1, "one\nevent: end\n\n")], false).await;
    let (name, _, data) = following.next().await.unwrap();
    assert_eq!((name.as_str(), &data["line"]), ("log", &json!("one\nevent: end\n\n")));
    drop(following);
    agent.is_told_to_stop(asked.stream).await;
}

#[tokio::test]
async fn a_node_that_never_had_an_app_has_no_say_in_its_log() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let mut here = Agent::join(&stage).await;
    let mut stranger = Agent::join_at(&stage.hub, stage.folder(), 2).await;
    let path = format!("/v1/orgs/acme/apps/{}/logs", scene.ids["app"]);
    for path in [path.clone(), format!("{path}?grep=secret&instance={}", scene.gone_instance())] {
        let answering = async {
            let asked = here.asked_for_logs().await;
            // It guesses the number of the stream; its session is as good as any other.
            stranger.forges(asked.stream).await;
            here.say(asked.stream, &[(2, "true")], true).await;
        };
        let (answer, ()) = tokio::join!(stage.get(&stage.operator, &path), answering);
        assert_eq!(lines_of(&answer.ok()), ["true"]);
    }
}

#[tokio::test]
async fn an_instance_of_another_app_makes_its_node_no_witness() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let mut stranger = Agent::join(&stage).await;
    let mut silent = Agent::join_at(&stage.hub, stage.folder(), 2).await;
    let other = stage.app("acme", "other").await;
    let path = format!("/v1/orgs/acme/apps/{other}/logs?instance={}", scene.ids["instance"]);
    assert_eq!(lines_of(&stage.get(&stage.operator, &path).await.ok()), Vec::<String>::new());
    for node in [&mut stranger, &mut silent] {
        node.is_not_asked_before_the_end_of(1).await;
    }
}

#[tokio::test]
async fn of_a_build_that_no_node_has_begun_nobody_is_asked() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    // One that has the app, and one that has nothing of it.
    let mut of_app = Agent::join(&stage).await;
    let mut stranger = Agent::join_at(&stage.hub, stage.folder(), 2).await;
    let path = format!("/v1/orgs/acme/builds/{}/log", scene.ids["build"]);
    for node in [&of_app, &stranger] {
        // The streams of a server are numbered from one.
        node.say(1, &[(1, "forged")], false).await;
    }
    assert_eq!(lines_of(&stage.get(&stage.operator, &path).await.ok()), Vec::<String>::new());
    for node in [&mut of_app, &mut stranger] {
        node.is_not_asked_before_the_end_of(1).await;
    }
}

#[tokio::test]
async fn only_the_node_of_a_build_speaks_for_it_from_when_it_has_it() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let mut of_app = Agent::join(&stage).await;
    let mut of_build = Agent::join_at(&stage.hub, stage.folder(), 2).await;
    let path = format!("/v1/orgs/acme/builds/{}/log?follow=true", scene.ids["build"]);
    let mut following = Following::open(&stage, &path).await;
    of_app.forges(1).await;
    builds_on(&stage, &scene, 2, 1).await;
    let asked = of_build.asked_for_logs().await;
    assert_eq!((asked.build.as_str(), asked.follow), (&*scene.ids["build"], true));
    of_app.forges(asked.stream).await;
    of_build.say(asked.stream, &[(1, "true")], false).await;
    assert_eq!(following.next().await.unwrap().2["line"], "true");
    // It begins again elsewhere, and who follows it goes there.
    builds_on(&stage, &scene, 1, 2).await;
    let again = of_app.asked_for_logs().await;
    assert_eq!(again.stream, asked.stream);
    of_app.say(again.stream, &[(2, "again")], true).await;
    assert_eq!(following.next().await.unwrap().2["line"], "again");
}

#[tokio::test]
async fn a_build_that_was_over_before_its_node_was_seen_is_read_where_it_was() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let mut was_here = Agent::join_at(&stage.hub, stage.folder(), 2).await;
    let path = format!("/v1/orgs/acme/builds/{}/log?follow=true", scene.ids["build"]);
    let mut following = Following::open(&stage, &path).await;
    let running = BuildState::Running { node: node_id(2), attempt: 1 };
    let cause = Cause::new(CauseCode::BuildFailed, "it ended with 1");
    set_builds_state(&stage, &scene, running).await;
    set_builds_state(&stage, &scene, BuildState::Failed { cause }).await;
    show(&stage);
    let asked = was_here.asked_for_logs().await;
    assert!(!asked.follow);
    was_here.say(asked.stream, &[(1, "no such file")], true).await;
    assert_eq!(following.next().await.unwrap().2["line"], "no such file");
    assert_eq!(following.next().await.unwrap().0, "end");
}

#[tokio::test]
async fn a_followed_build_that_is_cancelled_in_its_queue_ends() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let mut of_app = Agent::join(&stage).await;
    let path = format!("/v1/orgs/acme/builds/{}/log?follow=true", scene.ids["build"]);
    let mut following = Following::open(&stage, &path).await;
    set_builds_state(&stage, &scene, BuildState::Cancelled).await;
    show(&stage);
    let asked = of_app.asked_for_logs().await;
    of_app.say(asked.stream, &[], true).await;
    assert_eq!(following.next().await.unwrap().0, "end");
}

/// The texts of a page.
fn lines_of(page: &Value) -> Vec<String> {
    let lines = page["items"].as_array().unwrap().iter();
    lines.map(|line| line["line"].as_str().unwrap().to_owned()).collect()
}

/// As the control plane does when it gives the scene's build to a node.
async fn builds_on(stage: &Stage, scene: &Scene, n: u8, attempt: u32) {
    set_builds_state(stage, scene, BuildState::Running { node: node_id(n), attempt }).await;
    show(stage);
}

async fn set_builds_state(stage: &Stage, scene: &Scene, state: BuildState) {
    let id = scene.ids["build"].parse().unwrap();
    let set = move |tx: &mut Tx| {
        let was = builds::get_any_org(tx, id)?.unwrap();
        builds::update(tx, &was.state, &Build { state: state.clone(), ..was.clone() })
    };
    stage.store.write(set).await.unwrap();
}

/// The control plane has looked again. It knows nothing of old builds; the store does.
fn show(stage: &Stage) {
    stage.view.send_replace(insula_plan::blank("localhost".parse().unwrap()));
}

#[tokio::test]
async fn the_log_of_what_is_gone_is_still_read_where_it_was() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let (was, org) = (scene.places(&stage, 2).await, "acme".parse().unwrap());
    stage
        .store
        .write(move |tx| {
            let org = orgs::by_name(tx, &org)?.unwrap().id;
            instances::delete(tx, org, was)
        })
        .await
        .unwrap();
    let mut before = Agent::join_at(&stage.hub, stage.folder(), 2).await;
    let path = format!("/v1/orgs/acme/apps/{}/logs", scene.ids["app"]);
    let answering = async {
        let asked = before.asked_for_logs().await;
        before.say(asked.stream, &[(1, "of before")], true).await;
    };
    let (answer, ()) = tokio::join!(stage.get(&stage.operator, &path), answering);
    assert_eq!(answer.ok()["items"][0]["line"], "of before");
}

#[tokio::test]
async fn a_log_is_followed_to_a_node_that_the_app_comes_to() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let mut first = Agent::join(&stage).await;
    let mut later = Agent::join_at(&stage.hub, stage.folder(), 2).await;
    let path = format!("/v1/orgs/acme/apps/{}/logs?follow=true", scene.ids["app"]);
    let mut following = Following::open(&stage, &path).await;
    let asked = first.asked_for_logs().await;
    let instance = scene.places(&stage, 2).await;
    let row = stage.store.read(move |tx| instances::get_any_org(tx, instance)).await.unwrap();
    let (mut world, plan) = (*insula_plan::blank("localhost".parse().unwrap())).clone();
    Arc::make_mut(&mut world).apply(Change::Instance(row.unwrap().into()));
    stage.view.send_replace(Arc::new((world, plan)));
    let also = later.asked_for_logs().await;
    assert_eq!(also.stream, asked.stream);
    assert!(also.follow && also.tail == 0 && also.since_ms > 0);
    later.say(also.stream, &[(1, "over here")], false).await;
    assert_eq!(following.next().await.unwrap().2["line"], "over here");
}

#[tokio::test]
async fn a_builds_log_ends_with_an_event_of_its_own() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let mut agent = Agent::join(&stage).await;
    builds_on(&stage, &scene, 1, 1).await;
    let path = format!("/v1/orgs/acme/builds/{}/log", scene.ids["build"]);
    let with = With::token(&stage.operator);
    let mut following = Following::open_with(&stage, &path, with).await;
    let asked = agent.asked_for_logs().await;
    assert_eq!((asked.build.as_str(), asked.app.as_str()), (&*scene.ids["build"], ""));
    agent.say(asked.stream, &[(1, "installing")], true).await;
    assert_eq!(following.next().await.unwrap().2["line"], "installing");
    assert_eq!(following.next().await.unwrap().0, "end");
    assert!(following.next().await.is_none());
}
