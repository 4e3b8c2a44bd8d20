//! The `Join` service: a token becomes a certificate, and a certificate the next one.
//!
//! On a socket of this machine no token is asked for, because who may open it belongs here. There
//! is no certificate on it either, so enrolling again is what renewing is elsewhere.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use insula_kit::pki::PublicKey;
use insula_kit::token::Token;
use insula_model::NodeName;
use insula_model::fleet::Member;
use insula_wire::node as wire;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::caller::{Caller, Certified, Door, connection, parse_member};
use crate::hub::Hub;
use crate::registry::{Admission, Newcomer, Registry, Voucher, Why};
use crate::tally::Tally;
use crate::version;

/// A prefix and 38 characters.
const TOKEN_LEN_MAX: usize = 128;
const ID_LEN_MAX: usize = 64;
const NAME_LEN_MAX: usize = 64;
/// Two numbers of 33 bytes as DER writes them, with room.
const PROOF_LEN_MAX: usize = 80;

pub(crate) struct JoinService {
    pub(crate) hub: Hub,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) failures: Tally,
}

#[tonic::async_trait]
impl wire::join_server::Join for JoinService {
    async fn enrol(
        &self,
        request: Request<wire::EnrolRequest>,
    ) -> Result<Response<wire::EnrolReply>, Status> {
        let address = connection(&request)?.address.ip();
        if let Some(wait) = self.failures.wait(address, Instant::now()) {
            let seconds = wait.as_secs() + 1;
            return Err(Status::resource_exhausted(format!(
                "too many attempts to join failed from {address}: try again in {seconds} s"
            )));
        }
        let asked = request.into_inner();
        version::check("program", &asked.version, asked.protocol)?;
        let newcomer = with_token(asked).inspect_err(|_| self.failed(address))?;
        let member = newcomer.member;
        let admission = self.registry.admit(newcomer).await.map_err(|refusal| {
            if refusal.why != Why::Failed {
                self.failed(address);
                warn!(%address, %member, %refusal, "a newcomer was refused");
            }
            Status::from(refusal)
        })?;
        info!(%address, %member, "a newcomer joined the fleet");
        Ok(Response::new(reply(&self.hub, admission)))
    }

    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::EnrolReply>, Status> {
        let door = Door::Fleet(self.registry.clone());
        let caller = door.caller(&self.hub, &request).await?;
        // Nobody renews for another: a server passes sessions on, not identities.
        let Caller::Certified(Certified { member, passed_on: false, .. }) = caller else {
            return Err(Status::permission_denied("a member renews its own certificate"));
        };
        let asked = request.into_inner();
        let proof = wire::renew_proof(&member.to_string());
        let key = proven_key(&asked.public_key, &asked.proof, &proof)?;
        let admission = self.registry.renew(member, key).await?;
        info!(%member, "a member got its next certificate");
        Ok(Response::new(reply(&self.hub, admission)))
    }
}

impl JoinService {
    fn failed(&self, address: IpAddr) {
        self.failures.note_failure(address, Instant::now());
    }
}

/// The same on a socket of this machine.
pub(crate) struct BesideService {
    pub(crate) hub: Hub,
    /// Who may open the socket.
    pub(crate) role: &'static str,
    /// Nothing: this server has no fleet.
    pub(crate) registry: Option<Arc<dyn Registry>>,
    /// Whom this socket gave a certificate since the server began. One agent or gateway is beside a
    /// server; a gateway that strangers' bytes took over must not enrol any number of others.
    pub(crate) first: Mutex<Option<Member>>,
}

impl BesideService {
    /// The member is the one that this socket is for, until it is removed from the fleet. Says who
    /// was before.
    fn be_first(&self, member: Member) -> Result<Option<Member>, Status> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        match *first {
            Some(known) if known != member && !self.hub.is_expelled(known) => {
                Err(Status::permission_denied(format!(
                    "{known} joined by this socket, and one {} does: remove it from the fleet first",
                    self.role
                )))
            }
            Some(_) | None => Ok(first.replace(member)),
        }
    }
}

