//! Becomes a member of a fleet, or is one already.
//!
//! A token speaks for us once, over a connection to somebody whom the token's own fingerprint
//! proves; from then on our certificate does. One that has ended stops nothing: what runs goes on,
//! and `renew` tells the operator the way out.
//!
//! A certificate may have lost its meaning within its dates: we were removed, or a copy of our folder
//! has had a newer one. With a token at hand a server is asked, for a moment; without a server what
//! is on disk counts, as a node begins without anybody.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use insula_kit::clock::Clock;
use insula_kit::files::FileError;
use insula_kit::pki::{Identity, Invitation, PkiError, Subject};
use insula_kit::tls::Credentials;
use insula_model::fleet::Member;
use tonic::Status;

use crate::dial::{Dial, Fleet};
use crate::enrol::Enrolled;
use crate::error::chain;
use crate::files::Files;
use crate::refusal::Refusal;
use crate::renew::{self, RenewError};
use crate::servers::{Servers, is_address};
use crate::uplink::Uplink;

/// For a server to say whether our certificate still counts; those that are gone refuse at once.
const ASK_TIME_MAX: Duration = Duration::from_secs(3);
/// A person waits for this; a service manager starts us again.
pub(crate) const JOIN_TIME_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "it belongs to no fleet yet: run `{}` where a server is, and start it with `--token` and \
         what that prints",
        token_command(*member)
    )]
    NoToken { member: Member },
    #[error("no server is named: start with `--server HOST:PORT`")]
    NoServer,
    #[error("`{0}` is not the address of a server: expected HOST:PORT")]
    Address(String),
    #[error(
        "the fleet does not take it: {reason}; a token counts once, for a while, and for what it \
         was made for: `{}` prints another",
        token_command(*member)
    )]
    Refused { member: Member, reason: String },
    /// Whoever has a token for it joins under another id.
    #[error(
        "{member} was removed from the fleet, which is for ever: start with an empty data folder \
         and what `{}` prints",
        token_command(*member)
    )]
    Removed { member: Member },
    /// Two hold one identity: a copy of the folder, a snapshot that was put back, or a thief. Which
    /// of them is who it says it is, no machine can know. Joining as somebody new would let
    /// the other one go on in its name, so that is for whoever looked to say, by the removal.
    #[error(
        "{member} is in this fleet with a newer certificate than this folder has, so somebody else \
         may be speaking in its name: find out who, then `insula {}s remove {member}`, and start \
         this one again with a token; it joins as somebody new then",
        member.role()
    )]
    Present { member: Member },
    #[error("no server let it join within {} s: {last}", JOIN_TIME_MAX.as_secs())]
    NoAnswer { last: String },
    #[error("what the server answered cannot be used: {0}")]
    Answer(&'static str),
    #[error(
        "{} belongs to {got}, and this folder to {want}: a member's folder must not be copied",
        path.display()
    )]
    OfAnother { path: PathBuf, got: Subject, want: Subject },
    #[error("use its certificate")]
    Pki(#[from] PkiError),
    #[error("keep what makes it a member")]
    File(#[from] FileError),
}

/// What makes a token that lets such a member in.
fn token_command(member: Member) -> &'static str {
    match member {
        Member::Gateway(_) => "insula nodes token --for gateway",
        // Nobody gives a token to a server: it has the fleet's own key.
        Member::Node(_) | Member::Server(_) => "insula nodes token",
    }
}

/// What makes somebody a member.
#[derive(Debug)]
pub struct Membership {
    pub credentials: Arc<Credentials>,
    pub servers: Servers,
    /// What the fleet calls a node that joined just now.
    pub name: Option<String>,
}

/// What is asked for.
#[derive(Debug)]
pub struct Joining<'a> {
    pub files: &'a Files,
    /// Chosen once and kept.
    pub member: Member,
    /// What a node would like to be called.
    pub name: Option<&'a str>,
    /// Each `host:port`; those that the fleet named before are known besides.
    pub servers: &'a [String],
    pub token: Option<&'a Invitation>,
    pub clock: Arc<dyn Clock>,
}

