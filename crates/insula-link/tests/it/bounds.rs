//! One certificate of a node is not enough to end the server's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use insula_kit::pki::KeyPair;
use insula_link::{Inbound, Secrets};
use insula_model::fleet::Member;
use insula_model::{Generation, OrgId, Timestamp};
use insula_wire::node as wire;
use insula_wire::node::agent_message::Message as FromAgent;
use insula_wire::node::server_message::Message as ToAgent;
use tonic::Code;
use tonic::transport::Channel;

use crate::rig::{Port, book, gateway, node, session};
use crate::{PATIENCE, Server, build_of, hello, target};

fn org() -> OrgId {
    OrgId::from_parts(Timestamp::from_millis(1), [1; 10])
}

fn begin() -> wire::BlobChunk {
    wire::BlobChunk {
        org: org().to_string(),
        kind: "artifact".into(),
        digest: String::new(),
        data: b"x".to_vec(),
    }
}

/// Brings a blob that has no end.
async fn bring(channel: Channel) -> Code {
    let mut client = wire::node_client::NodeClient::new(channel);
    let endless = futures_util::stream::iter([begin()]).chain(futures_util::stream::pending());
    client.put_blob(endless).await.unwrap_err().code()
}

#[tokio::test]
async fn a_node_brings_a_few_blobs_at_once_whatever_its_connections() {
    let mut port = Port::open().await;
    let identity = port.book.identity(Member::Node(node(1)));
    let channel = port.with(&identity).await;
    let mut agent = session(channel.clone(), 1).await.unwrap();
    agent.hear().await;
    port.next().await;
    let mut told = target(1);
    told.node = node(1);
    told.builds = vec![build_of(org())];
    port.hub.send_target(&told, &Secrets::default()).unwrap();
    while !matches!(agent.hear().await, ToAgent::Target(_)) {}

    let other = port.with(&identity).await;
    let channels = [&channel, &other, &channel, &other, &channel];
    let mut open: FuturesUnordered<_> = channels.map(|c| bring(c.clone())).into_iter().collect();
    let refused = tokio::time::timeout(PATIENCE, open.next()).await.unwrap().unwrap();
    assert_eq!((refused, open.len()), (Code::ResourceExhausted, 4));
    assert_eq!(bring(other.clone()).await, Code::ResourceExhausted);

    // What is let go of makes room, once the server has heard of it.
    drop(open);
    let mut client = wire::node_client::NodeClient::new(other);
    let brought = async {
        loop {
            match client.put_blob(futures_util::stream::iter([begin()])).await {
                Ok(receipt) => return receipt.into_inner().size,
                Err(refused) => assert_eq!(refused.code(), Code::ResourceExhausted),
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, brought).await.unwrap(), 1);
}

#[tokio::test]
async fn of_a_nodes_reports_only_the_newest_waits() {
    let mut server = Server::start();
    let mut agent = server.agent(hello()).await.unwrap();
    agent.hear().await;
    for generation in 1..=5_000 {
        let document =
            format!(r#"{{"generation":{generation},"instances":[],"builds":[],"ailments":[]}}"#);
        agent.say(FromAgent::Report(wire::Report { document, sequence: generation })).await;
    }
    agent.say(FromAgent::Heartbeat(wire::Heartbeat { sequence: 9 })).await;
    // More than fit into the queue, and nobody has taken any.
    let ToAgent::HeartbeatAck(ack) = agent.hear().await else { panic!("not an answer") };
    assert_eq!(ack.sequence, 9);
    assert!(matches!(server.next().await, Inbound::NodeHello { .. }));
    let Inbound::NodeReport { report, .. } = server.next().await else { panic!("not a report") };
    assert_eq!(report.generation, Generation(5_000));
    assert!(server.inbound.try_recv().is_err());
}

#[tokio::test]
async fn a_message_that_no_node_has_reason_to_send_ends_the_session() {
    let mut server = Server::start();
    let mut agent = server.agent(hello()).await.unwrap();
    agent.hear().await;
    server.next().await;
    let document = " ".repeat(17 * 1024 * 1024);
    agent.say(FromAgent::Report(wire::Report { document, sequence: 1 })).await;
    let gone = tokio::time::timeout(Duration::from_secs(30), server.inbound.recv()).await;
    assert!(matches!(gone.unwrap(), Some(Inbound::NodeGone { .. })));
}

#[tokio::test]
async fn a_server_whose_term_may_be_over_acknowledges_no_heartbeat() {
    let sure = Arc::new(AtomicBool::new(true));
    let server = Server::start();
    let asked = sure.clone();
    server.hub.sure_while(move || asked.load(Ordering::SeqCst));
    let mut agent = server.agent(hello()).await.unwrap();
    agent.hear().await;
    let beat = |sequence| FromAgent::Heartbeat(wire::Heartbeat { sequence });
    agent.say(beat(1)).await;
    assert!(matches!(agent.hear().await, ToAgent::HeartbeatAck(ack) if ack.sequence == 1));
    sure.store(false, Ordering::SeqCst);
    agent.say(beat(2)).await;
    // Answered behind the heartbeat: nobody reads a log of that number.
    let log = wire::LogChunk { stream: 77, ..Default::default() };
    agent.say(FromAgent::Log(log)).await;
    assert!(matches!(agent.hear().await, ToAgent::LogCancel(_)), "acknowledged all the same");
    sure.store(true, Ordering::SeqCst);
    agent.say(beat(3)).await;
    assert!(matches!(agent.hear().await, ToAgent::HeartbeatAck(ack) if ack.sequence == 3));
}

#[tokio::test]
async fn a_socket_of_this_machine_enrols_one_gateway_and_the_next_once_that_is_removed() {
    let server = Server::with(Some(book()));
    let channel = server.channel("edge").await;
    let mut client = wire::join_client::JoinClient::new(channel);
    let mut enrol = async |n| {
        let (key, id) = (KeyPair::generate(), gateway(n).to_string());
        let asked = wire::EnrolRequest {
            role: "gateway".into(),
            proof: key.sign(&wire::join_proof("", &id)),
            id,
            public_key: key.public_key().as_bytes().to_vec(),
            version: "0".into(),
            protocol: wire::PROTOCOL,
            ..Default::default()
        };
        client.enrol(asked).await.map(|_| ()).map_err(|refused| refused.code())
    };
    assert_eq!(enrol(1).await, Ok(()));
    assert_eq!(enrol(2).await, Err(Code::PermissionDenied));
    assert_eq!(enrol(1).await, Ok(()), "it may have lost its certificate");
    server.hub.expel(Member::Gateway(gateway(1)));
    assert_eq!(enrol(2).await, Ok(()));
}
