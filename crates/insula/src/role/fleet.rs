//! The server's house: who comes in by which door, whom it follows, what the API knows of it.
//!
//! Agents and gateways on this machine come in by Unix sockets, everybody else by mutual TLS. While
//! another server decides, sessions are passed on to it, and so are questions that only it can answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use axum::response::Response;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use http::request::Parts;
use insula_api::{Deciding, LeaderAway};
use insula_control::{Leadership, NodeBlobs, Status};
use insula_kit::clock::Clock;
use insula_kit::tls::{ALPN_H2, Connector, Credentials};
use insula_link::apart;
use insula_link::registry::Registry;
use insula_link::serve::{self, Fleet};
use insula_link::{Answer, Answering, Answers, Hub, Leader, Question};
use insula_model::ServerId;
use insula_plan::View;
use insula_vault::fleet::Registrar;
use insula_wire::rest::status::Reconciler;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

/// Between looks whether our own certificate is due; it is for days.
const RENEWAL_LOOK: Duration = Duration::from_secs(600);
/// Waits that `insula status` shows of a reconciler.
const WAITS_SHOWN_MAX: usize = 5;

#[derive(Debug)]
pub struct House {
    pub registrar: Registrar,
    pub clock: Arc<dyn Clock>,
    pub hub: Hub,
    pub blobs: Arc<NodeBlobs>,
    pub api: insula_api::Server,
    pub said: insula_api::Fleet,
    pub id: ServerId,
    /// Where the fleet comes in, and what it is told to dial.
    pub listen: Option<SocketAddr>,
    pub advertise: Option<SocketAddr>,
}

/// The house with its doors made, before anybody comes in.
#[derive(Debug)]
pub struct OpenHouse {
    house: House,
    fleet: Option<OpenFleet>,
}

#[derive(Debug)]
struct OpenFleet {
    listener: TcpListener,
    credentials: Arc<Credentials>,
}

impl House {
    pub async fn open(self) -> anyhow::Result<OpenHouse> {
        let registrar = &self.registrar;
        self.said.set_fingerprint(registrar.fingerprint().to_string());
        let fleet = match self.listen {
            None => None,
            Some(address) => {
                let listener = TcpListener::bind(address).await;
                let listener = listener.with_context(|| format!("listen on --fleet {address}"))?;
                let identity = registrar.identity_of_server(self.id).await;
                let identity = identity.context("make this server's certificate")?;
                let credentials = Credentials::new(&identity, Arc::clone(&self.clock))?;
                Some(OpenFleet { listener, credentials })
            }
        };
        Ok(OpenHouse { house: self, fleet })
    }
}

impl OpenHouse {
    /// Until `stop` is ready, or a door breaks.
    pub async fn run(
        self,
        leadership: watch::Receiver<Leadership>,
        view: watch::Receiver<View>,
        status: watch::Receiver<Arc<Status>>,
        nodes: UnixListener,
        edges: UnixListener,
        stop: impl Future<Output = ()> + Clone,
    ) -> anyhow::Result<()> {
        let Self { house, fleet } = self;
        let House { hub, said, id, registrar, .. } = &house;
        let connector = fleet.as_ref().map(|fleet| Connector::new(&fleet.credentials, ALPN_H2));
        let follow = follow(hub.clone(), said.clone(), *id, connector, leadership, view);
        let tell = tell(said.clone(), house.advertise, status);
        let members: Arc<dyn Registry> = Arc::new(insula_control::Members(registrar.clone()));
        // Without a fleet nobody else is there to show a certificate to.
        let beside = fleet.is_some().then(|| Arc::clone(&members));
        let fleet = async {
            let Some(OpenFleet { listener, credentials }) = fleet else {
                stop.clone().await;
                return Ok(());
            };
            let answers = Arc::new(OfApi(house.api.clone()));
            let fleet = Fleet {
                hub: hub.clone(),
                blobs: house.blobs.clone(),
                registry: members,
                credentials: Arc::clone(&credentials),
                answers: Some(answers),
            };
            tokio::select! {
                served = apart::fleet(fleet, listener, stop.clone()) => served,
                () = renew(registrar.clone(), *id, credentials) => Ok(()),
            }
        };
        tokio::select! {
            ended = serve::nodes(hub.clone(), house.blobs.clone(), beside.clone(), nodes, stop.clone()) => ended?,
            ended = serve::edges(hub.clone(), beside, edges, stop.clone()) => ended?,
            ended = fleet => ended?,
            () = follow => {}
            () = tell => {}
        }
        Ok(())
    }
}