impl Joining<'_> {
    /// A member from what is on disk, or by the token.
    pub async fn settle(&self) -> Result<Membership, JoinError> {
        if let Some(wrong) = self.servers.iter().find(|it| !is_address(it)) {
            return Err(JoinError::Address(wrong.clone()));
        }
        let servers = Servers::open(self.files.servers.clone(), self.servers);
        if servers.all().is_empty() {
            return Err(JoinError::NoServer);
        }
        match (self.held()?, self.token) {
            (Some(credentials), None) if self.counts(&credentials) => {
                Ok(Membership { credentials, servers, name: None })
            }
            (Some(credentials), Some(token)) if self.counts(&credentials) => {
                if let Some(refused) = self.refused(&servers, &credentials).await {
                    let reason = refused.message();
                    tracing::warn!(reason, "its certificate counts no more: joining by the token");
                    match self.enrol(&servers, token).await {
                        Ok(Enrolled { credentials, name }) => {
                            return Ok(Membership { credentials, servers, name });
                        }
                        // A token of long ago, say. What runs goes on.
                        Err(
                            error @ (JoinError::Refused { .. }
                            | JoinError::Present { .. }
                            | JoinError::NoAnswer { .. }),
                        ) => {
                            tracing::error!(error = %chain(&error), "the token is of no use");
                            return Ok(Membership { credentials, servers, name: None });
                        }
                        Err(error) => return Err(error),
                    }
                }
                tracing::info!("a member already: the token was not used");
                Ok(Membership { credentials, servers, name: None })
            }
            (_, Some(token)) => {
                let enrolled = self.enrol(&servers, token).await?;
                Ok(Membership { name: enrolled.name, servers, credentials: enrolled.credentials })
            }
            // What runs here goes on without anybody; see `renew` for what is said.
            (Some(credentials), None) => Ok(Membership { credentials, servers, name: None }),
            (None, None) => Err(JoinError::NoToken { member: self.member }),
        }
    }

    /// What a server says for good of this certificate, if one says so now. It is asked for the
    /// next one, which is kept if it comes.
    async fn refused(&self, servers: &Servers, credentials: &Arc<Credentials>) -> Option<Status> {
        let uplink = Uplink::new(Dial::Fleet(Fleet::new(servers.clone(), credentials)));
        let file = &self.files.credentials;
        let asking = renew::once(credentials, file, &uplink, Arc::clone(&self.clock));
        match tokio::time::timeout(ASK_TIME_MAX, asking).await {
            Ok(Err(RenewError::Call(status))) => {
                Some(*status).filter(|it| Refusal::of(it) == Some(Refusal::Identity))
            }
            Ok(Ok(()) | Err(_)) | Err(_) => None,
        }
    }

    pub(crate) fn counts(&self, credentials: &Credentials) -> bool {
        credentials.not_after_ms() > self.clock.now_ms()
    }

    pub(crate) fn held(&self) -> Result<Option<Arc<Credentials>>, JoinError> {
        let path = self.files.credentials.clone();
        let identity = match Identity::load(&path) {
            Ok(identity) => identity,
            Err(PkiError::File(error)) if error.is_missing() => return Ok(None),
            // With a token it can be made anew; without, somebody has to look.
            Err(error) if self.token.is_some() => {
                tracing::warn!(error = %chain(&error), "what made it a member is lost");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let credentials = Credentials::new(&identity, Arc::clone(&self.clock))?;
        let (got, want) = (credentials.subject(), self.subject()?);
        if got != want {
            return Err(JoinError::OfAnother { path, got, want });
        }
        Ok(Some(credentials))
    }

    pub(crate) fn subject(&self) -> Result<Subject, PkiError> {
        Subject::new(self.member.role(), &self.member.to_string())
    }
}
