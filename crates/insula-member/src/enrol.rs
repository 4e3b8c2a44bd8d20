//! The one call that makes somebody a member.

use std::sync::Arc;
use std::time::Duration;

use insula_kit::backoff::Backoff;
use insula_kit::files;
use insula_kit::pki::{Fingerprint, Identity, Invitation, KeyPair, PkiError};
use insula_kit::tls::{Connector, Credentials};
use insula_model::fleet::Member;
use insula_wire::node::join_client::JoinClient;
use insula_wire::node::{self as wire, PROTOCOL};
use tonic::{Code, Status};

use crate::dial::{Dial, Fleet};
use crate::error::chain;
use crate::join::{JOIN_TIME_MAX, JoinError, Joining};
use crate::refusal::Refusal;
use crate::servers::Servers;
use crate::uplink::{self, Uplink};

/// Between tries while no server answers.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
/// One call, with the connection that it needs.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);

pub struct Enrolled {
    pub credentials: Arc<Credentials>,
    pub name: Option<String>,
}

impl Joining<'_> {
    pub(crate) async fn enrol(
        &self,
        servers: &Servers,
        token: &Invitation,
    ) -> Result<Enrolled, JoinError> {
        let key = self.own_key()?;
        let request = self.request(token.secret.expose(), &key);
        let connector = Connector::pinned(token.authority, Arc::clone(&self.clock));
        let dial = Dial::Fleet(Fleet::with(servers.clone(), connector));
        let mut failures = 0;
        let mut last = String::new();
        let asking = async {
            loop {
                // Each try over a connection of its own: whoever does not answer is not first again.
                let mut client = JoinClient::new(uplink::channel(&dial));
                let answer = tokio::time::timeout(CALL_TIME_MAX, client.enrol(request.clone()));
                let failed = match answer.await {
                    Ok(Ok(reply)) => return Ok(reply.into_inner()),
                    Ok(Err(status)) => match refusal(&status, self.member) {
                        Some(refused) => return Err(refused),
                        None => chain(&status),
                    },
                    Err(_) => "no answer".to_owned(),
                };
                if failed != last {
                    tracing::warn!(error = failed, "no server lets it join yet");
                    last = failed;
                }
                servers.avoid_first();
                failures += 1;
                tokio::time::sleep(AGAIN.delay(failures, 1.0)).await;
            }
        };
        let answered = tokio::time::timeout(JOIN_TIME_MAX, asking).await;
        let reply = answered.map_err(|_| JoinError::NoAnswer { last: last.clone() })??;
        if !reply.authorities.iter().any(|der| Fingerprint::of(der) == token.authority) {
            return Err(JoinError::Answer("the token's authority is not among those it names"));
        }
        self.take(servers, key, reply)
    }

    /// Asks once, over a socket on this machine: whoever may open it is believed without a token.
    pub(crate) async fn enrol_beside(&self, uplink: &Uplink) -> Result<Enrolled, JoinError> {
        let key = self.own_key()?;
        let mut client = JoinClient::new(uplink.channel());
        let asking = client.enrol(self.request("", &key));
        let answered = tokio::time::timeout(CALL_TIME_MAX, asking).await;
        let no_answer = |last: String| JoinError::NoAnswer { last };
        let reply = match answered.map_err(|_| no_answer("no answer".into()))? {
            Ok(reply) => reply.into_inner(),
            Err(status) => {
                let refused = refusal(&status, self.member);
                return Err(refused.unwrap_or_else(|| no_answer(chain(&status))));
            }
        };
        self.take(&Servers::open(self.files.servers.clone(), &[]), key, reply)
    }

    /// Chosen once and kept before anybody hears of it: if an answer is lost, the same key asks
    /// again, and is not taken for somebody else with a used token.
    fn own_key(&self) -> Result<KeyPair, JoinError> {
        let path = self.files.joining.clone();
        match Identity::load(&path) {
            Ok(identity) => return Ok(identity.key),
            Err(PkiError::File(error)) if error.is_missing() => {}
            Err(error) => tracing::warn!(error = %chain(&error), "choose another key"),
        }
        let key = KeyPair::generate();
        let identity = Identity { key, certificate: Vec::new(), authorities: Vec::new() };
        identity.save(&path)?;
        Ok(identity.key)
    }

    fn request(&self, secret: &str, key: &KeyPair) -> wire::EnrolRequest {
        let id = self.member.to_string();
        let proof = key.sign(&wire::join_proof(secret, &id));
        wire::EnrolRequest {
            token: secret.to_owned(),
            role: self.member.role().into(),
            id,
            name: self.name.unwrap_or_default().into(),
            public_key: key.public_key().as_bytes().to_vec(),
            proof,
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL,
        }
    }

    fn take(
        &self,
        servers: &Servers,
        key: KeyPair,
        reply: wire::EnrolReply,
    ) -> Result<Enrolled, JoinError> {
        let certificate = reply.certificate;
        let identity = Identity { key, certificate, authorities: reply.authorities };
        let credentials = Credentials::new(&identity, Arc::clone(&self.clock))?;
        if credentials.subject() != self.subject()? {
            return Err(JoinError::Answer("the certificate is somebody else's"));
        }
        let name = Some(reply.name).filter(|name| !name.is_empty());
        identity.save(&self.files.credentials)?;
        files::remove_durably(&self.files.joining)?;
        servers.learn(&reply.servers);
        tracing::info!(member = %self.member, "joined the fleet");
        Ok(Enrolled { credentials, name })
    }
}

