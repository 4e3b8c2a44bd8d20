//! A member on a server's own machine: it is believed without a token, over their socket.
//!
//! It needs no certificate to speak to that server, only to speak to others of the fleet. So it
//! begins without one, and asks now and then whether there is a fleet to belong to.

use std::sync::Arc;
use std::time::Duration;

use insula_kit::backoff::Backoff;
use insula_kit::clock::Clock;
use insula_kit::random::Random;
use insula_kit::shutdown::Shutdown;
use insula_kit::tls::Credentials;
use insula_model::fleet::Member;
use tokio::sync::watch;

use crate::error::chain;
use crate::files::Files;
use crate::join::{JoinError, Joining};
use crate::renew::Renewal;
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
        let mut asked = 0u32;
        loop {
            let before = told.borrow().clone();
            match self.settle(before).await {
                Ok(credentials) => {
                    asked = 0;
                    told.send_replace(Some(Arc::clone(&credentials)));
                    let renewal = Renewal {
                        credentials,
                        file: self.files.credentials.clone(),
                        uplink: self.uplink.clone(),
                        clock: Arc::clone(&self.clock),
                        random: Arc::clone(&self.random),
                    };
                    renewal.until_ended(&shutdown).await;
                }
                // Without a fleet the usual answer.
                Err(error) => tracing::debug!(error = %chain(&error), "no certificate yet"),
            }
            asked = asked.saturating_add(1);
            let pause = ASK_AGAIN.delay(asked, self.random.fraction());
            tokio::select! {
                _ = shutdown.requested() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// `before`: what others use already, and which must be the same ones afterwards.
    async fn settle(
        &self,
        before: Option<Arc<Credentials>>,
    ) -> Result<Arc<Credentials>, JoinError> {
        let joining = Joining {
            files: &self.files,
            member: self.member,
            name: self.name.as_deref(),
            servers: &[],
            token: None,
            clock: Arc::clone(&self.clock),
        };
        // One that cannot be read is made anew: nobody had to be asked for it.
        let held = joining.held().unwrap_or_default();
        let usable = held.filter(|held| joining.counts(held));
        let credentials = match usable {
            Some(held) => held,
            None => joining.enrol_beside(&self.uplink).await?.credentials,
        };
        match before {
            Some(before) => {
                before.replace(&insula_kit::pki::Identity::load(&self.files.credentials)?)?;
                Ok(before)
            }
            None => Ok(credentials),
        }
    }
}
