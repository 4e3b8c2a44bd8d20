//! What a member that was taken over, or anybody who reaches the port, can do: nothing to others.

use std::time::Duration;

use insula_kit::tls::{Acceptor, ClientCertificates};
use insula_model::fleet::Member;
use insula_relay::{Limits, OpenError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fleet::{
    DB, Fleet, GATEWAY, NODE, OK, OTHER_NODE, TestDoors, WEB, echo, name_of, soon, until,
};

const HEARTBEAT: Duration = Duration::from_secs(1);
const PING: u8 = 0x01;
const OPEN: u8 = 0x02;
const PONG: u8 = 0x81;
const GONE: u8 = 0x83;

/// Short, so that the test need not wait for long.
fn short() -> Limits {
    Limits { message_time_max: Duration::from_millis(50), ..Limits::default() }
}

#[tokio::test]
async fn connections_that_say_nothing_stand_in_nobodys_way() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let limits = Limits { strangers_max: 100, ..Limits::default() };
    let relay = fleet.relay(&doors, limits).await;
    doors.put(WEB, echo("web1").await);
    let (caller, _) = fleet.caller(GATEWAY, HEARTBEAT);
    // The steady state has no handshakes, so a flood of them does not touch who is there already.
    drop(soon(caller.open(NODE, relay.at, WEB)).await.unwrap());
    until(|| relay.counts.streams.value() == 0).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(relay.at).await.unwrap());
    }
    until(|| relay.counts.turned_away.value() >= 200).await;
    let mut stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
    assert_eq!(name_of(&mut stream).await, "web1");
    // When they go, their places are free.
    drop(silent);
    let (newcomer, _) = fleet.caller(GATEWAY, HEARTBEAT);
    soon(async {
        while newcomer.open(NODE, relay.at, WEB).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn garbage_instead_of_tls_is_turned_away() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 70_000], &[22, 3, 1, 255, 255, 1]] {
        let mut tcp = TcpStream::connect(relay.at).await.unwrap();
        let _ = tcp.write_all(garbage).await;
        let _ = tcp.shutdown().await;
        let _ = soon(tcp.read_to_end(&mut Vec::new())).await;
    }
    until(|| relay.counts.turned_away.value() == 3).await;
    assert_eq!(relay.counts.connections.value(), 0);
}

#[tokio::test]
async fn a_message_that_nobody_of_ours_sends_ends_the_connection() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    for kind in [0x00, 0x03, PONG, OK, GONE, 0xff] {
        let mut raw = fleet.raw(GATEWAY, 1, relay.at).await;
        raw.say(kind, 1).await;
        assert_eq!(raw.hear().await, None, "{kind:#04x}");
    }
    until(|| relay.counts.misbehaved.value() == 6).await;
}

#[tokio::test]
async fn a_slow_opening_is_not_waited_for() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, short()).await;
    let mut raw = fleet.raw(GATEWAY, 1, relay.at).await;
    raw.0.write_all(&[OPEN, 0, 0]).await.unwrap();
    raw.0.flush().await.unwrap();
    raw.closed().await;
    until(|| relay.counts.misbehaved.value() == 1 && relay.counts.connections.value() == 0).await;
}

#[tokio::test]
async fn floods_of_pings_and_of_openings_that_lead_nowhere_end_their_connection_alone() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let limits = Limits { pings_per_second_max: 5, misses_per_second_max: 7, ..Limits::default() };
    let relay = fleet.relay(&doors, limits).await;
    doors.put(WEB, echo("web1").await);
    let (caller, _) = fleet.caller(GATEWAY, HEARTBEAT);
    for (kind, answer, max) in [(PING, PONG, 5), (OPEN, GONE, 7)] {
        let mut raw = fleet.raw(GATEWAY, 1, relay.at).await;
        let mut answered = 0;
        for _ in 0..100 {
            raw.say(kind, DB.as_u128()).await;
        }
        while let Some(heard) = raw.hear().await {
            assert_eq!(heard, answer);
            answered += 1;
        }
        // The clock may have moved on by a second in between.
        assert!(answered <= 2 * max, "{answered} of {kind}");
    }
    until(|| relay.counts.misbehaved.value() == 2).await;
    let mut stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
    assert_eq!(name_of(&mut stream).await, "web1");
}

