//! Joining over a socket of the server's own machine, where no token is asked for.

use insula_kit::pki::KeyPair;
use insula_link::Inbound;
use insula_model::fleet::Member;
use insula_wire::node as wire;
use insula_wire::node::join_client::JoinClient;
use tonic::{Code, Status};

use crate::rig::{Port, book, gateway, node, session};
use crate::{Server, hello};

fn request(member: Member) -> wire::EnrolRequest {
    let key = KeyPair::generate();
    let id = member.to_string();
    wire::EnrolRequest {
        token: String::new(),
        role: member.role().into(),
        proof: key.sign(&wire::join_proof("", &id)),
        id,
        name: String::new(),
        public_key: key.public_key().as_bytes().to_vec(),
        version: "0".into(),
        protocol: wire::PROTOCOL,
    }
}

async fn enrol(
    server: &Server,
    socket: &str,
    asked: wire::EnrolRequest,
) -> Result<wire::EnrolReply, Status> {
    let mut client = JoinClient::new(server.channel(socket).await);
    client.enrol(asked).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn each_socket_lets_its_own_role_in_and_no_other() {
    let server = Server::with(Some(book()));
    server.hub.set_servers(vec!["10.0.0.1:7443".into()]);
    let (of_node, of_gateway) = (Member::Node(node(1)), Member::Gateway(gateway(1)));
    for (socket, own, other) in [("node", of_node, of_gateway), ("edge", of_gateway, of_node)] {
        let reply = enrol(&server, socket, request(own)).await.unwrap();
        assert!(!reply.certificate.is_empty() && reply.servers == ["10.0.0.1:7443"]);
        let refused = enrol(&server, socket, request(other)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
}

#[tokio::test]
async fn what_a_socket_gives_counts_on_the_fleets_port() {
    let mut port = Port::open().await;
    let server = Server::with(Some(port.book.clone()));
    let key = KeyPair::generate();
    let id = node(1).to_string();
    let asked = wire::EnrolRequest {
        proof: key.sign(&wire::join_proof("", &id)),
        public_key: key.public_key().as_bytes().to_vec(),
        ..request(Member::Node(node(1)))
    };
    let reply = enrol(&server, "node", asked).await.unwrap();
    let (certificate, authorities) = (reply.certificate, reply.authorities);
    let identity = insula_kit::pki::Identity { key, certificate, authorities };
    let _agent = session(port.with(&identity).await, 1).await.unwrap();
    assert!(matches!(port.next().await, Inbound::NodeHello { node: n, .. } if n == node(1)));
}

#[tokio::test]
async fn a_server_without_a_fleet_says_so() {
    let server = Server::start();
    for (socket, member) in [("node", Member::Node(node(1))), ("edge", Member::Gateway(gateway(1)))]
    {
        let refused = enrol(&server, socket, request(member)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("no fleet"), "{refused}");
    }
    assert!(server.agent(hello()).await.is_ok(), "it serves its own machine all the same");
}

#[tokio::test]
async fn a_key_that_nobody_proves_to_hold_gets_no_certificate() {
    let server = Server::with(Some(book()));
    let of_another = request(Member::Node(node(2)));
    let stolen = wire::EnrolRequest { id: node(1).to_string(), ..of_another };
    let refused = enrol(&server, "node", stolen).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let with_token = wire::EnrolRequest { token: "x".into(), ..request(Member::Node(node(1))) };
    let refused = enrol(&server, "node", with_token).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}
