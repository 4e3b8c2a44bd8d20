//! Serves the protocols: each on its own Unix socket, so that who may open which is the file
//! system's decision (the gateway's user opens the edge's and nothing else), and all of them on the
//! fleet's port, where certificates decide.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use insula_kit::tls::{ALPN_H2, Acceptor, ClientCertificates, Credentials};
use insula_wire::node as wire;
use insula_wire::node::{ASK_LEN_MAX, FROM_NODE_LEN_MAX, JOIN_LEN_MAX, MESSAGE_LEN_MAX};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::ask::{Answers, PeerService};
use crate::blobs::BlobStore;
use crate::caller::Door;
use crate::connection;
use crate::edge::EdgeService;
use crate::hub::Hub;
use crate::join::{BesideService, JoinService};
use crate::node::NodeService;
use crate::registry::Registry;
use crate::requests::Requests;
use crate::tally::Tally;

/// A server that does not lead passes all its sessions on over one connection, and so does a load
/// test.
const STREAMS_PER_CONNECTION_MAX: u32 = 32_768;
/// Between pings to who is silent. Nodes are not: they get none. Gateways are, and one whose machine
/// died without a word would be waited for by each deployment.
const PING_EVERY: Duration = Duration::from_secs(2);
/// What vanished is let go after one that was not answered for so long.
const PING_TIME_MAX: Duration = Duration::from_secs(3);
/// What all streams of a connection may have on the way together.
const WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Names, a trace, an id: requests here carry little beside their messages.
const HEADERS_LEN_MAX: u32 = 16 * 1024;

/// An acknowledgement that names every instance of a large fleet as busy.
const FROM_GATEWAY_LEN_MAX: usize = 2 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("serve the {protocol} protocol")]
    Protocol {
        protocol: &'static str,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("run the thread of the fleet's port")]
    Thread(#[source] std::io::Error),
}

/// What the fleet's port needs.
#[derive(Clone)]
#[allow(missing_debug_implementations)]
pub struct Fleet {
    pub hub: Hub,
    pub blobs: Arc<dyn BlobStore>,
    pub registry: Arc<dyn Registry>,
    /// This server's own.
    pub credentials: Arc<Credentials>,
    /// Answers what other servers ask; without, they are told that nobody does.
    pub answers: Option<Arc<dyn Answers>>,
}

/// Serves agents until `stop` is ready. With a registry they get certificates, too.
pub async fn nodes(
    hub: Hub,
    blobs: Arc<dyn BlobStore>,
    registry: Option<Arc<dyn Registry>>,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .add_service(join_beside(hub.clone(), "node", registry))
        .add_service(node_service(hub, Door::Local, blobs))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
        .map_err(|source| ServeError::Protocol { protocol: "node", source })
}

/// Serves gateways until `stop` is ready. With a registry they get certificates, too.
pub async fn edges(
    hub: Hub,
    registry: Option<Arc<dyn Registry>>,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    Server::builder()
        .add_service(join_beside(hub.clone(), "gateway", registry))
        .add_service(edge_service(hub, Door::Local))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
        .map_err(|source| ServeError::Protocol { protocol: "edge", source })
}

/// Serves agents, gateways, newcomers and other servers from elsewhere until `stop` is ready; then
/// ends the hub's sessions, so that they dial another server.
pub(crate) async fn fleet(
    fleet: Fleet,
    requests: Requests,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let Fleet { hub, blobs, registry, credentials, answers } = fleet;
    let acceptor = Acceptor::new(&credentials, ClientCertificates::Optional, ALPN_H2);
    let door = Door::Fleet(registry.clone());
    let join = JoinService { hub: hub.clone(), registry, failures: Tally::default() };
    let join = wire::join_server::JoinServer::new(join).max_decoding_message_size(JOIN_LEN_MAX);
    let peer = answers.map(|answers| {
        let service = PeerService { hub: hub.clone(), door: door.clone(), answers };
        wire::peer_server::PeerServer::new(service).max_decoding_message_size(ASK_LEN_MAX)
    });
    let stopped = async {
        stop.await;
        hub.end_sessions("this server stops");
    };
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIME_MAX))
        .http2_max_header_list_size(HEADERS_LEN_MAX)
        .layer(requests)
        .add_service(node_service(hub.clone(), door.clone(), blobs))
        .add_service(edge_service(hub.clone(), door))
        .add_service(join)
        .add_optional_service(peer)
        .serve_with_incoming_shutdown(connection::incoming(listener, acceptor), stopped)
        .await
        .map_err(|source| ServeError::Protocol { protocol: "fleet", source })
}

fn join_beside(
    hub: Hub,
    role: &'static str,
    registry: Option<Arc<dyn Registry>>,
) -> wire::join_server::JoinServer<BesideService> {
    wire::join_server::JoinServer::new(BesideService {
        hub,
        role,
        registry,
        first: Mutex::default(),
    })
    .max_decoding_message_size(JOIN_LEN_MAX)
}

fn node_service(
    hub: Hub,
    door: Door,
    blobs: Arc<dyn BlobStore>,
) -> wire::node_server::NodeServer<NodeService> {
    wire::node_server::NodeServer::new(NodeService { hub, door, blobs })
        .max_decoding_message_size(FROM_NODE_LEN_MAX)
        .max_encoding_message_size(MESSAGE_LEN_MAX)
}

fn edge_service(hub: Hub, door: Door) -> wire::edge_server::EdgeServer<EdgeService> {
    wire::edge_server::EdgeServer::new(EdgeService { hub, door })
        .max_decoding_message_size(FROM_GATEWAY_LEN_MAX)
        .max_encoding_message_size(MESSAGE_LEN_MAX)
}
