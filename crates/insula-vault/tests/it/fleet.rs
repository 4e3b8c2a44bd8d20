//! Who becomes a member, and which certificates count, against a real store.

use std::sync::Arc;

use insula_kit::clock::TestClock;
use insula_kit::pki::{Invitation, KeyPair};
use insula_kit::random::SystemRandom;
use insula_kit::seal::{Key, Keyring, SecretBytes};
use insula_kit::tls::Credentials;
use insula_kit::token::Token;
use insula_model::fleet::{Join, JoinGrant, Member, Serial};
use insula_model::node::{Architecture, Capacity, Duty, Node, NodeMode, Offer, Site};
use insula_model::spec::Isolation;
use insula_model::*;
use insula_store::enrolments::{self, EnrolRefusal};
use insula_store::joins::{self, JoinRefusal};
use insula_store::{SecretHash, Store, StoreConfig, StoreError, gateways, nodes};
use insula_vault::fleet::{Admission, FleetError, Newcomer, Registrar, Voucher};

const NOW: i64 = 1_790_000_000_000;
const HOUR: i64 = 3_600_000;

struct House {
    store: Store,
    clock: TestClock,
    _folder: tempfile::TempDir,
}

fn key(n: u8) -> Key {
    Key::from_bytes(&SecretBytes::new(vec![n; 32])).unwrap()
}

fn master(n: u8) -> Arc<Keyring> {
    Arc::new(Keyring::new(key(n)))
}

fn server(n: u8) -> ServerId {
    ServerId::from_parts(Timestamp::from_millis(1), [n; 10])
}

fn node(n: u8) -> NodeId {
    NodeId::from_parts(Timestamp::from_millis(1), [n; 10])
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig::new(folder.path().join("db"))).unwrap();
        Self { store, clock: TestClock::new(NOW), _folder: folder }
    }

    async fn open(&self, master: Arc<Keyring>) -> Result<Registrar, FleetError> {
        let (random, clock) = (Arc::new(SystemRandom::new()), Arc::new(self.clock.clone()));
        Registrar::open(self.store.clone(), master, random, clock).await
    }

    async fn registrar(&self) -> Registrar {
        self.open(master(1)).await.unwrap()
    }

    async fn invite(&self, grants: JoinGrant) -> Token {
        let secret = Token::generate("insj", &SystemRandom::new());
        let hash = SecretHash(*secret.hash().as_bytes());
        let mut random = [0; 10];
        random.copy_from_slice(&hash.0[..10]);
        let now = Timestamp::from_millis(self.clock_ms());
        let join = Join {
            id: JoinId::from_parts(now, random),
            grants,
            created: now,
            expires: now.plus(Millis::secs(3_600)),
            used: None,
        };
        self.store.write(move |tx| joins::create(tx, &join, &hash)).await.unwrap();
        secret
    }

    fn clock_ms(&self) -> i64 {
        insula_kit::clock::Clock::now_ms(&self.clock)
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&insula_store::Tx) -> Result<T, StoreError> + Send + 'static,
    ) -> T {
        self.store.read(query).await.unwrap()
    }
}

fn for_nodes() -> JoinGrant {
    JoinGrant::Node { name: None, site: Site::default() }
}

fn newcomer(token: &Token, member: Member, name: Option<&str>) -> Newcomer {
    Newcomer {
        voucher: Voucher::Token(token.hash()),
        member,
        name: name.map(|name| name.parse().unwrap()),
        version: "0.1.0".into(),
        key: KeyPair::generate().public_key(),
    }
}

#[tokio::test]
async fn of_two_servers_that_begin_at_once_both_get_the_first_ones_authority() {
    let house = House::new();
    let (one, other) = tokio::join!(house.registrar(), house.registrar());
    assert_eq!(one.fingerprint(), other.fingerprint());
    assert_eq!(house.registrar().await.fingerprint(), one.fingerprint());
    let strange = house.open(master(2)).await.unwrap_err();
    assert!(matches!(strange, FleetError::Sealed(_)), "{strange}");
    let identity = one.identity_of_server(ServerId::from_parts(Timestamp::from_millis(1), [1; 10]));
    let clock = Arc::new(house.clock.clone());
    assert_eq!(Credentials::new(&identity.await.unwrap(), clock).unwrap().serial(), 1);
    let printed = format!("{one:?}");
    assert!(printed.contains("hidden"), "{printed}");
}

