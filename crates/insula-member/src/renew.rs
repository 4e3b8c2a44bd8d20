//! Renews the certificate long before it ends, with a new key each time, and says so when it has
//! ended all the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use insula_kit::backoff::Backoff;
use insula_kit::clock::Clock;
use insula_kit::pki::{Identity, KeyPair, MEMBER_LIFE_MS, PkiError, RENEW_AFTER_MS};
use insula_kit::random::Random;
use insula_kit::shutdown::Shutdown;
use insula_kit::tls::Credentials;
use insula_wire::node as wire;
use insula_wire::node::join_client::JoinClient;
use tonic::Status;

use crate::error::chain;
use crate::uplink::Uplink;

/// Nodes that joined together do not renew together: each waits up to this much longer.
const JITTER_MS: i64 = 2 * 3_600_000;
/// Clocks are set and machines sleep, so the time is looked at again.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Two days remain for trying.
const AGAIN: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(600));
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// How often the way out is said to who does not take it.
const TELL_EVERY: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub struct Renewal {
    pub credentials: Arc<Credentials>,
    /// Where they are kept.
    pub file: PathBuf,
    pub uplink: Uplink,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
}

#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error("ask for the next certificate")]
    Call(#[source] Box<Status>),
    #[error("the server did not answer")]
    NoAnswer,
    #[error("the certificate is somebody else's")]
    SomebodyElses,
    #[error("use the next certificate")]
    Pki(#[from] PkiError),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    NotYet,
    Now,
    /// Nobody takes it any more.
    TooLate,
}

pub(crate) fn due(now_ms: i64, not_after_ms: i64, jitter_ms: i64) -> Due {
    if now_ms >= not_after_ms {
        Due::TooLate
    } else if now_ms >= not_after_ms - (MEMBER_LIFE_MS - RENEW_AFTER_MS) + jitter_ms {
        Due::Now
    } else {
        Due::NotYet
    }
}

/// Of one member.
pub(crate) fn jitter_ms(random: &dyn Random) -> i64 {
    (random.fraction() * JITTER_MS as f64) as i64
}

impl Renewal {
    /// Until the end is asked for.
    pub async fn keep(self, shutdown: Shutdown) {
        loop {
            self.until_ended(&shutdown).await;
            if shutdown.begun() {
                return;
            }
            tracing::error!(
                "the certificate has ended, so no server listens; what runs goes on. To join \
                 again, run `insula nodes token` where a server is, and start again with \
                 `--token` and what that prints"
            );
            tokio::select! {
                _ = shutdown.requested() => return,
                () = tokio::time::sleep(TELL_EVERY) => {}
            }
        }
    }

    /// Until the certificate has ended all the same, or the end is asked for.
    async fn until_ended(&self, shutdown: &Shutdown) {
        let jitter_ms = jitter_ms(&*self.random);
        let mut failures = 0;
        loop {
            let pause = match due(self.clock.now_ms(), self.credentials.not_after_ms(), jitter_ms) {
                Due::NotYet => LOOK_EVERY,
                Due::TooLate => return,
                Due::Now => match self.renew().await {
                    Ok(()) => {
                        failures = 0;
                        tracing::info!(
                            serial = self.credentials.serial(),
                            "renewed the certificate"
                        );
                        LOOK_EVERY
                    }
                    Err(error) => {
                        failures += 1;
                        tracing::warn!(error = %chain(&error), failures, "renew the certificate");
                        AGAIN.delay(failures, self.random.fraction())
                    }
                },
            };
            tokio::select! {
                _ = shutdown.requested() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One certificate, kept before it is used: from its first use on, the one before counts no
    /// more.
    pub async fn renew(&self) -> Result<(), RenewError> {
        once(&self.credentials, &self.file, &self.uplink, Arc::clone(&self.clock)).await
    }
}

pub(crate) async fn once(
    credentials: &Credentials,
    file: &Path,
    uplink: &Uplink,
    clock: Arc<dyn Clock>,
) -> Result<(), RenewError> {
    let subject = credentials.subject();
    let key = KeyPair::generate();
    let proof = key.sign(&wire::renew_proof(subject.id()));
    let public_key = key.public_key().as_bytes().to_vec();
    let mut client = JoinClient::new(uplink.channel());
    let asking = client.renew(wire::RenewRequest { public_key, proof });
    let reply = tokio::time::timeout(CALL_TIME_MAX, asking)
        .await
        .map_err(|_| RenewError::NoAnswer)?
        .map_err(|status| RenewError::Call(Box::new(status)))?
        .into_inner();
    let authorities = match reply.authorities {
        none if none.is_empty() => credentials.authorities(),
        said => said,
    };
    let identity = Identity { key, certificate: reply.certificate, authorities };
    let next = Credentials::new(&identity, clock)?;
    if next.subject() != subject {
        return Err(RenewError::SomebodyElses);
    }
    identity.save(file)?;
    credentials.replace(&identity)?;
    uplink.learn(&reply.servers);
    // Whoever calls next shows it; what is under way goes on.
    uplink.redial();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_after_a_third_of_its_life_and_too_late_at_the_end() {
        let hour = 3_600_000;
        let at = |hours: i64, jitter: i64| due(hours * hour, 72 * hour, jitter * hour);
        assert_eq!(at(0, 0), Due::NotYet);
        assert_eq!(at(23, 0), Due::NotYet);
        assert_eq!(at(24, 0), Due::Now);
        assert_eq!(at(24, 2), Due::NotYet);
        assert_eq!(at(26, 2), Due::Now);
        assert_eq!(at(71, 2), Due::Now);
        assert_eq!(at(72, 2), Due::TooLate);
    }
}