/// Keeps the hub and the API on the side of whoever decides.
async fn follow(
    hub: Hub,
    said: insula_api::Fleet,
    own: ServerId,
    connector: Option<Connector>,
    mut leadership: watch::Receiver<Leadership>,
    mut view: watch::Receiver<View>,
) {
    // What was told last: the same server is told of again and again, and the way to it stays.
    let mut told: Option<Option<Leader>> = None;
    loop {
        let now = leadership.borrow_and_update().clone();
        match now {
            Leadership::Leader { .. } => {
                hub.lead();
                told = None;
                // Questions wait until there is something to answer them from.
                let shown = tokio::select! {
                    shown = view.changed() => shown.is_ok(),
                    changed = leadership.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => false,
                    },
                };
                if shown {
                    said.set_deciding(Deciding::Here);
                }
            }
            Leadership::Follower { leader } => {
                // What this server saw when it led itself is no view of now.
                view.mark_unchanged();
                let other = leader.filter(|leader| leader.id != own);
                let way = other.and_then(|leader| {
                    Some(Leader::new(leader.id, leader.fleet?, connector.as_ref()?))
                });
                if told.as_ref() != Some(&way) {
                    hub.follow(way.clone());
                    said.set_deciding(match way.clone() {
                        Some(leader) => Deciding::Elsewhere(Arc::new(Way(leader))),
                        None => Deciding::Nobody,
                    });
                    told = Some(way);
                }
            }
        }
        if leadership.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Tells the API where the servers are, and what the reconcilers do. Members hear of the servers
/// from the control plane, which knows which of them are alive.
async fn tell(
    said: insula_api::Fleet,
    own: Option<SocketAddr>,
    mut status: watch::Receiver<Arc<Status>>,
) {
    let mut known = Vec::new();
    loop {
        let now = Arc::clone(&status.borrow_and_update());
        let mut servers: Vec<String> =
            now.servers.iter().filter_map(|server| server.fleet).map(|at| at.to_string()).collect();
        // Before the first look at the store there is at least ourselves.
        servers.extend(own.map(|at| at.to_string()));
        servers.sort();
        servers.dedup();
        if servers != known {
            said.set_servers(servers.clone());
            known = servers;
        }
        said.set_reconcilers(reconcilers(&now));
        if status.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Of each one, also of those that have not passed yet.
fn reconcilers(status: &Status) -> Vec<Reconciler> {
    let said = insula_control::Reconciler::ALL.map(|name| {
        let report = status.reports.get(&name).cloned().unwrap_or_default();
        let did: Vec<String> =
            report.did.iter().map(|(what, times)| format!("{what}: {times}")).collect();
        let mut waits: Vec<String> = report.waits.iter().take(WAITS_SHOWN_MAX).cloned().collect();
        if report.waiting > waits.len() {
            waits.push(format!("and {} more", report.waiting - waits.len()));
        }
        Reconciler {
            name: name.as_str().to_owned(),
            passes: report.passes,
            last: report.at,
            took_micros: report.took_micros,
            did: did.join(", "),
            waits,
            error: report.error,
        }
    });
    said.into()
}

/// The server's own next certificate, in time and without a word to anybody.
async fn renew(registrar: Registrar, id: ServerId, credentials: Arc<Credentials>) {
    loop {
        tokio::time::sleep(RENEWAL_LOOK).await;
        if !credentials.renewal_is_due() {
            continue;
        }
        let renewed = match registrar.identity_of_server(id).await {
            Ok(identity) => credentials.replace(&identity).map_err(anyhow::Error::from),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = renewed {
            tracing::warn!(error = format!("{error:#}"), "renew this server's certificate");
        }
    }
}

/// The way to the server that decides, as the API asks it.
#[derive(Debug)]
struct Way(Leader);

impl insula_api::Leader for Way {
    fn ask(&self, head: Parts) -> BoxFuture<'static, Result<Response, LeaderAway>> {
        let leader = self.0.clone();
        Box::pin(async move {
            let headers = head.headers.iter();
            let question = Question {
                method: head.method.to_string(),
                path: head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
                headers: headers.map(|(n, v)| (n.to_string(), v.as_bytes().to_vec())).collect(),
                body: bytes::Bytes::new(),
            };
            let away = |error: insula_link::AskError| LeaderAway(error.into());
            let Answer { status, headers, body } = leader.ask(question).await.map_err(away)?;
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Body::from_stream(body)).map_err(|error| LeaderAway(error.into()))
        })
    }
}

/// Our API, as other servers ask it.
#[derive(Debug)]
struct OfApi(insula_api::Server);

impl Answers for OfApi {
    fn answer(&self, _from: ServerId, question: Question) -> Answering<'_> {
        Box::pin(async move {
            let mut request = http::Request::builder().method(&*question.method).uri(question.path);
            for (name, value) in question.headers {
                request = request.header(name, value);
            }
            // Who asks has a certificate of ours; whose request it is stands in its headers.
            let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
            let response = match request.body(Body::from(question.body)) {
                Ok(request) => self.0.answer(request, nobody).await,
                Err(error) => {
                    tracing::warn!(%error, "a question of another server is no request");
                    let mut refused = Response::new(Body::empty());
                    *refused.status_mut() = http::StatusCode::BAD_REQUEST;
                    refused
                }
            };
            let (parts, body) = response.into_parts();
            let headers = parts.headers.iter();
            let cut = |error: axum::Error| {
                let status = tonic::Status::unavailable(error.to_string());
                insula_link::AskError::from(status)
            };
            Answer {
                status: parts.status.as_u16(),
                headers: headers.map(|(n, v)| (n.to_string(), v.as_bytes().to_vec())).collect(),
                body: body.into_data_stream().map_err(cut).boxed(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that can run has run.
    async fn settle() {
        for _ in 0..32 {
            tokio::task::yield_now().await;
        }
    }

    fn server(n: u8) -> ServerId {
        ServerId::from_parts(insula_model::Timestamp::from_millis(1), [n; 10])
    }

    #[tokio::test]
    async fn questions_wait_until_a_new_leader_has_something_to_answer_from() {
        let (hub, _inbox) = Hub::new();
        let said = insula_api::Fleet::default();
        said.set_deciding(Deciding::Nobody);
        let mut deciding = said.deciding();
        let leadership = watch::Sender::new(Leadership::Follower { leader: None });
        let blank = || insula_plan::blank("localhost".parse().unwrap());
        let view = watch::Sender::new(blank());
        let following =
            follow(hub, said, server(1), None, leadership.subscribe(), view.subscribe());
        let following = tokio::spawn(following);
        settle().await;
        assert!(matches!(*deciding.borrow_and_update(), Deciding::Nobody));
        for epoch in 1..=2 {
            leadership.send_replace(Leadership::Leader { epoch });
            settle().await;
            assert!(!deciding.has_changed().unwrap(), "term {epoch}: what it saw is of before");
            view.send_replace(blank());
            settle().await;
            assert!(matches!(*deciding.borrow_and_update(), Deciding::Here));
            view.send_replace(blank());
            leadership.send_replace(Leadership::Follower { leader: None });
            settle().await;
            assert!(matches!(*deciding.borrow_and_update(), Deciding::Nobody));
            // Told again and again while it lasts, which ends no stream.
            leadership.send_replace(Leadership::Follower { leader: None });
            settle().await;
            assert!(!deciding.has_changed().unwrap());
        }
        following.abort();
    }

    #[test]
    fn a_question_is_held_for_a_lease_and_a_second() {
        let lease = insula_control::LEASE_TTL.as_duration();
        assert_eq!(insula_api::limits::LEADER_WAIT, lease + Duration::from_secs(1));
    }
}