#[tokio::test]
async fn a_token_lets_one_in_once() {
    let house = House::new();
    let registrar = house.registrar().await;
    let token = house.invite(for_nodes()).await;
    let text = Invitation { secret: token.clone(), authority: registrar.fingerprint() }.expose();
    assert_eq!(text.parse::<Invitation>().unwrap().authority, registrar.fingerprint());
    let member = Member::Node(node(1));
    let Admission { serial, name, not_after, .. } =
        registrar.join(newcomer(&token, member, Some("alpha"))).await.unwrap();
    assert_eq!((serial, name.unwrap().to_string().as_str()), (Serial(1), "alpha"));
    assert_eq!(not_after.as_millis(), NOW + 72 * HOUR);
    let known = house.read(move |tx| nodes::get(tx, node(1))).await.unwrap();
    assert_eq!((known.agent_version.as_str(), known.offer.capacity.cpu), ("0.1.0", MilliCpu(0)));
    let again = registrar.join(newcomer(&token, Member::Node(node(2)), None)).await.unwrap_err();
    assert!(matches!(again, FleetError::Join(JoinRefusal::Used { by }) if by == member), "{again}");
    assert!(house.read(|tx| nodes::get(tx, node(2))).await.is_none());
}

#[tokio::test]
async fn an_answer_that_was_lost_can_be_asked_for_again_until_the_certificate_was_shown() {
    let house = House::new();
    let registrar = house.registrar().await;
    let token = house.invite(for_nodes()).await;
    let member = Member::Node(node(1));
    registrar.join(newcomer(&token, member, None)).await.unwrap();
    house.clock.advance_ms(1_000);
    let second = registrar.join(newcomer(&token, member, None)).await.unwrap();
    assert_eq!(second.serial, Serial(2));
    registrar.check(member, second.serial).await.unwrap();
    let third = registrar.join(newcomer(&token, member, None)).await.unwrap_err();
    assert!(matches!(third, FleetError::Join(JoinRefusal::Used { .. })), "{third}");
    // Nor hours later, shown or not.
    let token = house.invite(for_nodes()).await;
    let member = Member::Node(node(2));
    registrar.join(newcomer(&token, member, None)).await.unwrap();
    house.clock.advance_ms(HOUR);
    assert!(registrar.join(newcomer(&token, member, None)).await.is_err());
}

#[tokio::test]
async fn a_token_that_expired_or_is_for_another_role_or_was_never_given_lets_nobody_in() {
    let house = House::new();
    let registrar = house.registrar().await;
    let gateway = Member::Gateway(GatewayId::from_parts(Timestamp::from_millis(1), [1; 10]));
    let token = house.invite(for_nodes()).await;
    let wrong = registrar.join(newcomer(&token, gateway, None)).await.unwrap_err();
    assert!(matches!(wrong, FleetError::Join(JoinRefusal::OtherRole { role: "gateway" })));
    house.clock.advance_ms(HOUR);
    let late = registrar.join(newcomer(&token, Member::Node(node(1)), None)).await.unwrap_err();
    assert!(matches!(late, FleetError::Join(JoinRefusal::Expired { .. })), "{late}");
    let guess = Token::generate("insj", &SystemRandom::new());
    let guessed = registrar.join(newcomer(&guess, Member::Node(node(1)), None)).await.unwrap_err();
    assert!(matches!(guessed, FleetError::Join(JoinRefusal::Unknown)));
    let token = house.invite(JoinGrant::Gateway).await;
    registrar.join(newcomer(&token, gateway, None)).await.unwrap();
    assert_eq!(house.read(gateways::list).await.len(), 1);
}

#[tokio::test]
async fn a_refused_newcomer_uses_no_token_up() {
    let house = House::new();
    let registrar = house.registrar().await;
    let member = Member::Node(node(1));
    house
        .store
        .write(move |tx| enrolments::revoke(tx, member, Timestamp::from_millis(NOW)))
        .await
        .unwrap();
    let token = house.invite(for_nodes()).await;
    let refused = registrar.join(newcomer(&token, member, None)).await.unwrap_err();
    assert!(matches!(refused, FleetError::Enrol(EnrolRefusal::Revoked { .. })), "{refused}");
    registrar.join(newcomer(&token, Member::Node(node(2)), None)).await.unwrap();
}

#[tokio::test]
async fn somebodys_token_does_not_make_him_a_node_that_is_here() {
    let house = House::new();
    let registrar = house.registrar().await;
    let member = Member::Node(node(1));
    let token = house.invite(for_nodes()).await;
    let first = registrar.join(newcomer(&token, member, None)).await.unwrap();
    registrar.check(member, first.serial).await.unwrap();
    let token = house.invite(for_nodes()).await;
    let theft = registrar.join(newcomer(&token, member, None)).await.unwrap_err();
    assert!(matches!(theft, FleetError::Enrol(EnrolRefusal::Present { .. })), "{theft}");
    // Once its certificate has ended, its owner may bring it back with the same token.
    house.clock.advance_ms(73 * HOUR);
    let token = house.invite(for_nodes()).await;
    let back = registrar.join(newcomer(&token, member, None)).await.unwrap();
    assert!(back.serial > first.serial);
}

