//! Who calls, as the certificate says; what a request says of itself counts for nothing.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use insula_kit::tls::Peer;
use insula_model::fleet::{Member, Serial};
use insula_model::{GatewayId, NodeId, ServerId};
use insula_wire::node::{MEMBER_METADATA, SERIAL_METADATA};
use tonic::{Request, Status};

use crate::connection::Connection;
use crate::hub::Hub;
use crate::registry::{Refusal, Registry, Why};

/// How long a clock that was set may go unnoticed.
const LOOK_AT_CLOCK_EVERY: Duration = Duration::from_secs(300);

/// How requests come in.
#[derive(Clone)]
pub(crate) enum Door {
    /// A Unix socket: who may open it is the file system's decision.
    Local,
    /// The fleet's port: a certificate decides.
    Fleet(Arc<dyn Registry>),
}

/// Somebody who was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// On this machine, whoever it says it is.
    Local,
    /// On another server's own machine, which believes it.
    LocalElsewhere {
        member: Member,
        from: String,
    },
    Certified(Certified),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certified {
    pub(crate) member: Member,
    pub(crate) serial: Serial,
    /// After which moment the certificate does not count any more.
    pub(crate) not_after_ms: i64,
    /// Another server has seen the certificate, and passes the session on.
    pub(crate) passed_on: bool,
    from: String,
}