#[tokio::test]
async fn one_member_cannot_take_the_connections_of_others() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let limits = Limits { connections_per_member_max: 3, ..Limits::default() };
    let relay = fleet.relay(&doors, limits).await;
    doors.put(WEB, echo("web1").await);
    let greedy = Member::Node(OTHER_NODE);
    doors.admit(greedy);
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut raw = fleet.raw(greedy, 1, relay.at).await;
        raw.say(PING, 1).await;
        assert_eq!(raw.hear().await, Some(PONG));
        held.push(raw);
    }
    let mut one_more = fleet.raw(greedy, 1, relay.at).await;
    one_more.say(PING, 1).await;
    assert_eq!(one_more.hear().await, None);
    let (caller, _) = fleet.caller(GATEWAY, HEARTBEAT);
    let mut stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
    assert_eq!(name_of(&mut stream).await, "web1");
}

#[tokio::test]
async fn connections_on_which_nothing_happens_are_closed() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let limits = Limits { idle_max: Duration::from_millis(50), ..Limits::default() };
    let relay = fleet.relay(&doors, limits).await;
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(fleet.raw(GATEWAY, 1, relay.at).await);
    }
    for raw in &mut idle {
        raw.closed().await;
    }
    until(|| relay.counts.connections.value() == 0).await;
    assert_eq!(relay.counts.misbehaved.value(), 0);
}

#[tokio::test]
async fn who_sends_and_never_reads_holds_nothing_but_his_own_stream() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, short()).await;
    doors.put(WEB, echo("web1").await);
    // Asks as long as the kernel takes it, and hears nothing: the relay stops listening to him.
    let mut raw = fleet.raw(GATEWAY, 1, relay.at).await;
    raw.say(OPEN, WEB.as_u128()).await;
    assert_eq!(raw.hear().await, Some(OK));
    let frame = [&4_096_u16.to_be_bytes()[..], &[7; 4_096]].concat();
    let mut sent = 0_usize;
    while let Ok(Ok(())) =
        tokio::time::timeout(Duration::from_millis(200), raw.0.write_all(&frame)).await
    {
        sent += frame.len();
        assert!(sent < 64 << 20, "somebody keeps all of it");
    }
    let (caller, _) = fleet.caller(GATEWAY, HEARTBEAT);
    let mut stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
    assert_eq!(name_of(&mut stream).await, "web1");
    drop(raw);
    until(|| relay.counts.streams.value() == 1).await;
}

/// A relay that was taken over, and answers what it likes.
#[tokio::test]
async fn a_caller_believes_no_answer_that_it_did_not_ask_for() {
    let fleet = Fleet::new();
    let ok = |of: u128| [&[OK][..], &of.to_be_bytes()].concat();
    let garbage = vec![0x42; 17];
    for answer in [ok(DB.as_u128()), vec![PONG; 17], garbage, vec![OK; 5], Vec::new()] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let credentials = fleet.credentials(Member::Node(NODE), 1);
        let acceptor =
            Acceptor::new(&credentials, ClientCertificates::Required, insula_relay::ALPN);
        let serving = tokio::spawn(async move {
            while let Ok((tcp, from)) = listener.accept().await {
                let Ok((mut stream, _)) = acceptor.accept(tcp, from.ip()).await else { continue };
                let mut request = [0; 17];
                if stream.read_exact(&mut request).await.is_err() {
                    continue;
                }
                if request[0] == PING {
                    request[0] = PONG;
                    let _ = stream.write_all(&request).await;
                } else {
                    let _ = stream.write_all(&answer).await;
                }
                let _ = stream.shutdown().await;
            }
        });
        let (caller, _) = fleet.caller(GATEWAY, HEARTBEAT);
        let opened = soon(caller.open(NODE, at, WEB)).await;
        assert!(matches!(opened, Err(OpenError::Unreachable { .. })), "{opened:?}");
        serving.abort();
    }
}