/// Whoever comes by the socket of a server's own machine never shows a certificate to a server: that
/// it was not shown says nothing of whether the node is here.
#[tokio::test]
async fn a_token_does_not_make_anybody_the_node_beside_a_server() {
    let house = House::new();
    let registrar = house.registrar().await;
    let beside = Member::Node(node(1));
    let greets = |tx: &mut insula_store::Tx| nodes::hello(tx, &greeted(node(1)));
    house.store.write(greets).await.unwrap();
    let token = house.invite(for_nodes()).await;
    for before_it_had_a_certificate in [true, false] {
        if !before_it_had_a_certificate {
            let own = Newcomer { voucher: Voucher::Machine, ..newcomer(&token, beside, None) };
            registrar.join(own).await.unwrap();
            house.clock.advance_ms(73 * HOUR);
        }
        let token = house.invite(for_nodes()).await;
        let theft = registrar.join(newcomer(&token, beside, None)).await.unwrap_err();
        assert!(matches!(theft, FleetError::Enrol(EnrolRefusal::Present { .. })), "{theft}");
        // It is still good for whom it was made for.
        let rightful = Member::Node(node(if before_it_had_a_certificate { 2 } else { 3 }));
        registrar.join(newcomer(&token, rightful, None)).await.unwrap();
    }
    let own = Newcomer { voucher: Voucher::Machine, ..newcomer(&token, beside, None) };
    registrar.join(own).await.unwrap();
}

/// It found nothing on its host, and is here all the same.
#[tokio::test]
async fn a_token_does_not_make_anybody_a_node_beside_a_server_that_has_nothing_to_offer() {
    let house = House::new();
    let registrar = house.registrar().await;
    let awaited = house.invite(for_nodes()).await;
    registrar.join(newcomer(&awaited, Member::Node(node(2)), None)).await.unwrap();
    let nothing = house.read(|tx| nodes::get(tx, node(2))).await.unwrap().offer;
    assert!(!house.read(|tx| nodes::has_greeted(tx, node(2))).await, "it was only let in");
    let poor = Node { offer: nothing, ..greeted(node(1)) };
    house.store.write(move |tx| nodes::hello(tx, &poor)).await.unwrap();
    assert!(house.read(|tx| nodes::has_greeted(tx, node(1))).await);
    let token = house.invite(for_nodes()).await;
    let theft = registrar.join(newcomer(&token, Member::Node(node(1)), None)).await.unwrap_err();
    assert!(matches!(theft, FleetError::Enrol(EnrolRefusal::Present { .. })), "{theft}");
    // Whoever was only let in and lost what it got may come with another token.
    registrar.join(newcomer(&token, Member::Node(node(2)), None)).await.unwrap();
}

fn greeted(id: NodeId) -> Node {
    let at = Timestamp::from_millis(NOW);
    Node {
        id,
        name: "local".parse().unwrap(),
        offer: Offer {
            capacity: Capacity::default(),
            mode: NodeMode::Full,
            runtimes: Vec::new(),
            architecture: Architecture::X86,
            isolation: [Isolation::Standard].into(),
        },
        site: Site::default(),
        agent_version: "0.1.0".into(),
        joined: at,
        hello: at,
        duty: Duty::Serve,
        lost: None,
        ailments: Vec::new(),
        relay: None,
    }
}

#[tokio::test]
async fn a_newer_certificate_ends_the_older_when_it_is_used_and_removal_ends_all() {
    let house = House::new();
    let (registrar, elsewhere) = (house.registrar().await, house.registrar().await);
    let member = Member::Node(node(1));
    let token = house.invite(for_nodes()).await;
    let first = registrar.join(newcomer(&token, member, None)).await.unwrap().serial;
    registrar.check(member, first).await.unwrap();
    let key = KeyPair::generate().public_key();
    let second = registrar.renew(member, key).await.unwrap().serial;
    registrar.check(member, first).await.unwrap();
    elsewhere.check(member, second).await.unwrap();
    let stolen = registrar.check(member, first).await.unwrap_err();
    assert!(matches!(stolen, EnrolRefusal::Superseded { .. }), "{stolen}");
    let made_up = registrar.check(member, Serial(9)).await.unwrap_err();
    assert!(matches!(made_up, EnrolRefusal::NeverIssued { .. }), "{made_up}");
    house.store.write(|tx| nodes::remove(tx, node(1), Timestamp::from_millis(NOW))).await.unwrap();
    let removed = elsewhere.check(member, second).await.unwrap_err();
    assert!(matches!(removed, EnrolRefusal::Revoked { .. }), "{removed}");
    let renewed = registrar.renew(member, key).await.unwrap_err();
    assert!(matches!(renewed, FleetError::Enrol(EnrolRefusal::Revoked { .. })), "{renewed}");
}

