//! Who is dead is known before anybody asks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use insula_relay::{Health, Limits, OpenError};
use tokio::io::AsyncWriteExt;

use crate::fleet::{Fleet, GATEWAY, NODE, OTHER_NODE, Tap, TestDoors, WEB, echo, name_of, soon};

const HEARTBEAT: Duration = Duration::from_millis(400);

#[tokio::test]
async fn a_node_that_freezes_is_dead_within_two_heartbeats_and_back_when_it_thaws() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    doors.put(WEB, echo("web1").await);
    let tap = Tap::before(relay.at).await;
    let (caller, counts) = fleet.caller(GATEWAY, HEARTBEAT);
    let mut health = caller.health(NODE, tap.at);
    soon(health.wait_for(|health| *health == Health::Alive)).await.unwrap();
    let mut stream = soon(caller.open(NODE, tap.at, WEB)).await.unwrap();

    tap.freeze(true);
    let began = Instant::now();
    let opening = tokio::spawn({
        let (caller, at) = (caller.clone(), tap.at);
        async move { caller.open(NODE, at, WEB).await.map(drop) }
    });
    soon(health.wait_for(|health| *health == Health::Dead)).await.unwrap();
    let took = began.elapsed();
    // A machine under load wakes us late.
    assert!(took < HEARTBEAT * 3, "it took {took:?}");
    let waiting = soon(opening).await.unwrap();
    assert!(matches!(waiting, Err(OpenError::Unreachable { .. })), "nobody waits for the dead");
    let again = soon(caller.open(NODE, tap.at, WEB)).await;
    assert!(matches!(again, Err(OpenError::Unreachable { .. })));
    assert_eq!(counts.deaths.value(), 1);

    tap.freeze(false);
    soon(health.wait_for(|health| *health == Health::Alive)).await.unwrap();
    assert_eq!(name_of(&mut stream).await, "web1", "a stream lives through it");
    stream.write_all(b"x").await.unwrap();
    soon(caller.open(NODE, tap.at, WEB)).await.unwrap();
}

#[tokio::test]
async fn a_relay_that_ends_is_dead_at_once_and_one_that_returns_is_used() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    doors.put(WEB, echo("web1").await);
    // An interval so long that only the end of the connection can have told.
    let (caller, _) = fleet.caller(GATEWAY, Duration::from_secs(3_600));
    let mut health = caller.health(NODE, relay.at);
    soon(health.wait_for(|health| *health == Health::Alive)).await.unwrap();
    soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
    assert_eq!(caller.lost(NODE, relay.at), None);
    drop(relay.end);
    soon(health.wait_for(|health| *health == Health::Dead)).await.unwrap();
    assert!(caller.lost(NODE, relay.at).is_some(), "known as soon as it counts as dead");
    assert_eq!(caller.lost(OTHER_NODE, relay.at), None);
    let opened = soon(caller.open(NODE, relay.at, WEB)).await;
    assert!(matches!(opened, Err(OpenError::Unreachable { .. })));
}

#[tokio::test]
async fn a_node_that_nobody_names_any_more_is_let_go() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    let (caller, _) = fleet.caller(GATEWAY, HEARTBEAT);
    let at: SocketAddr = relay.at;
    caller.set_relays(&[(NODE, at)].into());
    let mut health = caller.health(NODE, at);
    soon(health.wait_for(|health| *health == Health::Alive)).await.unwrap();
    caller.set_relays(&Default::default());
    crate::fleet::until(|| relay.counts.connections.value() == 0).await;
    soon(health.changed()).await.unwrap_err();
}
