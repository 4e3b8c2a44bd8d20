//! The `Edge` service: tables out, acknowledgements in.

use std::sync::Arc;

use futures_util::StreamExt;
use insula_model::{GatewayId, Generation};
use insula_wire::node as wire;
use insula_wire::node::gateway_message::Message as FromGateway;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use crate::hub::{Hub, Inbound};

pub(crate) struct EdgeService {
    pub(crate) hub: Hub,
}

type Outgoing = mpsc::Sender<Result<wire::RouteMessage, Status>>;

#[tonic::async_trait]
impl wire::edge_server::Edge for EdgeService {
    type RoutesStream = ReceiverStream<Result<wire::RouteMessage, Status>>;

    async fn routes(
        &self,
        request: Request<Streaming<wire::GatewayMessage>>,
    ) -> Result<Response<Self::RoutesStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|m| m.message);
        let Some(FromGateway::Hello(hello)) = first else {
            return Err(Status::invalid_argument("the first message of a session is GatewayHello"));
        };
        if hello.protocol == 0 || hello.protocol > wire::PROTOCOL {
            return Err(Status::failed_precondition("upgrade the server before its gateways"));
        }
        let gateway: GatewayId =
            hello.gateway.parse().map_err(|_| Status::invalid_argument("not a gateway id"))?;
        // One table may wait; a newer one replaces what was not read yet.
        let (outgoing, receiver) = mpsc::channel(1);
        tokio::spawn(session(self.hub.clone(), gateway, incoming, outgoing));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn session(
    hub: Hub,
    gateway: GatewayId,
    incoming: Streaming<wire::GatewayMessage>,
    outgoing: Outgoing,
) {
    let number = hub.gateway_joined(gateway);
    info!(%gateway, "a gateway is connected");
    hub.tell(Inbound::GatewayHello { gateway }).await;
    tokio::select! {
        () = read(&hub, gateway, incoming) => {}
        () = write(hub.routes(), &outgoing) => {}
    }
    if hub.gateway_left(gateway, number) {
        info!(%gateway, "a gateway is gone");
        hub.tell(Inbound::GatewayGone { gateway }).await;
    }
}

async fn write(mut tables: watch::Receiver<Option<Arc<wire::RouteMessage>>>, outgoing: &Outgoing) {
    // The table that is in force already counts as a change for whoever has just come.
    tables.mark_changed();
    while tables.changed().await.is_ok() {
        let newest = tables.borrow_and_update().clone();
        if let Some(newest) = newest
            && outgoing.send(Ok((*newest).clone())).await.is_err()
        {
            return;
        }
    }
}

async fn read(hub: &Hub, gateway: GatewayId, mut incoming: Streaming<wire::GatewayMessage>) {
    while let Some(Ok(received)) = incoming.next().await {
        match received.message {
            Some(FromGateway::Ack(ack)) => {
                let busy = ack.busy.iter().filter_map(|id| id.parse().ok()).collect();
                let generation = Generation(ack.generation);
                hub.tell(Inbound::RouteAck { gateway, generation, busy }).await;
            }
            Some(FromGateway::Traffic(traffic)) => hub.note_traffic(&traffic),
            Some(FromGateway::Hello(_)) | None => {}
        }
    }
}