impl Caller {
    /// Where it calls from, for people.
    pub(crate) fn from(&self) -> &str {
        match self {
            Self::Local => "this machine",
            Self::LocalElsewhere { from, .. } | Self::Certified(Certified { from, .. }) => from,
        }
    }

    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local)
    }

    /// The node that this is, which is whom it says it is.
    pub(crate) fn node(&self, said: NodeId) -> Result<NodeId, Status> {
        self.is(Member::Node(said)).map(|()| said)
    }

    pub(crate) fn gateway(&self, said: GatewayId) -> Result<GatewayId, Status> {
        self.is(Member::Gateway(said)).map(|()| said)
    }

    fn is(&self, said: Member) -> Result<(), Status> {
        match self.member() {
            Some(member) if member != said => {
                let words = format!("the certificate is of {member}, and it says it is {said}");
                Err(Status::permission_denied(words))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn member(&self) -> Option<Member> {
        match self {
            Self::Local => None,
            Self::LocalElsewhere { member, .. } => Some(*member),
            Self::Certified(certified) => Some(certified.member),
        }
    }

    /// Of a caller on the fleet's port: somebody of this role.
    pub(crate) fn expect(self, role: &'static str) -> Result<Self, Status> {
        match self.member().filter(|member| member.role() != role) {
            Some(member) => Err(Status::permission_denied(format!("{member} is not a {role}"))),
            None => Ok(self),
        }
    }

    /// Whether another server passes it on.
    pub(crate) fn is_passed_on(&self) -> bool {
        match self {
            Self::Local => false,
            Self::LocalElsewhere { .. } => true,
            Self::Certified(certified) => certified.passed_on,
        }
    }

    pub(crate) fn not_after_ms(&self) -> i64 {
        match self {
            Self::Local | Self::LocalElsewhere { .. } => i64::MAX,
            Self::Certified(certified) => certified.not_after_ms,
        }
    }
}

/// Waits until a certificate does not count any more; a clock that steps is noticed in between.
pub(crate) async fn expiry(hub: &Hub, not_after_ms: i64) -> Status {
    loop {
        let left_ms = not_after_ms.saturating_sub(hub.now_ms());
        if left_ms < 0 {
            return Status::unauthenticated("the certificate has expired");
        }
        let left = Duration::from_millis(left_ms as u64 + 1);
        tokio::time::sleep(left.min(LOOK_AT_CLOCK_EVERY)).await;
    }
}

impl Door {
    /// Who makes this request; refused if his certificate does not count (any more).
    pub(crate) async fn caller<T: Sync>(
        &self,
        hub: &Hub,
        request: &Request<T>,
    ) -> Result<Caller, Status> {
        let Self::Fleet(registry) = self else { return Ok(Caller::Local) };
        let connection = connection(request)?;
        let address = connection.address.to_string();
        let Some(peer) = &connection.peer else {
            return Err(Status::unauthenticated(
                "this needs a certificate of the fleet: join with a token first",
            ));
        };
        let (member, serial) = read(peer)?;
        let not_after_ms = peer.not_after_ms;
        if not_after_ms < hub.now_ms() {
            return Err(Status::unauthenticated(format!(
                "the certificate of {member} has expired"
            )));
        }
        check(hub, registry, member, serial).await?;
        let Some(spoken_for) = spoken_for(request)? else {
            let from = address;
            let certified = Certified { member, serial, not_after_ms, passed_on: false, from };
            return Ok(Caller::Certified(certified));
        };
        if member.role() != "server" {
            return Err(Status::permission_denied(format!("{member} speaks for nobody else")));
        }
        let from = format!("{address} ({member})");
        let (member, serial) = spoken_for;
        match serial {
            Some(serial) => {
                check(hub, registry, member, serial).await?;
                // The other server ends the session when the certificate does.
                let (not_after_ms, passed_on) = (i64::MAX, true);
                Ok(Caller::Certified(Certified { member, serial, not_after_ms, passed_on, from }))
            }
            None if hub.is_expelled(member) => Err(removed(member)),
            None => Ok(Caller::LocalElsewhere { member, from }),
        }
    }
}

async fn check(
    hub: &Hub,
    registry: &Arc<dyn Registry>,
    member: Member,
    serial: Serial,
) -> Result<(), Status> {
    if hub.is_expelled(member) {
        return Err(removed(member));
    }
    Ok(registry.check(member, serial).await?)
}

fn removed(member: Member) -> Status {
    let words = format!("{member} was removed from this fleet");
    Refusal { why: Why::Removed, words }.into()
}

/// What a connection from elsewhere is known by.
pub(crate) fn connection<T>(request: &Request<T>) -> Result<&Connection, Status> {
    let connection = request.extensions().get::<Connection>();
    connection.ok_or_else(|| Status::internal("a connection without an address"))
}

fn read(peer: &Peer) -> Result<(Member, Serial), Status> {
    let member = parse_member(peer.subject.id());
    match member.filter(|member| member.role() == peer.subject.role()) {
        Some(member) => Ok((member, Serial(peer.serial))),
        None => Err(Status::unauthenticated(format!("nobody of a fleet is {}", peer.subject))),
    }
}

/// An id says by its prefix whose it is.
pub(crate) fn parse_member(id: &str) -> Option<Member> {
    fn parse<T: FromStr>(id: &str, member: fn(T) -> Member) -> Option<Member> {
        id.parse().ok().map(member)
    }
    parse::<NodeId>(id, Member::Node)
        .or_else(|| parse::<GatewayId>(id, Member::Gateway))
        .or_else(|| parse::<ServerId>(id, Member::Server))
}

/// Whom the caller speaks for, if it says that it speaks for somebody.
fn spoken_for<T>(request: &Request<T>) -> Result<Option<(Member, Option<Serial>)>, Status> {
    let unreadable = || Status::invalid_argument("whom a server speaks for cannot be read");
    let text = |name| match request.metadata().get(name) {
        Some(value) => value.to_str().map(Some).map_err(|_| unreadable()),
        None => Ok(None),
    };
    let Some(member) = text(MEMBER_METADATA)? else { return Ok(None) };
    let member = parse_member(member).ok_or_else(unreadable)?;
    if member.role() == "server" {
        return Err(unreadable());
    }
    let serial = match text(SERIAL_METADATA)? {
        Some(serial) => Some(Serial(serial.parse().map_err(|_| unreadable())?)),
        None => None,
    };
    Ok(Some((member, serial)))
}
