//! Sessions of a server that does not lead: carried to the one that does, message by message.
//!
//! The agent or gateway notices nothing, and dials whichever server it reaches. What it may do was
//! decided here by its certificate; the leader believes a server's certificate, and asks the
//! registry again.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use insula_kit::pki::Whom;
use insula_kit::tls::Connector;
use insula_model::fleet::Member;
use insula_model::{GatewayId, NodeId, ServerId};
use insula_wire::node as wire;
use insula_wire::node::server_message::Message as ToAgent;
use insula_wire::node::{MEMBER_METADATA, MESSAGE_LEN_MAX, SERIAL_METADATA};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::caller::{Caller, expiry};
use crate::hub::{Hub, Leadership, OTHER_LEADS};
use crate::reach::Reach;

/// A leader that cannot be dialled within this has fallen over; the lease will pass on.
const DIAL_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a caller waits here for somebody to lead, instead of dialling again and again, each
/// time later. Short, because another server may know more.
const HANDOVER_TIME_MAX: Duration = Duration::from_secs(1);
/// Between pings to the leader: one that vanished without a word is noticed before its lease ends.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_TIME_MAX: Duration = Duration::from_secs(2);
/// All sessions of a server share one connection; a Target for one must not hold up the others.
const WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// The server that leads, and the way to it. Clones share one connection, made when first used.
#[derive(Clone)]
pub struct Leader {
    server: ServerId,
    address: SocketAddr,
    pub(crate) channel: Channel,
}

impl Leader {
    /// Must be called within a runtime. `connector` is of our own credentials, for `h2`.
    pub fn new(server: ServerId, address: SocketAddr, connector: &Connector) -> Self {
        let connector = connector.clone();
        let dial = tower::service_fn(move |_: http::Uri| dial(server, address, connector.clone()));
        let channel = Endpoint::from_static("http://insula")
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIME_MAX)
            .keep_alive_while_idle(false)
            .initial_connection_window_size(WINDOW_BYTES)
            .connect_with_connector_lazy(dial);
        Self { server, address, channel }
    }

    pub fn server(&self) -> ServerId {
        self.server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn dial(
    server: ServerId,
    address: SocketAddr,
    connector: Connector,
) -> std::io::Result<TokioIo<insula_kit::tls::ClientStream<TcpStream>>> {
    let stream = timeout(DIAL_TIME_MAX, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    let whom = Whom::one("server", &server.to_string()).map_err(std::io::Error::other)?;
    let (stream, _) = connector.connect(stream, &whom).await.map_err(std::io::Error::other)?;
    Ok(TokioIo::new(stream))
}

impl PartialEq for Leader {
    fn eq(&self, other: &Self) -> bool {
        (self.server, self.address) == (other.server, other.address)
    }
}

impl fmt::Debug for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leader({} at {})", self.server, self.address)
    }
}

/// Whom to pass a session on to, if it is not ours to serve. Who comes while nobody leads waits for
/// somebody.
pub(crate) async fn whom(hub: &Hub, caller: &Caller) -> Result<Option<Leader>, Status> {
    let mut leadership = hub.leadership();
    let nobody = matches!(&*leadership.borrow_and_update(), Leadership::Theirs(None));
    if nobody && !caller.is_passed_on() {
        handover(&mut leadership).await;
    }
    elsewhere(caller, &leadership)
}

/// A leader that could not be reached may have died: whoever wanted to go there waits for the next
/// one, and dials again when there is one.
async fn bereaved(hub: &Hub, leader: &Leader, status: Status) -> Status {
    let mut leadership = hub.leadership();
    let still = matches!(
        &*leadership.borrow_and_update(),
        Leadership::Theirs(Some(known)) if known == leader
    );
    if still && status.code() == Code::Unavailable {
        handover(&mut leadership).await;
    }
    status
}

async fn handover(leadership: &mut watch::Receiver<Leadership>) {
    // It may as well have ended, and with it this server.
    let _ = timeout(HANDOVER_TIME_MAX, leadership.changed()).await;
}

fn elsewhere(
    caller: &Caller,
    leadership: &watch::Receiver<Leadership>,
) -> Result<Option<Leader>, Status> {
    match &*leadership.borrow() {
        Leadership::Ours => Ok(None),
        // Two servers that both believe that the other leads would pass it on for ever.
        Leadership::Theirs(_) if caller.is_passed_on() => Err(Status::unavailable(OTHER_LEADS)),
        Leadership::Theirs(Some(leader)) => Ok(Some(leader.clone())),
        Leadership::Theirs(None) => {
            Err(Status::unavailable("no server of the fleet leads at this moment"))
        }
    }
}