/// What a server will say the next time as well.
fn refusal(status: &Status, member: Member) -> Option<JoinError> {
    match status.code() {
        _ if Refusal::is_removal(status) => Some(JoinError::Removed { member }),
        Code::AlreadyExists => Some(JoinError::Present { member }),
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::NotFound
        | Code::Unimplemented => {
            Some(JoinError::Refused { member, reason: status.message().to_owned() })
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => None,
    }
}

#[cfg(test)]
mod tests {
    use insula_model::{GatewayId, NodeId};
    use insula_wire::node::{REFUSAL_METADATA, REFUSED_REMOVED};
    use tonic::metadata::{MetadataMap, MetadataValue};

    use super::*;

    const NODE: Member = Member::Node(NodeId::from_u128(1));

    #[test]
    fn who_finds_another_in_its_name_is_told_to_look_and_does_not_join_as_somebody_new() {
        let present = Status::already_exists("it is in this fleet");
        let error = refusal(&present, NODE).unwrap();
        assert!(matches!(error, JoinError::Present { member: NODE }), "{error:?}");
        let words = error.to_string();
        assert!(words.contains(&format!("`insula nodes remove {NODE}`")), "{words}");
        let gateway = Member::Gateway(GatewayId::from_u128(2));
        let words = refusal(&present, gateway).unwrap().to_string();
        assert!(words.contains(&format!("`insula gateways remove {gateway}`")), "{words}");
    }

    #[test]
    fn a_removal_is_told_from_a_token_that_is_of_no_use_and_from_a_server_that_is_away() {
        let mut why = MetadataMap::new();
        why.insert(REFUSAL_METADATA, MetadataValue::from_static(REFUSED_REMOVED));
        let removed = Status::with_metadata(Code::PermissionDenied, "removed", why);
        assert!(matches!(refusal(&removed, NODE), Some(JoinError::Removed { .. })));
        let used = Status::permission_denied("the token was used");
        assert!(matches!(refusal(&used, NODE), Some(JoinError::Refused { .. })));
        // The way out makes a token of the kind that it needs.
        let words = |member| refusal(&used, member).unwrap().to_string();
        assert!(words(NODE).contains("`insula nodes token` prints"), "{}", words(NODE));
        let gateway = Member::Gateway(GatewayId::from_u128(2));
        assert!(words(gateway).contains("`insula nodes token --for gateway` prints"));
        for away in [Status::unavailable("away"), Status::resource_exhausted("later")] {
            assert!(refusal(&away, NODE).is_none());
        }
    }
}
