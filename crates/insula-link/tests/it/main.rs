//! The protocol over real Unix sockets, with real clients.

mod beside;
mod bounds;
mod fleet;
mod logs;
mod rig;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use hyper_util::rt::TokioIo;
use insula_kit::digest::sha256;
use insula_link::blobs::{Answer, BlobError, BlobKind, BlobStore, BlobStream};
use insula_link::registry::Registry;
use insula_link::{Hub, Inbound, Inbox, LogQuery, LogSubject, Secrets, serve};
use insula_model::build::BuildPlan;
use insula_model::node::{Architecture, Capacity, NodeMode, Offer};
use insula_model::routes::RouteTable;
use insula_model::spec::Isolation;
use insula_model::target::{BuildTarget, FleetTarget, NodeTarget, Place};
use insula_model::*;
use insula_wire::facts::NodeFacts;
use insula_wire::node as wire;
use insula_wire::node::agent_message::Message as FromAgent;
use insula_wire::node::gateway_message::Message as FromGateway;
use insula_wire::node::server_message::Message as ToAgent;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

/// Anything that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Blobs in memory: a store of the protocol's own kind, for the protocol alone.
#[derive(Default)]
struct Shelf(Mutex<BTreeMap<String, Vec<u8>>>);

fn key(org: OrgId, kind: BlobKind, digest: Digest) -> String {
    format!("{org}/{}/{digest}", kind.as_str())
}

impl BlobStore for Shelf {
    fn get(&self, org: OrgId, kind: BlobKind, digest: Digest) -> Answer<'_, BlobStream> {
        let found = self.0.lock().unwrap().get(&key(org, kind, digest)).cloned();
        Box::pin(async move {
            let bytes = Bytes::from(found.ok_or(BlobError::NotFound)?);
            Ok(futures_util::stream::iter([Ok(bytes)]).boxed())
        })
    }

    fn put(
        &self,
        org: OrgId,
        kind: BlobKind,
        want: Option<Digest>,
        content: BlobStream,
    ) -> Answer<'_, (Digest, u64)> {
        Box::pin(async move {
            let bytes = content.try_fold(Vec::new(), async |mut all, piece| {
                all.extend_from_slice(&piece);
                Ok(all)
            });
            let bytes = bytes.await?;
            let got = Digest::from_sha256(sha256(&bytes));
            if let Some(want) = want.filter(|want| *want != got) {
                return Err(BlobError::Mismatch { want, got });
            }
            let size = bytes.len() as u64;
            self.0.lock().unwrap().insert(key(org, kind, got), bytes);
            Ok((got, size))
        })
    }
}

struct Server {
    hub: Hub,
    inbound: Inbox,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        Self::with(None)
    }

    fn with(registry: Option<Arc<dyn Registry>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (hub, inbound) = Hub::new();
        let nodes = UnixListener::bind(folder.path().join("node")).unwrap();
        let edges = UnixListener::bind(folder.path().join("edge")).unwrap();
        tokio::spawn(serve::nodes(
            hub.clone(),
            Arc::new(Shelf::default()),
            registry.clone(),
            nodes,
            std::future::pending(),
        ));
        tokio::spawn(serve::edges(hub.clone(), registry, edges, std::future::pending()));
        Self { hub, inbound, folder }
    }

    async fn next(&mut self) -> Inbound {
        tokio::time::timeout(PATIENCE, self.inbound.recv()).await.unwrap().unwrap()
    }

    async fn agent(&self, hello: wire::Hello) -> Result<Agent, tonic::Status> {
        let mut client = wire::node_client::NodeClient::new(self.channel("node").await);
        let (sender, receiver) = mpsc::channel(16);
        sender.send(agent_message(FromAgent::Hello(hello))).await.unwrap();
        let answers = client.session(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Agent { sender, answers })
    }

    async fn channel(&self, socket: &str) -> Channel {
        connect(&self.folder.path().join(socket)).await
    }
}

