//! Serves the two protocols, each on its own Unix socket, so that who may open which is the file
//! system's decision: the gateway's user opens the edge's and nothing else.

use std::sync::Arc;

use insula_wire::node as wire;
use insula_wire::node::MESSAGE_LEN_MAX;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::blobs::BlobStore;
use crate::edge::EdgeService;
use crate::hub::Hub;
use crate::node::NodeService;

#[derive(Debug, thiserror::Error)]
#[error("serve the {protocol} protocol")]
pub struct ServeError {
    protocol: &'static str,
    #[source]
    source: tonic::transport::Error,
}

/// Serves agents until `stop` is ready.
pub async fn nodes(
    hub: Hub,
    blobs: Arc<dyn BlobStore>,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let service = wire::node_server::NodeServer::new(NodeService { hub, blobs })
        .max_decoding_message_size(MESSAGE_LEN_MAX)
        .max_encoding_message_size(MESSAGE_LEN_MAX);
    Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
        .map_err(|source| ServeError { protocol: "node", source })
}

/// Serves gateways until `stop` is ready.
pub async fn edges(
    hub: Hub,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let service = wire::edge_server::EdgeServer::new(EdgeService { hub })
        .max_encoding_message_size(MESSAGE_LEN_MAX);
    Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
        .map_err(|source| ServeError { protocol: "edge", source })
}