#[tokio::test]
async fn a_tokens_name_and_site_count_and_a_taken_name_is_not_given_twice() {
    let house = House::new();
    let registrar = house.registrar().await;
    let site = Site { pool: Some("fast".parse().unwrap()), ..Site::default() };
    let named =
        |name: &str| JoinGrant::Node { name: Some(name.parse().unwrap()), site: site.clone() };
    let token = house.invite(named("alpha")).await;
    let one = registrar.join(newcomer(&token, Member::Node(node(1)), Some("mine"))).await.unwrap();
    assert_eq!(one.name.unwrap().to_string(), "alpha");
    let known = house.read(|tx| nodes::get(tx, node(1))).await.unwrap();
    assert_eq!(known.site, site);
    let token = house.invite(named("alpha")).await;
    let two = registrar.join(newcomer(&token, Member::Node(node(2)), None)).await.unwrap();
    let own = format!("node-{}", node(2).short());
    assert_eq!(two.name.unwrap().to_string(), own, "one that tells of its id");
}

#[tokio::test]
async fn another_master_key_opens_the_same_authority_and_the_old_one_none() {
    let house = House::new();
    let before = house.registrar().await;
    let ring = Keyring::new(key(2)).with_older(key(1));
    let rewrap = move |tx: &mut insula_store::Tx| {
        insula_vault::rewrap_all(tx, &ring, &SystemRandom::new()).map(drop)
    };
    house.store.write(rewrap).await.unwrap();
    let after = house.open(master(2)).await.unwrap();
    assert_eq!(after.fingerprint(), before.fingerprint());
    let refused = house.open(master(1)).await.unwrap_err();
    assert!(matches!(refused, FleetError::Sealed(_)), "{refused}");
    assert!(refused.to_string().contains("master.key"), "{refused}");
    // Who was given a certificate before is as good a member as who gets one now.
    let one = before.identity_of_server(server(1)).await.unwrap();
    let other = after.identity_of_server(server(2)).await.unwrap();
    assert_eq!(one.authorities, other.authorities);
}

#[tokio::test]
async fn who_is_on_a_servers_machine_needs_no_token_and_gets_one_certificate_after_another() {
    let house = House::new();
    let registrar = house.registrar().await;
    let beside = |member| Newcomer {
        voucher: Voucher::Machine,
        member,
        name: None,
        version: "0.1.0".into(),
        key: KeyPair::generate().public_key(),
    };
    let gateway = GatewayId::from_parts(Timestamp::from_millis(1), [1; 10]);
    let first = registrar.join(beside(Member::Gateway(gateway))).await.unwrap();
    let next = registrar.join(beside(Member::Gateway(gateway))).await.unwrap();
    assert_eq!((first.serial, next.serial), (Serial(1), Serial(2)));
    let rows = house.read(gateways::list).await;
    assert_eq!(rows.len(), 1, "nodes let in whom this names");
    // A node's row comes with its first hello.
    registrar.join(beside(Member::Node(node(1)))).await.unwrap();
    assert!(house.read(move |tx| nodes::get(tx, node(1))).await.is_none());
}

#[tokio::test]
async fn who_may_open_a_socket_cannot_become_a_member_of_elsewhere_or_a_removed_one() {
    let house = House::new();
    let registrar = house.registrar().await;
    let token = house.invite(JoinGrant::Gateway).await;
    let elsewhere = Member::Gateway(GatewayId::from_parts(Timestamp::from_millis(1), [1; 10]));
    let joined = registrar.join(newcomer(&token, elsewhere, None)).await.unwrap();
    registrar.check(elsewhere, joined.serial).await.unwrap();
    let thief = Newcomer { voucher: Voucher::Machine, ..newcomer(&token, elsewhere, None) };
    let refused = registrar.join(thief).await.unwrap_err();
    assert!(matches!(refused, FleetError::Enrol(EnrolRefusal::Present { .. })), "{refused}");
    registrar.check(elsewhere, joined.serial).await.unwrap();

    let removed = Member::Node(node(9));
    let now = Timestamp::from_millis(NOW);
    house.store.write(move |tx| enrolments::revoke(tx, removed, now)).await.unwrap();
    let back = Newcomer { voucher: Voucher::Machine, ..newcomer(&token, removed, None) };
    let refused = registrar.join(back).await.unwrap_err();
    assert!(matches!(refused, FleetError::Enrol(EnrolRefusal::Revoked { .. })), "{refused}");
}