async fn connect(path: &Path) -> Channel {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    Endpoint::from_static("http://insula").connect_with_connector(connector).await.unwrap()
}

struct Agent {
    sender: mpsc::Sender<wire::AgentMessage>,
    answers: Streaming<wire::ServerMessage>,
}

impl Agent {
    async fn say(&self, message: FromAgent) {
        self.sender.send(agent_message(message)).await.unwrap();
    }

    async fn hear(&mut self) -> ToAgent {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await.unwrap();
        answer.unwrap().unwrap().message.unwrap()
    }
}

fn agent_message(message: FromAgent) -> wire::AgentMessage {
    wire::AgentMessage { message: Some(message) }
}

fn node_id() -> NodeId {
    NodeId::from_parts(Timestamp::from_millis(1), [1; 10])
}

fn hello() -> wire::Hello {
    let facts = NodeFacts {
        offer: Offer {
            capacity: Capacity::default(),
            mode: NodeMode::Full,
            runtimes: vec![],
            architecture: Architecture::X86,
            isolation: [Isolation::Standard].into(),
        },
        relay: None,
        clock: None,
        site: None,
    };
    wire::Hello {
        node: node_id().to_string(),
        name: "here".into(),
        version: "0".into(),
        protocol: wire::PROTOCOL,
        facts: serde_json::to_string(&facts).unwrap(),
        generation: 0,
    }
}

/// A build for an org, as a Target names it.
fn build_of(org: OrgId) -> BuildTarget {
    let id = |n| [n; 10];
    let begin = Timestamp::from_millis(1);
    BuildTarget {
        id: BuildId::from_parts(begin, id(1)),
        place: Place {
            org,
            org_name: "acme".parse().unwrap(),
            project_name: "main".parse().unwrap(),
            environment: EnvironmentId::from_parts(begin, id(1)),
            environment_name: "main".parse().unwrap(),
            app: AppId::from_parts(begin, id(1)),
            app_name: "shop".parse().unwrap(),
        },
        deployment: DeploymentId::from_parts(begin, id(1)),
        source: Digest::from_sha256([0; 32]),
        plan: BuildPlan::default(),
        variables: BTreeMap::new(),
        secrets: vec![],
        time_limit: Millis::secs(1),
        memory: insula_model::Bytes::mib(1),
        cpu: MilliCpu(1),
        pids: 1,
        output_max: insula_model::Bytes::mib(1),
        attempt: 1,
        trace: String::new(),
    }
}

fn target(generation: u64) -> NodeTarget {
    let generation = Generation(generation);
    NodeTarget {
        node: node_id(),
        generation,
        instances: vec![],
        builds: vec![],
        fleet: FleetTarget::default(),
    }
}

#[tokio::test]
async fn a_node_says_hello_gets_its_target_and_is_missed_when_it_goes() {
    let mut server = Server::start();
    let mut agent = server.agent(hello()).await.unwrap();
    assert!(matches!(agent.hear().await, ToAgent::Welcome(_)));
    assert!(matches!(server.next().await, Inbound::NodeHello { node, .. } if node == node_id()));
    assert!(server.hub.nodes_connected().contains(&node_id()));
    server.hub.send_target(&target(7), &Secrets::default()).unwrap();
    let ToAgent::Target(got) = agent.hear().await else { panic!("not a target") };
    assert_eq!(got.generation, 7);
    drop(agent);
    assert!(matches!(server.next().await, Inbound::NodeGone { .. }));
    assert!(server.hub.nodes_connected().is_empty());
}

