//! The fleet's port: who is who, and what each may do. One test per attack.

use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use insula_kit::metrics::Metrics;
use insula_kit::pki::KeyPair;
use insula_kit::random::SystemRandom;
use insula_kit::token::Token;
use insula_link::{Hub, Inbound, Secrets};
use insula_model::fleet::Member;
use insula_model::observed::NodeReport;
use insula_model::routes::RouteTable;
use insula_model::target::{FleetTarget, NodeTarget};
use insula_model::*;
use insula_wire::node as wire;
use insula_wire::node::agent_message::Message as FromAgent;
use insula_wire::node::gateway_message::Message as FromGateway;
use insula_wire::node::server_message::Message as ToAgent;
use tonic::{Code, Request};

use crate::rig::{Port, edge, end, gateway, greet, hello_of, node, server, session};
use crate::{Agent, PATIENCE};

fn org(n: u8) -> OrgId {
    OrgId::from_parts(Timestamp::from_millis(1), [n; 10])
}

fn beat(sequence: u64) -> FromAgent {
    FromAgent::Heartbeat(wire::Heartbeat { sequence })
}

async fn welcomed(agent: &mut Agent) -> wire::Welcome {
    let ToAgent::Welcome(welcome) = agent.hear().await else { panic!("not a welcome") };
    welcome
}

#[tokio::test]
async fn a_node_is_who_its_certificate_says_and_is_heard_with_each_beat() {
    let mut port = Port::open().await;
    let mut agent = port.agent(1).await;
    assert_eq!(welcomed(&mut agent).await.ack_every, wire::ACK_EVERY);
    assert!(matches!(port.next().await, Inbound::NodeHello { node: n, .. } if n == node(1)));
    let first = port.hub.heard()[&node(1)];
    assert!(first.open);
    assert_eq!(port.hub.heard_at([node(1), node(2)]), [(node(1), first.at)]);
    port.book.clock.advance_ms(500);
    for (beats, want) in [(1..=1, 1), (2..=4, 4)] {
        for sequence in beats {
            agent.say(beat(sequence)).await;
        }
        let ToAgent::HeartbeatAck(ack) = agent.hear().await else { panic!("not an answer") };
        assert_eq!((ack.sequence, ack.clock_ms), (want, crate::rig::NOW + 500));
    }
    assert!(port.hub.heard()[&node(1)].at >= first.at);
    assert!(port.inbound.try_recv().is_err(), "a heartbeat wakes nobody");
    drop(agent);
    assert!(matches!(port.next().await, Inbound::NodeGone { .. }));
    assert!(!port.hub.heard()[&node(1)].open);
    port.hub.forget_node(node(1));
    assert!(port.hub.heard().is_empty());
}

#[tokio::test]
async fn a_node_that_says_it_is_another_is_refused() {
    let port = Port::open().await;
    let channel = port.member(Member::Node(node(1))).await;
    let refused = session(channel, 2).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains(&node(2).to_string()), "{refused}");
    assert!(port.hub.nodes_connected().is_empty());
}

