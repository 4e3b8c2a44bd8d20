//! The identities of a fleet: its authority, and whom it gives certificates.
//!
//! The authority's key is made once, by whichever server is first, and kept in the store under the
//! master key; every server opens it and signs. A token, a renewal and a server's own start are the
//! only ways to a certificate. What a member may do with one is decided elsewhere.

use std::sync::Arc;

use insula_kit::clock::Clock;
use insula_kit::pki::{
    Authority, Fingerprint, Identity, KeyPair, MEMBER_LIFE_MS, PkiError, PublicKey, Subject,
    Validity,
};
use insula_kit::random::Random;
use insula_kit::seal::{Keyring, SealError, Sealed, SecretBytes};
use insula_kit::token::TokenHash;
use insula_model::fleet::{Gateway, Join, JoinGrant, Member, Serial};
use insula_model::{Millis, NodeName, ServerId, Timestamp};
use insula_store::enrolments::{self, EnrolRefusal};
use insula_store::joins::{self, JoinRefusal};
use insula_store::{SecretHash, Store, StoreError, Tx, WriteError, authority, gateways, nodes};

use crate::VaultError;

/// A caller whose answer was lost asks again with the same token at once, not tomorrow.
const ASK_AGAIN_TIME: Millis = Millis::secs(120);