/// Passes on the session of a node, from its greeting to its end.
pub(crate) async fn node(
    hub: &Hub,
    leader: &Leader,
    caller: &Caller,
    node: NodeId,
    hello: wire::AgentMessage,
    incoming: Streaming<wire::AgentMessage>,
) -> Result<BoxStream<'static, Result<wire::ServerMessage, Status>>, Status> {
    let there = said(hello, incoming, hub);
    let request = spoken_for(Request::new(there), caller, Member::Node(node))?;
    let mut client = wire::node_client::NodeClient::new(leader.channel.clone())
        .max_decoding_message_size(MESSAGE_LEN_MAX)
        .max_encoding_message_size(MESSAGE_LEN_MAX);
    let back = match client.session(request).await {
        Ok(back) => back.into_inner(),
        Err(status) => return Err(bereaved(hub, leader, status).await),
    };
    let passing = Passing { hub: hub.clone(), node, number: hub.number() };
    let back = back.inspect(move |message| {
        if let Ok(wire::ServerMessage { message: Some(ToAgent::Target(target)) }) = message {
            passing.note(&target.document);
        }
    });
    Ok(while_it_counts(hub, caller, back))
}

/// Passes on the session of a gateway.
pub(crate) async fn gateway(
    hub: &Hub,
    leader: &Leader,
    caller: &Caller,
    gateway: GatewayId,
    hello: wire::GatewayMessage,
    incoming: Streaming<wire::GatewayMessage>,
) -> Result<BoxStream<'static, Result<wire::RouteMessage, Status>>, Status> {
    let there = said(hello, incoming, hub);
    let request = spoken_for(Request::new(there), caller, Member::Gateway(gateway))?;
    let mut client = wire::edge_client::EdgeClient::new(leader.channel.clone())
        .max_decoding_message_size(MESSAGE_LEN_MAX);
    let back = match client.routes(request).await {
        Ok(back) => back.into_inner(),
        Err(status) => return Err(bereaved(hub, leader, status).await),
    };
    Ok(while_it_counts(hub, caller, back))
}

/// What the other side says, its greeting first, until it breaks off or the leader changes.
fn said<T: Send + 'static>(
    hello: T,
    incoming: Streaming<T>,
    hub: &Hub,
) -> impl Stream<Item = T> + Send + use<T> {
    let rest = incoming.scan((), |(), message| std::future::ready(message.ok()));
    let first = futures_util::stream::once(std::future::ready(hello));
    first.chain(rest).take_until(changed(hub.leadership()))
}

/// What the leader says, for as long as it leads and the certificate counts.
fn while_it_counts<T: Send + 'static>(
    hub: &Hub,
    caller: &Caller,
    back: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> BoxStream<'static, Result<T, Status>> {
    let (hub, not_after_ms) = (hub.clone(), caller.not_after_ms());
    let leadership = hub.leadership();
    let over = async move {
        let words = tokio::select! {
            words = expiry(&hub, not_after_ms) => words,
            () = changed(leadership) => Status::unavailable(OTHER_LEADS),
        };
        Some(Err(words))
    };
    let over = futures_util::stream::once(over);
    let back = back.map(Some).chain(futures_util::stream::once(std::future::ready(None)));
    // Whichever ends first ends both: the leader's silence, or the words over it.
    futures_util::stream::select(back, over)
        .scan(false, |over, message| {
            let item = if *over { None } else { message };
            *over |= matches!(item, Some(Err(_)));
            std::future::ready(item)
        })
        .boxed()
}

async fn changed(mut leadership: watch::Receiver<Leadership>) {
    // The hub lives as long as its sessions.
    let _ = leadership.changed().await;
}

fn spoken_for<T>(
    mut request: Request<T>,
    caller: &Caller,
    member: Member,
) -> Result<Request<T>, Status> {
    let text = |text: String| {
        MetadataValue::try_from(text).map_err(|_| Status::internal("an id is not a header"))
    };
    request.metadata_mut().insert(MEMBER_METADATA, text(member.to_string())?);
    if let Caller::Certified(certified) = caller {
        request.metadata_mut().insert(SERIAL_METADATA, text(certified.serial.0.to_string())?);
    }
    Ok(request)
}

/// What is known of a node while its session passes through here: its blobs are served here.
struct Passing {
    hub: Hub,
    node: NodeId,
    number: u64,
}

impl Passing {
    fn note(&self, document: &str) {
        if let Some(reach) = Reach::of_document(document) {
            self.hub.set_reach(self.node, self.number, reach);
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.hub.drop_reach(self.node, self.number);
    }
}