#[tokio::test]
async fn each_role_opens_its_own_service_and_no_other() {
    let port = Port::open().await;
    let gateways = port.member(Member::Gateway(gateway(1))).await;
    let nodes = port.member(Member::Node(node(1))).await;
    let servers = port.member(Member::Server(server(2))).await;
    for channel in [&gateways, &servers] {
        let refused = session(channel.clone(), 1).await.err().unwrap();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        let blob = wire::BlobRequest {
            org: org(1).to_string(),
            kind: "artifact".into(),
            digest: format!("sha256:{}", "0".repeat(64)),
        };
        let mut client = wire::node_client::NodeClient::new(channel.clone());
        assert_eq!(client.get_blob(blob).await.err().unwrap().code(), Code::PermissionDenied);
    }
    for channel in [&nodes, &servers] {
        let refused = edge(channel.clone(), 1).await.err().unwrap();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    for channel in [&nodes, &gateways] {
        let mut client = wire::peer_client::PeerClient::new(channel.clone());
        let refused = client.ask(wire::AskRequest::default()).await.err().unwrap();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    assert!(edge(gateways.clone(), 2).await.is_err(), "nor another gateway's");
    assert!(edge(gateways, 1).await.is_ok());
}

#[tokio::test]
async fn who_shows_no_certificate_can_join_and_nothing_else() {
    let port = Port::open().await;
    let nobody = port.nobody().await;
    let refused = session(nobody.clone(), 1).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    assert_eq!(edge(nobody.clone(), 1).await.err().unwrap().code(), Code::Unauthenticated);
    let mut peers = wire::peer_client::PeerClient::new(nobody.clone());
    let refused = peers.ask(wire::AskRequest::default()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut join = wire::join_client::JoinClient::new(nobody);
    let refused = join.renew(wire::RenewRequest::default()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn an_older_certificate_is_refused_once_a_newer_was_used() {
    let port = Port::open().await;
    let stolen = port.book.identity(Member::Node(node(1)));
    let newest = port.book.identity(Member::Node(node(1)));
    assert!(session(port.with(&stolen).await, 1).await.is_ok());
    assert!(session(port.with(&newest).await, 1).await.is_ok());
    let refused = session(port.with(&stolen).await, 1).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("newer certificate"), "{refused}");
}

#[tokio::test]
async fn a_member_that_is_removed_is_out_at_once_and_stays_out() {
    let mut port = Port::open().await;
    let nodes = port.member(Member::Node(node(1))).await;
    let mut agent = session(nodes.clone(), 1).await.unwrap();
    let gateways = port.member(Member::Gateway(gateway(1))).await;
    let mut routes = edge(gateways.clone(), 1).await.unwrap();
    port.next().await;
    port.next().await;
    for member in [Member::Node(node(1)), Member::Gateway(gateway(1))] {
        port.hub.expel(member);
        port.book.revoke(member);
    }
    for ended in [end(&mut agent.answers).await, end(&mut routes.tables).await] {
        let words = ended.unwrap();
        assert_eq!(words.code(), Code::PermissionDenied);
        assert!(words.message().contains("removed from this fleet"), "{words}");
    }
    assert!(matches!(port.next().await, Inbound::NodeGone { .. } | Inbound::GatewayGone { .. }));
    assert!(matches!(port.next().await, Inbound::NodeGone { .. } | Inbound::GatewayGone { .. }));
    let refusals = [session(nodes, 1).await.err(), edge(gateways, 1).await.err()];
    for refused in refusals.map(Option::unwrap) {
        assert_eq!(refused.code(), Code::PermissionDenied);
        // So that it knows that no certificate mends it.
        let why = refused.metadata().get(wire::REFUSAL_METADATA).unwrap();
        assert_eq!(why, wire::REFUSED_REMOVED);
    }
}

#[tokio::test]
async fn a_session_ends_with_its_certificate() {
    let port = Port::open().await;
    let mut agent = port.agent(1).await;
    welcomed(&mut agent).await;
    port.book.clock.advance_ms(73 * 3_600_000);
    agent.say(beat(1)).await;
    let words = end(&mut agent.answers).await.unwrap();
    assert_eq!(words.code(), Code::Unauthenticated);
    assert!(words.message().contains("expired"), "{words}");
}

fn build_target(n: u8, of: OrgId) -> NodeTarget {
    let mut target = NodeTarget {
        node: node(n),
        generation: Generation(1),
        instances: vec![],
        builds: vec![],
        fleet: FleetTarget::default(),
    };
    target.builds.push(crate::build_of(of));
    target
}

async fn bring(
    channel: &tonic::transport::Channel,
    of: OrgId,
    kind: &str,
) -> Result<String, tonic::Status> {
    let chunk = wire::BlobChunk {
        org: of.to_string(),
        kind: kind.into(),
        digest: String::new(),
        data: b"made".to_vec(),
    };
    let mut client = wire::node_client::NodeClient::new(channel.clone());
    let receipt = client.put_blob(futures_util::stream::iter([chunk])).await?;
    Ok(receipt.into_inner().digest)
}

async fn fetch(
    channel: &tonic::transport::Channel,
    of: OrgId,
    digest: &str,
) -> Result<Vec<u8>, tonic::Status> {
    let wanted =
        wire::BlobRequest { org: of.to_string(), kind: "artifact".into(), digest: digest.into() };
    let mut client = wire::node_client::NodeClient::new(channel.clone());
    let chunks = client.get_blob(wanted).await?.into_inner();
    chunks
        .try_fold(Vec::new(), async |mut all, chunk| {
            all.extend(chunk.data);
            Ok(all)
        })
        .await
}

#[tokio::test]
async fn a_node_touches_the_blobs_of_those_it_works_for_and_of_nobody_else() {
    let port = Port::open().await;
    let channel = port.member(Member::Node(node(1))).await;
    let early = bring(&channel, org(1), "artifact").await.unwrap_err();
    assert_eq!(early.code(), Code::Unavailable, "nothing is known of it yet: {early}");
    let mut agent = session(channel.clone(), 1).await.unwrap();
    welcomed(&mut agent).await;
    port.hub.send_target(&build_target(1, org(1)), &Secrets::default()).unwrap();
    assert!(matches!(agent.hear().await, ToAgent::Target(_)));
    let digest = bring(&channel, org(1), "artifact").await.unwrap();
    assert_eq!(fetch(&channel, org(1), &digest).await.unwrap(), b"made");
    for refused in [
        bring(&channel, org(2), "artifact").await.unwrap_err(),
        // A source is not what comes of a build.
        bring(&channel, org(1), "chunk").await.unwrap_err(),
        fetch(&channel, org(2), &digest).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    // Another node, which has nothing to do, is in another's session for nothing.
    let other = port.member(Member::Node(node(2))).await;
    assert_eq!(fetch(&other, org(1), &digest).await.unwrap_err().code(), Code::Unavailable);
}

fn enrolment(token: &Token, n: u8, key: &KeyPair) -> wire::EnrolRequest {
    let id = node(n).to_string();
    let proof = key.sign(&wire::join_proof(token.expose(), &id));
    wire::EnrolRequest {
        token: token.expose().to_owned(),
        role: "node".into(),
        id,
        name: "alpha".into(),
        public_key: key.public_key().as_bytes().to_vec(),
        proof,
        version: "0".into(),
        protocol: wire::PROTOCOL,
    }
}

#[tokio::test]
async fn a_token_becomes_a_certificate_once_and_a_certificate_the_next_one() {
    let port = Port::open().await;
    port.hub.set_servers(vec!["10.0.0.1:7444".into()]);
    let token = Token::generate("insj", &SystemRandom::new());
    port.book.allow(token.hash());
    let key = KeyPair::generate();
    let mut join = wire::join_client::JoinClient::new(port.nobody().await);
    let reply = join.enrol(enrolment(&token, 1, &key)).await.unwrap().into_inner();
    assert_eq!(reply.servers, ["10.0.0.1:7444"]);
    let again = join.enrol(enrolment(&token, 2, &key)).await.unwrap_err();
    assert_eq!(again.code(), Code::PermissionDenied);
    let identity = insula_kit::pki::Identity {
        key,
        certificate: reply.certificate,
        authorities: reply.authorities,
    };
    let channel = port.with(&identity).await;
    assert!(session(channel.clone(), 1).await.is_ok());
    let (next, id) = (KeyPair::generate(), node(1).to_string());
    let request = |proof: Vec<u8>| wire::RenewRequest {
        public_key: next.public_key().as_bytes().to_vec(),
        proof,
    };
    let mut join = wire::join_client::JoinClient::new(channel);
    let forged = request(identity.key.sign(&wire::renew_proof(&id)));
    assert_eq!(join.renew(forged).await.unwrap_err().code(), Code::InvalidArgument);
    let renewed = join.renew(request(next.sign(&wire::renew_proof(&id)))).await.unwrap();
    let reply = renewed.into_inner();
    let newest = insula_kit::pki::Identity {
        key: next,
        certificate: reply.certificate,
        authorities: reply.authorities,
    };
    assert!(session(port.with(&newest).await, 1).await.is_ok());
    assert!(session(port.with(&identity).await, 1).await.is_err(), "the old one is over");
}

#[tokio::test]
async fn a_request_to_join_that_is_not_right_in_every_part_is_refused() {
    let port = Port::open().await;
    let token = Token::generate("insj", &SystemRandom::new());
    port.book.allow(token.hash());
    let (key, other) = (KeyPair::generate(), KeyPair::generate());
    let right = || enrolment(&token, 1, &key);
    let long = |n| "x".repeat(n);
    let wrong = [
        wire::EnrolRequest { proof: other.sign(b"insula join\n"), ..right() },
        wire::EnrolRequest { id: node(2).to_string(), ..right() },
        wire::EnrolRequest { role: "gateway".into(), ..right() },
        wire::EnrolRequest { id: server(1).to_string(), role: "server".into(), ..right() },
        wire::EnrolRequest { name: long(65), ..right() },
        wire::EnrolRequest { token: long(129), ..right() },
        wire::EnrolRequest { version: long(65), ..right() },
        wire::EnrolRequest { public_key: vec![4; 65], ..right() },
    ];
    let mut join = wire::join_client::JoinClient::new(port.nobody().await);
    for request in wrong {
        let refused = join.enrol(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let flood = wire::EnrolRequest { name: long(wire::JOIN_LEN_MAX), ..right() };
    assert_eq!(join.enrol(flood).await.unwrap_err().code(), Code::OutOfRange);
    let later = wire::EnrolRequest { protocol: wire::PROTOCOL + 1, ..right() };
    assert_eq!(join.enrol(later).await.unwrap_err().code(), Code::FailedPrecondition);
    assert!(join.enrol(right()).await.is_ok(), "nothing of that used the token up");
}

#[tokio::test]
async fn guessing_tokens_soon_meets_a_wall() {
    let port = Port::open().await;
    let mut join = wire::join_client::JoinClient::new(port.nobody().await);
    let key = KeyPair::generate();
    let mut codes = Vec::new();
    for _ in 0..11 {
        let guess = Token::generate("insj", &SystemRandom::new());
        codes.push(join.enrol(enrolment(&guess, 1, &key)).await.unwrap_err().code());
    }
    assert_eq!(codes[..10], [Code::Unauthenticated; 10]);
    assert_eq!(codes[10], Code::ResourceExhausted);
    let token = Token::generate("insj", &SystemRandom::new());
    port.book.allow(token.hash());
    let right = join.enrol(enrolment(&token, 1, &key)).await.unwrap_err();
    assert_eq!(right.code(), Code::ResourceExhausted, "the right one waits as well");
}

#[tokio::test]
async fn a_report_of_ten_thousand_instances_ends_its_session_and_no_others() {
    let mut port = Port::open().await;
    let (mut broken, mut sound) = (port.agent(1).await, port.agent(2).await);
    welcomed(&mut broken).await;
    welcomed(&mut sound).await;
    port.next().await;
    port.next().await;
    let id = InstanceId::from_parts(Timestamp::from_millis(1), [1; 10]);
    let instance = serde_json::json!({
        "id": id, "phase": {"phase": "ready"}, "endpoint": null, "restarts": 0,
        "exits_before_ready": 0, "last_exit": null, "started": null, "ready_since": null,
        "warnings": []
    });
    let report = serde_json::json!({
        "generation": 1, "instances": vec![instance; 10_000], "builds": []
    });
    let report = wire::Report { document: report.to_string(), sequence: 1 };
    broken.say(FromAgent::Report(report)).await;
    let words = end(&mut broken.answers).await.unwrap();
    assert_eq!(words.code(), Code::InvalidArgument);
    assert!(words.message().contains("10000 instances are more than 1024"), "{words}");
    assert!(matches!(port.next().await, Inbound::NodeGone { node: n } if n == node(1)));
    let report = NodeReport {
        generation: Generation(1),
        instances: vec![],
        builds: vec![],
        ailments: vec![],
    };
    let document = serde_json::to_string(&report).unwrap();
    sound.say(FromAgent::Report(wire::Report { document, sequence: 1 })).await;
    assert!(matches!(port.next().await, Inbound::NodeReport { node: n, .. } if n == node(2)));
}

#[tokio::test]
async fn usage_counts_for_what_a_node_was_given_alone() {
    let port = Port::open().await;
    let mut agent = port.agent(1).await;
    welcomed(&mut agent).await;
    let strange = InstanceId::from_parts(Timestamp::from_millis(1), [9; 10]);
    port.hub.send_target(&build_target(1, org(1)), &Secrets::default()).unwrap();
    agent.hear().await;
    let seen = wire::InstanceUsage { instance: strange.to_string(), ..Default::default() };
    let own = wire::NodeUsage { cpu_milli: 700, memory_bytes: 5, disk_free_bytes: 6 };
    let usage = wire::UsageReport { instances: vec![seen], node: Some(own), relay: None };
    agent.say(FromAgent::Usage(usage)).await;
    agent.say(beat(1)).await;
    agent.hear().await;
    assert!(port.hub.usage().is_empty());
    assert_eq!(port.hub.node_usage()[&node(1)].cpu, MilliCpu(700));
}

#[tokio::test]
async fn what_a_relay_carries_is_told_while_its_node_is_here() {
    let mut port = Port::open().await;
    let metrics = Metrics::new();
    port.hub.show_relays(metrics.clone());
    let mut agent = port.agent(1).await;
    welcomed(&mut agent).await;
    let calls = wire::RelayCalls { handshakes: 2, reused: 70_000, ..Default::default() };
    let relay = Some(wire::RelayUsage { calls: Some(calls), answers: None });
    agent.say(FromAgent::Usage(wire::UsageReport { relay, ..Default::default() })).await;
    agent.say(beat(1)).await;
    agent.hear().await;
    let (said, member) = (metrics.render(), node(1));
    let line = format!("insula_relay_handshakes_total{{member=\"{member}\",with=\"called\"}} 2\n");
    assert!(said.contains(&line), "{said}");
    assert!(said.contains(&format!("insula_relay_reused_total{{member=\"{member}\"}} 70000\n")));
    drop(agent);
    while !matches!(port.next().await, Inbound::NodeGone { .. }) {}
    assert!(!metrics.render().contains(&member.to_string()));
}

#[tokio::test]
async fn two_machines_with_one_identity_do_not_throw_each_other_out_for_ever() {
    let port = Port::open().await;
    let cloned = port.book.identity(Member::Node(node(1)));
    let (one, other) = (port.with(&cloned).await, port.with(&cloned).await);
    let mut present = session(one.clone(), 1).await.unwrap();
    for turn in 0..3 {
        let channel = if turn % 2 == 0 { &other } else { &one };
        let taken = session(channel.clone(), 1).await.unwrap();
        let words = end(&mut present.answers).await.unwrap();
        assert_eq!(words.code(), Code::Aborted, "{words}");
        present = taken;
    }
    let refused = session(one, 1).await.err().unwrap();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("cloned"), "{refused}");
    let contests = port.hub.contested();
    assert_eq!(contests[&node(1)].from.len(), 2, "{contests:?}");
    welcomed(&mut present).await;
    present.say(beat(1)).await;
    assert!(matches!(present.hear().await, ToAgent::HeartbeatAck(_)), "the other one stays");
}

#[tokio::test]
async fn the_list_of_servers_reaches_everybody_when_it_changes() {
    let port = Port::open().await;
    port.hub.set_servers(vec!["a:1".into()]);
    let mut agent = port.agent(1).await;
    welcomed(&mut agent).await;
    let ToAgent::Servers(servers) = agent.hear().await else { panic!("not the servers") };
    assert_eq!(servers.addresses, ["a:1"]);
    let table = RouteTable { generation: Generation(3), routes: vec![], relays: [].into() };
    port.hub.publish_routes(&table, String::new()).unwrap();
    let mut routes = edge(port.member(Member::Gateway(gateway(1))).await, 1).await.unwrap();
    assert_eq!(routes.tables.message().await.unwrap().unwrap().servers, ["a:1"]);
    port.hub.set_servers(vec!["a:1".into(), "b:2".into()]);
    let ToAgent::Servers(servers) = agent.hear().await else { panic!("not the servers") };
    assert_eq!(servers.addresses, ["a:1", "b:2"]);
    let table = routes.tables.message().await.unwrap().unwrap();
    assert_eq!((table.generation, table.servers.len()), (3, 2));
    let ack = wire::RouteAck { generation: 3, busy: vec![] };
    let message = wire::GatewayMessage { message: Some(FromGateway::Ack(ack)) };
    routes.sender.send(message).await.unwrap();
}

#[tokio::test]
async fn nobody_but_a_server_speaks_for_others() {
    let port = Port::open().await;
    let nodes = port.member(Member::Node(node(1))).await;
    let mut client = wire::node_client::NodeClient::new(nodes);
    let hello = wire::AgentMessage { message: Some(FromAgent::Hello(hello_of(2))) };
    let mut request = Request::new(futures_util::stream::iter([hello]));
    let metadata = node(2).to_string().parse().unwrap();
    request.metadata_mut().insert(wire::MEMBER_METADATA, metadata);
    let refused = client.session(request).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("speaks for nobody else"), "{refused}");
}

#[tokio::test]
async fn an_agent_of_another_protocol_is_told_what_to_upgrade() {
    let port = Port::open().await;
    let channel = port.member(Member::Node(node(1))).await;
    for (protocol, words) in [(wire::PROTOCOL + 1, "upgrade the server first"), (0, "upgrade it")] {
        let hello = wire::Hello { protocol, ..hello_of(1) };
        let refused = greet(channel.clone(), hello).await.err().unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains(words), "{refused}");
    }
}

async fn settled(hub: &Hub) {
    // A session's end is told after it was ended.
    let gone = async {
        while !hub.nodes_connected().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn a_follower_carries_sessions_to_the_leader_and_serves_blobs_itself() {
    let mut leader = Port::open().await;
    let follower = Port::of(&leader.book, 2).await;
    follower.hub.follow(Some(leader.leader(&follower, 1)));
    let channel = follower.member(Member::Node(node(1))).await;
    let mut agent = session(channel.clone(), 1).await.unwrap();
    welcomed(&mut agent).await;
    assert!(matches!(leader.next().await, Inbound::NodeHello { node: n, .. } if n == node(1)));
    assert!(follower.hub.nodes_connected().is_empty());
    leader.hub.send_target(&build_target(1, org(1)), &Secrets::default()).unwrap();
    assert!(matches!(agent.hear().await, ToAgent::Target(_)));
    agent.say(beat(7)).await;
    let ToAgent::HeartbeatAck(ack) = agent.hear().await else { panic!("not an answer") };
    assert_eq!(ack.sequence, 7);
    let digest = bring(&channel, org(1), "artifact").await.unwrap();
    assert_eq!(fetch(&channel, org(1), &digest).await.unwrap(), b"made");
    let strange = fetch(&channel, org(2), &digest).await.unwrap_err();
    assert_eq!(strange.code(), Code::PermissionDenied);
    let table = RouteTable { generation: Generation(3), routes: vec![], relays: [].into() };
    leader.hub.publish_routes(&table, String::new()).unwrap();
    let gateways = follower.member(Member::Gateway(gateway(1))).await;
    let mut routes = edge(gateways, 1).await.unwrap();
    assert_eq!(routes.tables.message().await.unwrap().unwrap().generation, 3);
    assert!(matches!(leader.next().await, Inbound::GatewayHello { .. }));
    // Removed at the leader: out at the follower's port, and out for good.
    leader.hub.expel(Member::Node(node(1)));
    leader.book.revoke(Member::Node(node(1)));
    assert_eq!(end(&mut agent.answers).await.unwrap().code(), Code::PermissionDenied);
    let refused = session(channel.clone(), 1).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(fetch(&channel, org(1), &digest).await.is_err());
    // The gateway goes, and the leader hears of it.
    drop(routes);
    loop {
        if matches!(leader.next().await, Inbound::GatewayGone { .. }) {
            break;
        }
    }
}

#[tokio::test]
async fn a_session_that_is_carried_ends_with_its_certificate_too() {
    let leader = Port::open().await;
    let follower = Port::of(&leader.book, 2).await;
    follower.hub.follow(Some(leader.leader(&follower, 1)));
    let channel = follower.member(Member::Node(node(1))).await;
    follower.book.clock.advance_ms(72 * 3_600_000 - 20);
    // Twenty milliseconds of a clock that moves no further by itself: it has to be moved.
    let mut agent = session(channel, 1).await.unwrap();
    welcomed(&mut agent).await;
    follower.book.clock.advance_ms(21);
    let words = end(&mut agent.answers).await.unwrap();
    assert_eq!(words.code(), Code::Unauthenticated, "{words}");
}

#[tokio::test]
async fn when_another_server_leads_every_session_ends_to_be_dialled_again() {
    let leader = Port::open().await;
    let follower = Port::of(&leader.book, 2).await;
    follower.hub.follow(Some(leader.leader(&follower, 1)));
    let mut carried = follower.agent(1).await;
    let mut direct = leader.agent(2).await;
    welcomed(&mut carried).await;
    welcomed(&mut direct).await;
    let turned = leader.leader(&leader, 2);
    assert_eq!(turned.server(), server(2));
    leader.hub.follow(None);
    follower.hub.lead();
    for agent in [&mut carried, &mut direct] {
        let words = end(&mut agent.answers).await.unwrap();
        assert_eq!(words.code(), Code::Unavailable, "{words}");
    }
    settled(&leader.hub).await;
    assert!(leader.hub.heard().is_empty());
    let nobody = session(leader.member(Member::Node(node(2))).await, 2).await.err().unwrap();
    assert_eq!(nobody.code(), Code::Unavailable);
    let mut again = follower.agent(1).await;
    welcomed(&mut again).await;
    assert!(follower.hub.nodes_connected().contains(&node(1)));
}

#[tokio::test]
async fn two_servers_that_believe_in_each_other_do_not_pass_a_session_on_for_ever() {
    let one = Port::open().await;
    let other = Port::of(&one.book, 2).await;
    one.hub.follow(Some(other.leader(&one, 2)));
    other.hub.follow(Some(one.leader(&other, 1)));
    let refused = session(one.member(Member::Node(node(1))).await, 1).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}

#[tokio::test]
async fn a_leader_that_is_gone_is_an_answer_soon() {
    let leader = Port::open().await;
    let follower = Port::of(&leader.book, 2).await;
    // The right place, but another server than the one that was meant answers there.
    let wrong = insula_link::Leader::new(server(9), leader.address, &follower.connector);
    follower.hub.follow(Some(wrong));
    let asked = session(follower.member(Member::Node(node(1))).await, 1);
    let refused = tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap();
    assert_eq!(refused.err().unwrap().code(), Code::Unavailable);
}

#[tokio::test]
async fn who_comes_while_nobody_leads_is_served_as_soon_as_somebody_does() {
    let port = Port::open().await;
    port.hub.follow(None);
    let mut asked = pin!(session(port.member(Member::Node(node(1))).await, 1));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut asked).await;
    assert!(early.is_err(), "it waits for somebody");
    port.hub.lead();
    welcomed(&mut asked.await.unwrap()).await;
}

#[tokio::test]
async fn who_was_on_his_way_to_a_dead_leader_dials_again_when_there_is_another() {
    let leader = Port::open().await;
    let follower = Port::of(&leader.book, 2).await;
    let gone = insula_link::Leader::new(server(9), leader.address, &follower.connector);
    follower.hub.follow(Some(gone));
    let channel = follower.member(Member::Node(node(1))).await;
    let mut asked = pin!(session(channel.clone(), 1));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut asked).await;
    assert!(early.is_err(), "it waits for another");
    follower.hub.lead();
    assert_eq!(asked.await.err().unwrap().code(), Code::Unavailable, "for it to dial again");
    welcomed(&mut session(channel, 1).await.unwrap()).await;
}

#[tokio::test]
async fn a_server_asks_the_leader_and_hears_the_answer_piece_by_piece() {
    let leader = Port::open().await;
    let follower = Port::of(&leader.book, 2).await;
    let body = vec![7; wire::BLOB_CHUNK_LEN * 2 + 1];
    let question = insula_link::Question {
        method: "POST".into(),
        path: "/v1/orgs/acme/logs?follow=1".into(),
        headers: vec![("accept".into(), b"text/event-stream".to_vec())],
        body: body.clone().into(),
    };
    let answer = leader.leader(&follower, 1).ask(question).await.unwrap();
    assert_eq!((answer.status, answer.headers[0].0.as_str()), (202, "accept"));
    let said: Vec<u8> = answer
        .body
        .try_fold(Vec::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
        .unwrap();
    let line = format!("{} POST /v1/orgs/acme/logs?follow=1", server(2));
    assert_eq!(said.len(), line.len() + body.len());
    assert!(said.starts_with(line.as_bytes()), "who asks is who the certificate says");
}