#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error(
        "open the key of the fleet's authority: this master key is not the one of this fleet; \
         servers that share a database have the same `master.key`"
    )]
    Sealed(#[source] SealError),
    #[error("use the fleet's authority")]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Join(#[from] JoinRefusal),
    #[error(transparent)]
    Enrol(#[from] EnrolRefusal),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<StoreError> for FleetError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}

/// Gives certificates out and says which ones count. Servers that share a store share what it knows.
#[derive(Debug, Clone)]
pub struct Registrar {
    store: Store,
    authority: Arc<Authority>,
    clock: Arc<dyn Clock>,
}

/// Why a newcomer is believed.
#[derive(Debug, Clone)]
pub enum Voucher {
    Token(TokenHash),
    /// It is on a server's own machine, and the server knows it for one of its own.
    Machine,
}

#[derive(Debug, Clone)]
pub struct Newcomer {
    pub voucher: Voucher,
    pub member: Member,
    /// Of a node: what it would like to be called. The token may say another, and so may a node
    /// that has the name already.
    pub name: Option<NodeName>,
    pub version: String,
    pub key: PublicKey,
}

/// What somebody gets who is let in, or who stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// DER.
    pub certificate: Vec<u8>,
    /// DER; who else is to be believed.
    pub authorities: Vec<Vec<u8>>,
    pub serial: Serial,
    pub not_after: Timestamp,
    /// Of a node: the one that counts.
    pub name: Option<NodeName>,
}

impl Registrar {
    /// Opens the fleet's authority, making it if there is none. Of two servers that do so at once,
    /// both get the same.
    pub async fn open(
        store: Store,
        master: Arc<Keyring>,
        random: Arc<dyn Random>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, FleetError> {
        let now = Timestamp::from_millis(clock.now_ms());
        let authority = store.write(move |tx| open_or_make(tx, &master, &*random, now)).await?;
        Ok(Self { store, authority: Arc::new(authority), clock })
    }

    /// What join tokens carry, so that a newcomer knows whom to believe.
    pub fn fingerprint(&self) -> Fingerprint {
        self.authority.fingerprint()
    }

    /// A server's own identity: at its start, and whenever its last one is due.
    pub async fn identity_of_server(&self, server: ServerId) -> Result<Identity, FleetError> {
        let (registrar, now) = (self.clone(), self.now());
        let key = KeyPair::generate();
        let public = key.public_key();
        let issued = self.store.write(move |tx| {
            let member = Member::Server(server);
            let serial = enrolments::issue(tx, member, now)?;
            registrar.sign::<FleetError>(member, serial, &public, now, None)
        });
        let Admission { certificate, authorities, .. } = issued.await?;
        Ok(Identity { key, certificate, authorities })
    }

    /// Lets somebody in: the token is used up exactly if this answers with a certificate.
    pub async fn join(&self, newcomer: Newcomer) -> Result<Admission, FleetError> {
        let (registrar, now) = (self.clone(), self.now());
        self.store.write(move |tx| registrar.admit(tx, &newcomer, now)).await
    }

    /// The next certificate of somebody who is here, for a new key.
    pub async fn renew(&self, member: Member, key: PublicKey) -> Result<Admission, FleetError> {
        let (registrar, now) = (self.clone(), self.now());
        let renewed = self.store.write(move |tx| {
            let serial = enrolments::renew(tx, member, now)?;
            let name = name_of(tx, member)?;
            registrar.sign(member, serial, &key, now, name)
        });
        renewed.await
    }

    /// Whether a certificate counts; the first use of one ends those before it.
    pub async fn check(&self, member: Member, shown: Serial) -> Result<(), EnrolRefusal> {
        let first_use = self.store.read(move |tx| enrolments::check(tx, member, shown)).await?;
        if first_use {
            self.store.write(move |tx| enrolments::note_used(tx, member, shown)).await?;
        }
        Ok(())
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.now_ms())
    }

    fn admit(
        &self,
        tx: &mut Tx,
        newcomer: &Newcomer,
        now: Timestamp,
    ) -> Result<Admission, FleetError> {
        let member = newcomer.member;
        let serial = match &newcomer.voucher {
            Voucher::Token(token) => self.redeem(tx, token, newcomer, now)?,
            Voucher::Machine => {
                let serial = enrolments::enrol(tx, member, now, live_since(now))?;
                welcome_beside(tx, newcomer, now)?;
                serial
            }
        };
        let name = name_of(tx, member)?;
        self.sign(member, serial, &newcomer.key, now, name)
    }

    fn redeem(
        &self,
        tx: &mut Tx,
        token: &TokenHash,
        newcomer: &Newcomer,
        now: Timestamp,
    ) -> Result<Serial, FleetError> {
        let (member, token) = (newcomer.member, SecretHash(*token.as_bytes()));
        if asks_again(tx, &token, member, now)? {
            return Ok(enrolments::issue(tx, member, now)?);
        }
        if is_beside(tx, member)? {
            return Err(EnrolRefusal::Present { member }.into());
        }
        let join = joins::redeem(tx, &token, member, now)?;
        let serial = enrolments::enrol(tx, member, now, live_since(now))?;
        welcome(tx, newcomer, join, now)?;
        Ok(serial)
    }

    fn sign<E: From<PkiError>>(
        &self,
        member: Member,
        serial: Serial,
        key: &PublicKey,
        now: Timestamp,
        name: Option<NodeName>,
    ) -> Result<Admission, E> {
        let subject = Subject::new(member.role(), &member.to_string())?;
        let validity = Validity::of_member(now.as_millis());
        Ok(Admission {
            certificate: self.authority.issue(key, &subject, serial.0, validity)?,
            authorities: vec![self.authority.certificate().to_vec()],
            serial,
            not_after: Timestamp::from_millis(validity.not_after_ms),
            name,
        })
    }
}

fn open_or_make(
    tx: &mut Tx,
    master: &Keyring,
    random: &dyn Random,
    now: Timestamp,
) -> Result<Authority, FleetError> {
    let kept = match authority::get(tx)? {
        Some(kept) => kept,
        None => {
            let ours = Authority::generate(now.as_millis())?;
            let place = key_place(ours.fingerprint());
            let sealed = master.seal(&place, ours.to_pkcs8().expose(), random);
            let ours = authority::Authority {
                certificate: ours.certificate().to_vec(),
                sealed_key: sealed.into_bytes(),
                created: now,
            };
            authority::put_once(tx, &ours)?
        }
    };
    let key = open_key(master, &kept).map_err(FleetError::Sealed)?;
    Ok(Authority::from_parts(kept.certificate, &key)?)
}

fn open_key(master: &Keyring, kept: &authority::Authority) -> Result<SecretBytes, SealError> {
    let sealed = Sealed::from_bytes(kept.sealed_key.clone())?;
    master.open(&key_place(Fingerprint::of(&kept.certificate)), &sealed)
}

/// Seals the authority's key with the newest master key. Certificates stay as they are.
pub(crate) fn reseal(tx: &mut Tx, master: &Keyring, random: &dyn Random) -> Result<(), VaultError> {
    let Some(kept) = authority::get(tx)? else { return Ok(()) };
    let key = open_key(master, &kept).map_err(VaultError::Authority)?;
    let place = key_place(Fingerprint::of(&kept.certificate));
    let sealed = master.seal(&place, key.expose(), random);
    authority::reseal(tx, &kept.certificate, sealed.as_bytes())?;
    Ok(())
}

/// Certificates of before this moment have ended.
fn live_since(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(i64::max(0, now.as_millis() - MEMBER_LIFE_MS))
}

/// What the sealed key is bound to: the certificate that it belongs to.
fn key_place(authority: Fingerprint) -> Vec<u8> {
    format!("insula authority 1:{authority}").into_bytes()
}

/// Whether the same member asks again with the token it has just used, because the answer was lost:
/// then it has never shown the certificate that it was given.
fn asks_again(
    tx: &Tx,
    token: &SecretHash,
    member: Member,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let Some(used) = joins::find(tx, token)?.and_then(|join| join.used) else {
        return Ok(false);
    };
    let known = enrolments::get(tx, member)?;
    let never_shown = known.is_some_and(|e| e.used == Serial(0) && e.revoked.is_none());
    Ok(used.by == member && never_shown && now.since(used.at) <= ASK_AGAIN_TIME)
}

/// Whether it is a node on a server's own machine: one that has greeted and never had to show a
/// certificate for it. Nothing that it has ends in our eyes, so a token must not make anybody it.
fn is_beside(tx: &Tx, member: Member) -> Result<bool, StoreError> {
    let Member::Node(id) = member else { return Ok(false) };
    let shown = enrolments::get(tx, member)?.is_some_and(|known| known.used > Serial(0));
    Ok(nodes::has_greeted(tx, id)? && !shown)
}

/// The row of a new member. A node's says nothing of its host yet: that comes with its first hello.
fn welcome(tx: &mut Tx, newcomer: &Newcomer, join: Join, now: Timestamp) -> Result<(), WriteError> {
    let version = newcomer.version.clone();
    match (newcomer.member, join.grants) {
        (Member::Node(id), JoinGrant::Node { name, site }) => {
            let own = || format!("node-{}", id.short()).parse().ok();
            let Some(name) = name.or_else(|| newcomer.name.clone()).or_else(own) else {
                return Ok(());
            };
            // One that comes back with a new token: its row stays, its site is the token's.
            let newcomer = nodes::Newcomer { id, name, site, agent_version: version };
            nodes::welcome(tx, newcomer, now)
        }
        (Member::Gateway(id), JoinGrant::Gateway) => {
            gateways::hello(tx, &Gateway { id, version, joined: now, hello: now })
        }
        // `redeem` gave the token to nobody else.
        (Member::Server(_) | Member::Node(_) | Member::Gateway(_), _) => Ok(()),
    }
}

/// The row of somebody on a server's own machine. A gateway's is what makes nodes let it in; a node's
/// comes with its first hello, which says more.
fn welcome_beside(tx: &mut Tx, newcomer: &Newcomer, now: Timestamp) -> Result<(), WriteError> {
    match newcomer.member {
        Member::Gateway(id) => {
            let version = newcomer.version.clone();
            gateways::hello(tx, &Gateway { id, version, joined: now, hello: now })
        }
        Member::Node(_) | Member::Server(_) => Ok(()),
    }
}

fn name_of(tx: &Tx, member: Member) -> Result<Option<NodeName>, StoreError> {
    match member {
        Member::Node(id) => Ok(nodes::get(tx, id)?.map(|node| node.name)),
        Member::Server(_) | Member::Gateway(_) => Ok(None),
    }
}
