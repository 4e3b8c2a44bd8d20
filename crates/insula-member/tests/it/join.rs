//! Joining: once, by whoever holds the token, at whoever the token names.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use insula_kit::clock::Clock;
use insula_kit::pki::Invitation;
use insula_member::{Files, JoinError, Joining, Membership};
use insula_model::fleet::Member;
use insula_model::{GatewayId, NodeId, Timestamp};

use super::fleet::{Fleet, NOW_MS};

pub fn node(number: u8) -> Member {
    Member::Node(NodeId::from_parts(Timestamp::from_millis(1), [number; 10]))
}

pub struct Newcomer {
    folder: tempfile::TempDir,
    pub files: Files,
    pub member: Member,
    pub servers: Vec<String>,
    pub clock: Arc<dyn Clock>,
}

impl Newcomer {
    pub fn new(fleet: &Fleet, member: Member, servers: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::in_folder(folder.path());
        let clock = Arc::new(fleet.clock.clone());
        Self { folder, files, member, servers: servers.to_vec(), clock }
    }

    pub async fn join(&self, token: Option<&Invitation>) -> Result<Membership, JoinError> {
        let (files, clock) = (&self.files, Arc::clone(&self.clock));
        let (member, servers) = (self.member, self.servers.as_slice());
        Joining { files, member, name: Some("me"), servers, token, clock }.settle().await
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|it| it.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn a_token_makes_a_member_once_and_is_not_needed_afterwards() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.server().await, fleet.server().await);
    // Nobody listens at the first one.
    let addresses = ["127.0.0.1:1".to_owned(), one.address.to_string()];
    let mut newcomer = Newcomer::new(&fleet, node(1), &addresses);
    assert!(matches!(newcomer.join(None).await, Err(JoinError::NoToken { .. })));

    let token = fleet.token(1);
    let joined = newcomer.join(Some(&token)).await.unwrap();
    assert_eq!(joined.credentials.subject().id(), newcomer.member.to_string());
    assert_eq!(joined.name.as_deref(), Some("as-the-fleet-says"));
    let mut known = joined.servers.all();
    known.sort();
    let mut servers = ["127.0.0.1:1".to_owned(), one.address.to_string(), two.address.to_string()];
    servers.sort();
    assert_eq!(known, servers, "those that the fleet named, and what the operator named");
    assert_eq!(newcomer.names(), ["credentials.json", "servers.json"]);
    let mode = std::fs::metadata(&newcomer.files.credentials).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);

    // Nobody is asked any more, and nobody has to be there.
    drop((one, two));
    newcomer.servers.clear();
    for token in [None, Some(&token)] {
        let again = newcomer.join(token).await.unwrap();
        assert_eq!(again.credentials.serial(), joined.credentials.serial());
        assert_eq!(again.name, None);
    }
    assert_eq!(fleet.callers(), [None]);
}

#[tokio::test]
async fn a_token_that_somebody_else_used_is_refused_with_a_way_out() {
    let fleet = Fleet::new();
    let server = fleet.server().await;
    let token = fleet.token(1);
    let addresses = [server.address.to_string()];
    Newcomer::new(&fleet, node(1), &addresses).join(Some(&token)).await.unwrap();
    let thief = Newcomer::new(&fleet, node(2), &addresses);
    let refused = thief.join(Some(&token)).await.unwrap_err();
    assert!(matches!(refused, JoinError::Refused { .. }));
    assert!(refused.to_string().contains("insula nodes token"), "{refused}");
    assert!(!thief.files.has_joined());
}

#[tokio::test]
async fn an_answer_that_got_lost_does_not_burn_the_token() {
    let fleet = Fleet::new();
    let server = fleet.server().await;
    let member = Member::Gateway(GatewayId::from_parts(Timestamp::from_millis(1), [1; 10]));
    let newcomer = Newcomer::new(&fleet, member, &[server.address.to_string()]);
    fleet.lose_answers(2);
    let joined = newcomer.join(Some(&fleet.token(1))).await.unwrap();
    assert_eq!(joined.credentials.subject().role(), "gateway");
    assert_eq!(fleet.callers().len(), 3);
}