#[tonic::async_trait]
impl wire::join_server::Join for BesideService {
    async fn enrol(
        &self,
        request: Request<wire::EnrolRequest>,
    ) -> Result<Response<wire::EnrolReply>, Status> {
        let Some(registry) = &self.registry else {
            return Err(Status::failed_precondition("this server has no fleet"));
        };
        let asked = request.into_inner();
        version::check("program", &asked.version, asked.protocol)?;
        let newcomer = without_token(asked, self.role)?;
        let member = newcomer.member;
        let before = self.be_first(member).inspect_err(|refusal| {
            warn!(%member, refusal = refusal.message(), "another wants to be the one on this machine");
        })?;
        let admission = registry.admit(newcomer).await.inspect_err(|refusal| {
            warn!(%member, %refusal, "who is on this machine was refused");
            *self.first.lock().unwrap_or_else(PoisonError::into_inner) = before;
        })?;
        info!(%member, "who is on this machine has a certificate");
        Ok(Response::new(reply(&self.hub, admission)))
    }

    async fn renew(
        &self,
        _: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::EnrolReply>, Status> {
        Err(Status::failed_precondition("on this machine, who needs another certificate enrols"))
    }
}

fn reply(hub: &Hub, admission: Admission) -> wire::EnrolReply {
    wire::EnrolReply {
        certificate: admission.certificate,
        authorities: admission.authorities,
        servers: hub.servers().borrow().to_vec(),
        not_after_ms: admission.not_after.as_millis(),
        name: admission.name.map_or_else(String::new, |name| name.to_string()),
    }
}

fn with_token(asked: wire::EnrolRequest) -> Result<Newcomer, Status> {
    let token = asked.token.clone();
    read(asked, || {
        let token = Token::parse(&token)
            .map_err(|error| Status::unauthenticated(format!("the join token: {error}")))?;
        Ok(Voucher::Token(token.hash()))
    })
}

fn without_token(asked: wire::EnrolRequest, role: &str) -> Result<Newcomer, Status> {
    if !asked.token.is_empty() {
        return Err(Status::invalid_argument("on this machine nobody needs a token"));
    }
    if asked.role != role {
        let words = format!("a {role} joins by this socket, and nobody else");
        return Err(Status::permission_denied(words));
    }
    read(asked, || Ok(Voucher::Machine))
}

fn read(
    asked: wire::EnrolRequest,
    voucher: impl FnOnce() -> Result<Voucher, Status>,
) -> Result<Newcomer, Status> {
    let lengths = [
        ("token", asked.token.len(), TOKEN_LEN_MAX),
        ("role", asked.role.len(), ID_LEN_MAX),
        ("id", asked.id.len(), ID_LEN_MAX),
        ("name", asked.name.len(), NAME_LEN_MAX),
    ];
    for (field, length, most) in lengths {
        if length > most {
            let words = format!("the {field} is {length} bytes long; at most {most} make sense");
            return Err(Status::invalid_argument(words));
        }
    }
    let member = match parse_member(&asked.id) {
        Some(member @ (Member::Node(_) | Member::Gateway(_))) if member.role() == asked.role => {
            member
        }
        _ => {
            return Err(Status::invalid_argument(
                "a node or a gateway joins, with an id of its own",
            ));
        }
    };
    let name: Option<NodeName> =
        match asked.name.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|error| {
                Status::invalid_argument(format!("the name of the node: {error}"))
            })?),
        };
    let proof = wire::join_proof(&asked.token, &asked.id);
    let key = proven_key(&asked.public_key, &asked.proof, &proof)?;
    Ok(Newcomer { voucher: voucher()?, member, name, version: asked.version, key })
}

/// The key, if its holder signed these words.
fn proven_key(point: &[u8], proof: &[u8], words: &[u8]) -> Result<PublicKey, Status> {
    let key = PublicKey::from_bytes(point)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    if proof.len() > PROOF_LEN_MAX || !key.verify(words, proof) {
        return Err(Status::invalid_argument("the proof is not one by the holder of that key"));
    }
    Ok(key)
}