#[tokio::test]
async fn a_newer_session_of_a_node_takes_over_and_the_old_end_is_not_the_nodes() {
    let mut server = Server::start();
    let mut old = server.agent(hello()).await.unwrap();
    old.hear().await;
    server.next().await;
    let mut new = server.agent(hello()).await.unwrap();
    new.hear().await;
    assert!(matches!(server.next().await, Inbound::NodeHello { .. }));
    // The old one is ended by the server, which tells nobody that the node is gone.
    while tokio::time::timeout(PATIENCE, old.answers.message())
        .await
        .unwrap()
        .is_ok_and(|m| m.is_some())
    {}
    server.hub.send_target(&target(1), &Secrets::default()).unwrap();
    assert!(matches!(new.hear().await, ToAgent::Target(_)));
    assert!(server.inbound.try_recv().is_err(), "nothing but the two greetings was told");
}

#[tokio::test]
async fn an_agent_of_a_later_protocol_is_told_what_to_upgrade() {
    let server = Server::start();
    let later = wire::Hello { protocol: wire::PROTOCOL + 1, ..hello() };
    let Err(refused) = server.agent(later).await else { panic!("it was let in") };
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("upgrade the server first"), "{refused}");
    let nonsense = wire::Hello { node: "../../x".into(), ..hello() };
    assert!(server.agent(nonsense).await.is_err());
}

#[tokio::test]
async fn a_report_that_is_nonsense_ends_the_session() {
    let mut server = Server::start();
    let mut agent = server.agent(hello()).await.unwrap();
    agent.hear().await;
    server.next().await;
    let document = "{\"generation\": -1}".to_owned();
    agent.say(FromAgent::Report(wire::Report { document, sequence: 1 })).await;
    assert!(matches!(server.next().await, Inbound::NodeGone { .. }));
}

#[tokio::test]
async fn heartbeats_are_answered_and_told_to_nobody() {
    let mut server = Server::start();
    let mut agent = server.agent(hello()).await.unwrap();
    agent.hear().await;
    server.next().await;
    agent.say(FromAgent::Heartbeat(wire::Heartbeat { sequence: 3 })).await;
    let ToAgent::HeartbeatAck(ack) = agent.hear().await else { panic!("not an answer") };
    assert_eq!(ack.sequence, 3);
    assert!(server.inbound.try_recv().is_err());
}

