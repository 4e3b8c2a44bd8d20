//! What somebody sees who listens on the wire between two nodes.

use std::time::Duration;

use insula_relay::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fleet::{Fleet, GATEWAY, NODE, Tap, TestDoors, WEB, echo, name_of, soon};

const SECRET: &[u8] = b"password=correct-horse-battery-staple";

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn nothing_crosses_the_wire_in_the_clear() {
    let (fleet, doors) = (Fleet::new(), TestDoors::new());
    let relay = fleet.relay(&doors, Limits::default()).await;
    let instance = echo("web1").await;
    doors.put(WEB, instance);

    // The tap sees what there is to see: without the relay it reads everything.
    let plain = Tap::before(instance).await;
    let mut direct = TcpStream::connect(plain.at).await.unwrap();
    assert_eq!(name_of(&mut direct).await, "web1");
    direct.write_all(SECRET).await.unwrap();
    soon(direct.read_exact(&mut [0; SECRET.len()])).await.unwrap();
    assert!(contains(&plain.seen(), SECRET));

    let tap = Tap::before(relay.at).await;
    let (caller, _) = fleet.caller(GATEWAY, Duration::from_secs(1));
    let mut stream = soon(caller.open(NODE, tap.at, WEB)).await.unwrap();
    assert_eq!(name_of(&mut stream).await, "web1");
    stream.write_all(SECRET).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    soon(stream.read_to_end(&mut back)).await.unwrap();
    assert_eq!(back, SECRET);
    let seen = tap.seen();
    assert!(seen.len() > 2 * SECRET.len(), "it went through the tap, both ways");
    // Neither what was said, nor to which instance, nor who said it, nor who was meant.
    let id = WEB.as_u128().to_be_bytes();
    let names = [NODE.to_string(), GATEWAY.to_string()].map(|name| name.replace('_', "-"));
    for hidden in [SECRET, &SECRET[..12], b"web1", &id, names[0].as_bytes(), names[1].as_bytes()] {
        assert!(!contains(&seen, hidden), "{}", String::from_utf8_lossy(hidden));
    }
}
