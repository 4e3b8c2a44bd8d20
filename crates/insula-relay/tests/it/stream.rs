//! A stream is like a TCP connection, and many of them cost one handshake.

use std::net::Ipv4Addr;
use std::time::Duration;

use insula_relay::{Limits, RelayStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fleet::{Fleet, GATEWAY, NODE, TestDoors, TestRelay, WEB, echo, name_of, soon, until};

const HEARTBEAT: Duration = Duration::from_secs(1);

async fn whole_life(mut stream: RelayStream, say: &[u8]) {
    assert_eq!(name_of(&mut stream).await, "web1");
    stream.write_all(say).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    soon(stream.read_to_end(&mut back)).await.unwrap();
    assert!(back == say, "{} bytes came back of {}", back.len(), say.len());
}

#[tokio::test]
async fn streams_follow_each_other_without_another_handshake() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    doors.put(WEB, echo("web1").await);
    let (caller, counts) = fleet.caller(GATEWAY, HEARTBEAT);
    for n in 0..50 {
        let stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
        whole_life(stream, &vec![n; usize::from(n) * 100]).await;
    }
    // One for the pulse and one for the streams.
    until(|| counts.dialled.value() == 2).await;
    assert_eq!(counts.reused.value(), 49);
    assert_eq!(relay.counts.opened.value(), 50);
    until(|| relay.counts.streams.value() == 0).await;
    // What a server is told of it.
    let usage = insula_relay::usage(&counts, Some(&relay.counts));
    let (calls, answers) = (usage.calls.unwrap(), usage.answers.unwrap());
    assert_eq!((calls.handshakes, calls.reused, calls.failed, calls.deaths), (2, 49, 0, 0));
    assert_eq!((answers.handshakes, answers.connections, answers.streams), (2, 2, 0));
    assert_eq!((answers.opened, answers.turned_away), (50, 0));
    assert!(answers.bytes_to_instances >= 50 && answers.bytes_from_instances >= 50);
    assert_eq!(insula_relay::usage(&counts, None).answers, None, "nobody calls a gateway");
}

#[tokio::test]
async fn megabytes_arrive_as_they_were_sent_while_others_go_the_other_way() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    doors.put(WEB, echo("web1").await);
    let (caller, _) = fleet.caller(GATEWAY, HEARTBEAT);
    let mut stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
    assert_eq!(name_of(&mut stream).await, "web1");
    let sent: Vec<u8> = (0..8_000_000_u32).map(|at| (at * 31 + at / 65_537) as u8).collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let mut back = Vec::new();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let reading = read.read_to_end(&mut back);
    let ((), count) = soon(async { tokio::join!(writing, reading) }).await;
    assert_eq!(count.unwrap(), sent.len());
    assert!(back == sent);
    drop((read, write));
    until(|| relay.counts.bytes_from_instances.value() == 4 + sent.len() as u64).await;
}

/// An instance that does with its connections what the test says.
async fn instance(fleet: &Fleet, relay: &TestRelay, doors: &TestDoors) -> (RelayStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    doors.put(WEB, listener.local_addr().unwrap());
    let (caller, _) = fleet.caller(GATEWAY, HEARTBEAT);
    let opened = async { tokio::join!(caller.open(NODE, relay.at, WEB), listener.accept()) };
    let (stream, accepted) = soon(opened).await;
    (stream.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn what_is_broken_off_on_one_side_is_never_an_end_on_the_other() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;

    let (mut stream, tcp) = instance(&fleet, &relay, &doors).await;
    tcp.set_zero_linger().unwrap();
    drop(tcp);
    let error = soon(stream.read(&mut [0; 8])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let (mut stream, mut tcp) = instance(&fleet, &relay, &doors).await;
    stream.write_all(b"half an upl").await.unwrap();
    stream.flush().await.unwrap();
    let mut seen = [0; 11];
    soon(tcp.read_exact(&mut seen)).await.unwrap();
    stream.abort();
    let error = soon(tcp.read(&mut [0; 8])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let (stream, mut tcp) = instance(&fleet, &relay, &doors).await;
    drop(relay.end);
    let error = soon(tcp.read(&mut [0; 8])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the relay itself went");
    drop(stream);
}

#[tokio::test]
async fn dropping_a_stream_closes_it_as_a_socket_and_keeps_the_connection() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    doors.put(WEB, echo("web1").await);
    let (caller, counts) = fleet.caller(GATEWAY, HEARTBEAT);
    for _ in 0..5 {
        let mut stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
        assert_eq!(name_of(&mut stream).await, "web1");
        drop(stream);
        until(|| relay.counts.streams.value() == 0).await;
    }
    assert!(counts.reused.value() >= 3, "{}", counts.reused.value());
}

#[tokio::test]
async fn an_answer_that_comes_before_the_question_is_over_arrives_whole() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    let (mut stream, mut tcp) = instance(&fleet, &relay, &doors).await;
    tcp.write_all(b"413 too large").await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"413 too large");
    // And the other direction is open still.
    stream.write_all(b"more").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut more = Vec::new();
    soon(tcp.read_to_end(&mut more)).await.unwrap();
    assert_eq!(more, b"more");
}

#[tokio::test]
async fn a_connection_is_joined_to_a_stream_end_to_end() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    doors.put(WEB, echo("web1").await);
    let (caller, counts) = fleet.caller(GATEWAY, HEARTBEAT);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    for _ in 0..2 {
        let connecting = async { tokio::join!(TcpStream::connect(at), listener.accept()) };
        let (client, accepted) = soon(connecting).await;
        let (mut client, tcp) = (client.unwrap(), accepted.unwrap().0);
        let stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
        let joined = tokio::spawn(stream.join(tcp));
        assert_eq!(name_of(&mut client).await, "web1");
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        soon(client.read_to_end(&mut back)).await.unwrap();
        assert_eq!(back, b"question");
        let (carried, done) = soon(joined).await.unwrap();
        done.unwrap();
        assert_eq!((carried.out, carried.back), (12, 8));
    }
    assert_eq!(counts.reused.value(), 1);

    // A client that resets is a stream that is broken off.
    let connecting = async { tokio::join!(TcpStream::connect(at), listener.accept()) };
    let (client, accepted) = soon(connecting).await;
    let stream = soon(caller.open(NODE, relay.at, WEB)).await.unwrap();
    client.as_ref().unwrap().set_zero_linger().unwrap();
    drop(client);
    let (_, done) = soon(stream.join(accepted.unwrap().0)).await;
    assert_eq!(done.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    until(|| relay.counts.streams.value() == 0).await;
}
