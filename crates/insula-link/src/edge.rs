//! The `Edge` service: tables out, acknowledgements in.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use insula_model::fleet::Member;
use insula_model::{GatewayId, Generation};
use insula_wire::node as wire;
use insula_wire::node::gateway_message::Message as FromGateway;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use crate::caller::{Caller, Door, expiry};
use crate::forward;
use crate::hub::Hub;
use crate::inbox::{Inbound, Newest};
use crate::node::{HELLO_TIME_MAX, parse};
use crate::version;

pub(crate) struct EdgeService {
    pub(crate) hub: Hub,
    pub(crate) door: Door,
}

type Outgoing = mpsc::Sender<Result<wire::RouteMessage, Status>>;

#[tonic::async_trait]
impl wire::edge_server::Edge for EdgeService {
    type RoutesStream = BoxStream<'static, Result<wire::RouteMessage, Status>>;

    async fn routes(
        &self,
        request: Request<Streaming<wire::GatewayMessage>>,
    ) -> Result<Response<Self::RoutesStream>, Status> {
        let caller = self.door.caller(&self.hub, &request).await?.expect("gateway")?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIME_MAX, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no GatewayHello came"))??;
        let Some(FromGateway::Hello(hello)) = first.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("the first message of a session is GatewayHello"));
        };
        version::check("gateway", &hello.version, hello.protocol)?;
        let gateway = caller.gateway(parse(&hello.gateway)?)?;
        if let Some(leader) = forward::whom(&self.hub, &caller).await? {
            let hello = wire::GatewayMessage { message: Some(FromGateway::Hello(hello)) };
            let back =
                forward::gateway(&self.hub, &leader, &caller, gateway, hello, incoming).await?;
            return Ok(Response::new(back));
        }
        let (number, ended) = self.hub.gateway_joined(gateway)?;
        // One table may wait; a newer one replaces what was not read yet.
        let (outgoing, receiver) = mpsc::channel(1);
        let session = Session { hub: self.hub.clone(), gateway, number, caller };
        tokio::spawn(session.run(incoming, outgoing, ended));
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

struct Session {
    hub: Hub,
    gateway: GatewayId,
    number: u64,
    caller: Caller,
}

impl Session {
    async fn run(
        self,
        incoming: Streaming<wire::GatewayMessage>,
        outgoing: Outgoing,
        ended: oneshot::Receiver<Status>,
    ) {
        let gateway = self.gateway;
        info!(%gateway, from = self.caller.from(), "a gateway is connected");
        self.hub.tell(Inbound::GatewayHello { gateway }).await;
        let words = tokio::select! {
            words = ended => Some(words.unwrap_or_else(|_| {
                Status::aborted("a newer session of this gateway has taken over")
            })),
            words = expiry(&self.hub, self.caller.not_after_ms()) => Some(words),
            () = self.read(incoming) => None,
            () = write(self.hub.routes(), &outgoing) => None,
        };
        if let Some(words) = words {
            // Behind a table that was not read yet there is no room; then it is a plain end.
            let _ = outgoing.try_send(Err(words));
        }
        if self.hub.gateway_left(gateway, self.number) {
            self.hub.forget_relay(Member::Gateway(gateway));
            info!(%gateway, "a gateway is gone");
            self.hub.tell(Inbound::GatewayGone { gateway }).await;
        }
    }

    async fn read(&self, mut incoming: Streaming<wire::GatewayMessage>) {
        let (gateway, newest) = (self.gateway, Arc::<Newest>::default());
        while let Some(Ok(received)) = incoming.next().await {
            match received.message {
                Some(FromGateway::Ack(ack)) => {
                    let busy = ack.busy.iter().filter_map(|id| id.parse().ok()).collect();
                    let generation = Generation(ack.generation);
                    let told = Inbound::RouteAck { gateway, generation, busy };
                    self.hub.tell_newest(&newest, told).await;
                }
                Some(FromGateway::Traffic(traffic)) => {
                    self.hub.note_traffic(&traffic);
                    self.hub.note_relay(Member::Gateway(gateway), traffic.relay.as_ref());
                }
                Some(FromGateway::Hello(_)) | None => {}
            }
        }
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
