//! A member on a server's own machine: it is believed without a token, over their socket.
//!
//! It needs no certificate to speak to that server, only to speak to others of the fleet. So it
//! begins without one, and asks now and then whether there is a fleet to belong to. When its
//! certificate is due, it asks in the same way again: nobody sees the old one over a socket.

use std::sync::Arc;
use std::time::Duration;

use insula_kit::backoff::Backoff;
use insula_kit::clock::Clock;
use insula_kit::pki::Identity;
use insula_kit::random::Random;
use insula_kit::shutdown::Shutdown;
use insula_kit::tls::Credentials;
use insula_model::fleet::Member;
use tokio::sync::watch;

use crate::error::chain;
use crate::files::Files;
use crate::join::{JoinError, Joining};
use crate::renew::{Due, LOOK_EVERY, due, jitter_ms};
use crate::uplink::Uplink;

/// Quick while everything starts; then a call over a socket each minute.
const ASK_AGAIN: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(60));

#[derive(Debug)]
pub struct Beside {
    pub files: Files,
    pub member: Member,
    /// What a node is called.
    pub name: Option<String>,
    /// To the server's socket.
    pub uplink: Uplink,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
}

impl Beside {
    /// Tells once there are credentials, and keeps them good until the end is asked for.
    pub async fn keep(self, told: watch::Sender<Option<Arc<Credentials>>>, shutdown: Shutdown) {
        let jitter_ms = jitter_ms(&*self.random);
        let mut failures = 0u32;
        loop {
            let held = told.borrow().clone().or_else(|| self.held());
            let due = held.as_ref().map_or(Due::TooLate, |held| {
                due(self.clock.now_ms(), held.not_after_ms(), jitter_ms)
            });
            let settled = match (held, due) {
                (Some(held), Due::NotYet) => Ok(held),
                (held, Due::NotYet | Due::Now | Due::TooLate) => self.enrol(held).await,
            };
            let pause = match settled {
                Ok(credentials) => {
                    failures = 0;
                    told.send_if_modified(|told| {
                        let news = told.is_none();
                        told.get_or_insert(credentials);
                        news
                    });
                    LOOK_EVERY
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    // Without a fleet the usual answer.
                    tracing::debug!(error = %chain(&error), failures, "no certificate");
                    ASK_AGAIN.delay(failures, self.random.fraction())
                }
            };
            tokio::select! {
                _ = shutdown.requested() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Of before. What cannot be read is made anew: nobody has to be asked for it.
    fn held(&self) -> Option<Arc<Credentials>> {
        let held = self.joining().held().unwrap_or_default();
        held.filter(|held| self.joining().counts(held))
    }

    /// The next certificate, in the same credentials if others use them already.
    async fn enrol(&self, held: Option<Arc<Credentials>>) -> Result<Arc<Credentials>, JoinError> {
        let enrolled = self.joining().enrol_beside(&self.uplink).await?.credentials;
        let Some(held) = held else { return Ok(enrolled) };
        held.replace(&Identity::load(&self.files.credentials)?)?;
        Ok(held)
    }

    fn joining(&self) -> Joining<'_> {
        Joining {
            files: &self.files,
            member: self.member,
            name: self.name.as_deref(),
            servers: &[],
            token: None,
            clock: Arc::clone(&self.clock),
        }
    }
}
