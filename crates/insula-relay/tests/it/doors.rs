//! Who gets where: by identity, as it is now, and never by what was true before.

use std::time::Duration;

use insula_kit::pki::Validity;
use insula_model::ServerId;
use insula_model::fleet::Member;
use insula_relay::{Health, Limits, OpenError, Refused};
use tokio::io::AsyncReadExt;

use crate::fleet::{
    DB, Fleet, GATEWAY, NODE, OK, OTHER_NODE, TestDoors, WEB, echo, name_of, soon, until,
};

const HEARTBEAT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn every_refusal_has_its_name_and_the_connection_lives_on() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    doors.put(DB, echo("db_1").await);
    doors.deny(DB, GATEWAY);
    let (caller, counts) = fleet.caller(GATEWAY, HEARTBEAT);
    let open = async |id| soon(caller.open(NODE, relay.at, id)).await;
    assert!(matches!(open(WEB).await, Err(OpenError::Gone { instance: WEB, node: NODE })));
    assert!(matches!(open(DB).await, Err(OpenError::Denied { instance: DB, .. })));
    // A port at which nobody listens.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    doors.put(WEB, closed);
    let not_listening =
        |opened| matches!(opened, Err(OpenError::Refused { why: Refused::NotListening, .. }));
    assert!(not_listening(open(WEB).await));
    doors.unready(WEB);
    assert!(not_listening(open(WEB).await));
    doors.put(WEB, echo("web1").await);
    assert_eq!(name_of(&mut open(WEB).await.unwrap()).await, "web1");
    assert_eq!(counts.reused.value(), 4);
    let answers = &relay.counts;
    let answers = [&answers.gone, &answers.denied, &answers.refused, &answers.opened];
    assert_eq!(answers.map(|count| count.value()), [1, 1, 2, 1]);
}

#[tokio::test]
async fn an_id_never_leads_to_who_has_its_address_now() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    let address = echo("them").await;
    doors.put(WEB, address);
    let (caller, _) = fleet.caller(GATEWAY, HEARTBEAT);
    let mut stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
    assert_eq!(name_of(&mut stream).await, "them");

    doors.end(WEB);
    doors.put(DB, address);
    let cut = soon(stream.read(&mut [0; 8])).await.unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::ConnectionReset);
    let stale = soon(caller.open(NODE, relay.at, WEB)).await;
    assert!(matches!(stale, Err(OpenError::Gone { .. })));
    until(|| relay.counts.cut.value() == 1).await;

    // The same id somewhere else: what is open at the old place ends as well.
    doors.put(WEB, echo("old_").await);
    let mut stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
    assert_eq!(name_of(&mut stream).await, "old_");
    doors.put(WEB, echo("new_").await);
    soon(stream.read(&mut [0; 8])).await.unwrap_err();
    let mut stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
    assert_eq!(name_of(&mut stream).await, "new_");
}

#[tokio::test]
async fn an_instance_that_is_not_ready_keeps_its_streams_and_gets_no_new_ones() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    doors.put(WEB, echo("web1").await);
    let (caller, _) = fleet.caller(GATEWAY, HEARTBEAT);
    let mut stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
    doors.unready(WEB);
    assert!(soon(caller.open(NODE, relay.at, WEB)).await.is_err());
    assert_eq!(name_of(&mut stream).await, "web1");
    assert_eq!(relay.counts.cut.value(), 0);
}

#[tokio::test]
async fn who_is_removed_from_the_fleet_is_out_with_all_that_is_open() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    doors.put(WEB, echo("web1").await);
    let (caller, _) = fleet.caller(GATEWAY, HEARTBEAT);
    let mut stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
    assert_eq!(name_of(&mut stream).await, "web1");
    let mut quiet = fleet.raw(GATEWAY, 1, relay.at).await;
    quiet.say(0x01, 1).await;
    assert_eq!(quiet.hear().await, Some(0x81));

    doors.remove(GATEWAY);
    soon(stream.read(&mut [0; 8])).await.unwrap_err();
    quiet.closed().await;
    assert!(soon(caller.open(NODE, relay.at, WEB)).await.is_err());
    let mut health = caller.health(NODE, relay.at);
    soon(health.wait_for(|health| *health == Health::Dead)).await.unwrap();

    doors.admit(GATEWAY);
    soon(health.wait_for(|health| *health == Health::Alive)).await.unwrap();
    assert!(soon(caller.open(NODE, relay.at, WEB)).await.is_ok());
}

#[tokio::test]
async fn who_is_no_member_or_not_any_more_is_turned_away() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    doors.put(WEB, echo("web1").await);
    let asks = async |mut raw: crate::fleet::Raw| {
        raw.say(0x02, WEB.as_u128()).await;
        raw.hear().await
    };
    // A node and a server of this fleet that our Target does not name.
    let server = Member::Server(ServerId::from_u128(1));
    for stranger in [Member::Node(OTHER_NODE), server] {
        assert_eq!(asks(fleet.raw(stranger, 1, relay.at).await).await, None);
    }
    // A member of another fleet, with the right name.
    let other_fleet = Fleet::new();
    let tcp = tokio::net::TcpStream::connect(relay.at).await.unwrap();
    let whom = insula_kit::pki::Whom::one("node", &NODE.to_string()).unwrap();
    let credentials = other_fleet.credentials(GATEWAY, 1);
    let connector = insula_kit::tls::Connector::new(&credentials, insula_relay::ALPN);
    soon(connector.connect(tcp, &whom)).await.unwrap_err();
    // A certificate whose time is over.
    let past = Validity { not_before_ms: 0, not_after_ms: 1_000 };
    assert_eq!(asks(fleet.raw_with(&fleet.valid(GATEWAY, 9, past), relay.at).await).await, None);
    // One that was stolen before the last renewal.
    assert_eq!(asks(fleet.raw(GATEWAY, 3, relay.at).await).await, Some(OK));
    assert_eq!(asks(fleet.raw(GATEWAY, 2, relay.at).await).await, None);
    assert_eq!(asks(fleet.raw(GATEWAY, 3, relay.at).await).await, Some(OK));
    assert_eq!(relay.counts.opened.value(), 2);
    until(|| relay.counts.turned_away.value() == 5).await;
}

#[tokio::test]
async fn a_caller_does_not_talk_to_a_node_that_it_did_not_mean() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay_of(OTHER_NODE, &doors, Limits::default()).await;
    doors.put(WEB, echo("web1").await);
    let (caller, _) = fleet.caller(GATEWAY, HEARTBEAT);
    let opened = soon(caller.open(NODE, relay.at, WEB)).await;
    assert!(matches!(opened, Err(OpenError::Unreachable { node: NODE, .. })));
    assert_eq!(relay.counts.opened.value(), 0);
}