#[tokio::test]
async fn logs_come_from_every_node_and_end_when_all_have_told() {
    let mut server = Server::start();
    let mut agent = server.agent(hello()).await.unwrap();
    agent.hear().await;
    server.next().await;
    let app = AppId::from_parts(Timestamp::from_millis(1), [2; 10]);
    let query = LogQuery {
        subject: LogSubject::App(app),
        component: None,
        instance: None,
        since: None,
        tail: Some(10),
        grep: None,
        follow: false,
        nodes: None,
    };
    let mut lines = Box::pin(server.hub.logs(query));
    let ToAgent::LogRequest(asked) = agent.hear().await else { panic!("not asked") };
    assert_eq!((asked.app.as_str(), asked.tail), (app.to_string().as_str(), 10));
    let entry =
        wire::LogEntry { at_ms: 5, line: b"hi \xff".to_vec(), channel: 2, ..Default::default() };
    let stream = asked.stream;
    agent
        .say(FromAgent::Log(wire::LogChunk { stream, entries: vec![entry], ..Default::default() }))
        .await;
    let got = tokio::time::timeout(PATIENCE, lines.next()).await.unwrap().unwrap();
    assert_eq!((got[0].line.as_str(), got[0].channel), ("hi \u{fffd}", "err"));
    agent.say(FromAgent::Log(wire::LogChunk { stream, end: true, ..Default::default() })).await;
    while let Some(rest) = tokio::time::timeout(PATIENCE, lines.next()).await.unwrap() {
        assert!(rest.is_empty());
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_told_to_the_nodes() {
    let mut server = Server::start();
    let mut agent = server.agent(hello()).await.unwrap();
    agent.hear().await;
    server.next().await;
    let build = BuildId::from_parts(Timestamp::from_millis(1), [2; 10]);
    let query = LogQuery {
        subject: LogSubject::Build(build),
        component: None,
        instance: None,
        since: None,
        tail: None,
        grep: None,
        follow: true,
        nodes: None,
    };
    let lines = server.hub.logs(query);
    let ToAgent::LogRequest(asked) = agent.hear().await else { panic!("not asked") };
    drop(lines);
    let ToAgent::LogCancel(cancel) = agent.hear().await else { panic!("not cancelled") };
    assert_eq!(cancel.stream, asked.stream);
}

#[tokio::test]
async fn a_gateway_gets_the_newest_table_and_its_word_is_passed_on() {
    let mut server = Server::start();
    server
        .hub
        .publish_routes(
            &RouteTable { generation: Generation(3), routes: vec![], relays: [].into() },
            String::new(),
        )
        .unwrap();
    let mut client = wire::edge_client::EdgeClient::new(server.channel("edge").await);
    let gateway = GatewayId::from_parts(Timestamp::from_millis(1), [3; 10]);
    let hello = wire::GatewayHello {
        gateway: gateway.to_string(),
        version: "0".into(),
        protocol: wire::PROTOCOL,
        generation: 0,
    };
    let (sender, receiver) = mpsc::channel(16);
    let say = |message| wire::GatewayMessage { message: Some(message) };
    sender.send(say(FromGateway::Hello(hello))).await.unwrap();
    let mut tables = client.routes(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    assert_eq!(tables.message().await.unwrap().unwrap().generation, 3);
    assert!(matches!(server.next().await, Inbound::GatewayHello { .. }));
    let busy = InstanceId::from_parts(Timestamp::from_millis(1), [4; 10]);
    let ack = wire::RouteAck { generation: 3, busy: vec![busy.to_string()] };
    sender.send(say(FromGateway::Ack(ack))).await.unwrap();
    let Inbound::RouteAck { generation, busy: told, .. } = server.next().await else {
        panic!("not an acknowledgement")
    };
    assert_eq!((generation, told.contains(&busy)), (Generation(3), true));
    drop((sender, tables));
    assert!(matches!(server.next().await, Inbound::GatewayGone { .. }));
}

#[tokio::test]
async fn blobs_travel_both_ways_and_another_orgs_is_not_there() {
    let server = Server::start();
    let mut client = wire::node_client::NodeClient::new(server.channel("node").await);
    let org = |n| OrgId::from_parts(Timestamp::from_millis(1), [n; 10]);
    let content = vec![7u8; wire::BLOB_CHUNK_LEN * 2 + 1];
    let chunks: Vec<wire::BlobChunk> = content
        .chunks(wire::BLOB_CHUNK_LEN)
        .enumerate()
        .map(|(n, data)| wire::BlobChunk {
            org: if n == 0 { org(1).to_string() } else { String::new() },
            kind: if n == 0 { "artifact".into() } else { String::new() },
            digest: String::new(),
            data: data.to_vec(),
        })
        .collect();
    let receipt = client.put_blob(futures_util::stream::iter(chunks)).await.unwrap().into_inner();
    assert_eq!(receipt.size, content.len() as u64);
    let ask = |n| wire::BlobRequest {
        org: org(n).to_string(),
        kind: "artifact".into(),
        digest: receipt.digest.clone(),
    };
    let got = client.get_blob(ask(1)).await.unwrap().into_inner();
    let got: Vec<u8> = got
        .try_fold(Vec::new(), async |mut all, chunk| {
            all.extend(chunk.data);
            Ok(all)
        })
        .await
        .unwrap();
    assert_eq!(got, content);
    assert_eq!(client.get_blob(ask(2)).await.unwrap_err().code(), Code::NotFound);
    let lie = wire::BlobChunk {
        org: org(1).to_string(),
        kind: "artifact".into(),
        digest: receipt.digest.clone(),
        data: b"other".to_vec(),
    };
    let refused = client.put_blob(futures_util::stream::iter([lie])).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss);
}