#[tokio::test]
async fn the_secret_is_told_to_nobody_but_the_fleet_of_the_token() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let server = other.server().await;
    let newcomer = Newcomer::new(&fleet, node(1), &[server.address.to_string()]);
    // Enough for some tries; it would go on for a minute.
    let token = fleet.token(1);
    let joining = newcomer.join(Some(&token));
    let span = std::time::Duration::from_millis(500);
    assert!(tokio::time::timeout(span, joining).await.is_err());
    assert!(other.connections() > 1);
    assert_eq!(other.callers(), [], "nothing was said");
}

#[tokio::test]
async fn a_certificate_that_ended_takes_another_token_and_the_id_stays() {
    let fleet = Fleet::new();
    let server = fleet.server().await;
    let newcomer = Newcomer::new(&fleet, node(1), &[server.address.to_string()]);
    let before = newcomer.join(Some(&fleet.token(1))).await.unwrap();
    // The node was off for a week; the server was not, and has a certificate of today.
    drop(server);
    fleet.clock.set_ms(NOW_MS + 7 * 24 * 3_600_000);
    let late = newcomer.join(None).await.unwrap();
    assert_eq!(late.credentials.serial(), before.credentials.serial(), "what runs goes on");
    let server = fleet.server().await;
    let newcomer = Newcomer { servers: vec![server.address.to_string()], ..newcomer };
    let after = newcomer.join(Some(&fleet.token(2))).await.unwrap();
    assert_eq!(after.credentials.subject(), before.credentials.subject());
    assert!(after.credentials.serial() > before.credentials.serial());
    assert!(after.credentials.not_after_ms() > fleet.clock.now_ms());
}

#[tokio::test]
async fn a_folder_that_was_copied_is_refused() {
    let fleet = Fleet::new();
    let server = fleet.server().await;
    let mut newcomer = Newcomer::new(&fleet, node(1), &[server.address.to_string()]);
    newcomer.join(Some(&fleet.token(1))).await.unwrap();
    newcomer.member = node(2);
    assert!(matches!(newcomer.join(None).await, Err(JoinError::OfAnother { .. })));
}

#[tokio::test]
async fn mistakes_in_addresses_are_said_before_anybody_is_called() {
    let fleet = Fleet::new();
    let no_one = Newcomer::new(&fleet, node(1), &[]);
    assert!(matches!(no_one.join(None).await, Err(JoinError::NoServer)));
    let url = Newcomer::new(&fleet, node(1), &["https://a.example".into()]);
    assert!(matches!(url.join(None).await, Err(JoinError::Address(_))));
}

#[tokio::test]
async fn who_was_removed_joins_as_somebody_new_or_not_at_all() {
    let fleet = Fleet::new();
    let server = fleet.server().await;
    let mut newcomer = Newcomer::new(&fleet, node(1), &[server.address.to_string()]);
    let before = newcomer.join(Some(&fleet.token(1))).await.unwrap();
    fleet.remove(&node(1).to_string());
    // Nobody has said anything yet: what runs goes on.
    let serial = before.credentials.serial();
    assert_eq!(newcomer.join(None).await.unwrap().credentials.serial(), serial);
    let token = fleet.token(2);
    for _ in 0..2 {
        let refused = newcomer.join(Some(&token)).await.unwrap_err();
        assert!(matches!(refused, JoinError::Removed { member } if member == node(1)), "{refused}");
    }
    newcomer.files.forget().unwrap();
    newcomer.member = node(2);
    // The token was not used up by the tries.
    let anew = newcomer.join(Some(&token)).await.unwrap();
    assert_eq!(anew.credentials.subject().id(), node(2).to_string());
}

#[tokio::test]
async fn who_was_superseded_joins_again_and_keeps_its_id() {
    let fleet = Fleet::new();
    let server = fleet.server().await;
    let newcomer = Newcomer::new(&fleet, node(1), &[server.address.to_string()]);
    let used = fleet.token(1);
    let before = newcomer.join(Some(&used)).await.unwrap();
    fleet.supersede(&node(1).to_string());
    // The token of long ago stands in a unit file: it is of no use, and no reason to stay down.
    let again = newcomer.join(Some(&used)).await.unwrap();
    assert_eq!(again.credentials.serial(), before.credentials.serial());
    let after = newcomer.join(Some(&fleet.token(2))).await.unwrap();
    assert_eq!(after.credentials.subject(), before.credentials.subject());
    assert!(after.credentials.serial() > before.credentials.serial());
}
