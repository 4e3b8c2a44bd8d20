//! Names of the platform: found by their own environment, by nobody else, and never asked for outside.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::world::{
    A, AAAA, BLUE, BUILD, DB, NO_ERROR, NO_SUCH_NAME, PATIENCE, RED, REFUSED, STRANGER, World,
    receive,
};

#[tokio::test]
async fn a_component_is_found_by_udp_and_tcp() {
    let world = World::new(Vec::new()).await;
    for name in ["db", "db.shop", "db.shop.internal", "DB.Shop.INTERNAL"] {
        let reply = world.ask(RED, name, A).await;
        assert_eq!((reply.id(), reply.code()), (7, NO_ERROR));
        assert_eq!(reply.addresses(), [DB], "{name}");
        assert_eq!(world.ask_by_tcp(RED, name, A).await.addresses(), [DB], "{name}");
    }
    let reply = world.ask(RED, "db", AAAA).await;
    assert_eq!((reply.code(), reply.addresses().len()), (NO_ERROR, 0), "it has no IPv6 address");
    world.end().await;
}

#[tokio::test]
async fn nobody_else_learns_of_it_and_nothing_leaks_to_an_upstream() {
    let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    upstream.set_nonblocking(true).unwrap();
    let world = World::new(vec![upstream.local_addr().unwrap()]).await;
    for name in ["db", "db.shop.internal", "nobody", "x.y.internal", "9.0.87.10.in-addr.arpa"] {
        for other in [BLUE, BUILD] {
            let reply = world.ask(other, name, A).await;
            assert_eq!((reply.code(), reply.addresses().len()), (NO_SUCH_NAME, 0), "{name}");
            assert_eq!(world.ask_by_tcp(other, name, A).await.code(), NO_SUCH_NAME, "{name}");
        }
    }
    for name in ["db", "example.com"] {
        assert_eq!(world.ask(STRANGER, name, A).await.code(), REFUSED, "{name}");
    }
    let nothing = upstream.recv_from(&mut [0; 16]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    world.end().await;
}

#[tokio::test]
async fn a_change_of_the_zone_counts_at_once() {
    let world = World::new(Vec::new()).await;
    assert_eq!(world.ask(RED, "db", A).await.addresses(), [DB]);
    let moved = Ipv4Addr::new(10, 87, 0, 77);
    world.zone.send_modify(|zone| {
        for apps in Arc::make_mut(zone).environments.values_mut() {
            for app in apps.values_mut() {
                app.components.values_mut().for_each(|addresses| *addresses = vec![moved]);
            }
        }
    });
    assert_eq!(world.ask(RED, "db", A).await.addresses(), [moved]);
    world.end().await;
}

#[tokio::test]
async fn more_addresses_than_a_datagram_holds_come_by_tcp_and_in_changing_order() {
    let world = World::new(Vec::new()).await;
    let many: Vec<_> = (1..=100).map(|last| Ipv4Addr::new(10, 87, 1, last)).collect();
    world.zone.send_modify(|zone| {
        for apps in Arc::make_mut(zone).environments.values_mut() {
            for app in apps.values_mut() {
                app.components.values_mut().for_each(|addresses| *addresses = many.clone());
            }
        }
    });
    let reply = world.ask(RED, "db", A).await;
    assert!(reply.truncated() && reply.addresses().is_empty());
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let mut addresses = world.ask_by_tcp(RED, "db", A).await.addresses();
        firsts.insert(addresses[0]);
        addresses.sort();
        assert_eq!(addresses, many);
    }
    // Twenty draws of the same one of a hundred: 1 in 10^38.
    assert!(firsts.len() > 1);
    world.end().await;
}

#[tokio::test]
async fn garbage_is_answered_or_ignored_and_the_next_question_is_served() {
    let world = World::new(Vec::new()).await;
    let client = world.client(RED).await;
    let answered = [0_u8, 9, 0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let ignored = [0_u8, 8, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for garbage in [&b""[..], b"x", &ignored, &[0xff; 1_400], &answered] {
        client.send(garbage).await.unwrap();
    }
    let reply = receive(&client).await;
    assert_eq!((reply.id(), reply.code()), (9, 4), "an update is not implemented");
    assert_eq!(world.ask(RED, "db", A).await.addresses(), [DB]);
    world.end().await;
}

#[tokio::test]
async fn one_instance_cannot_take_all_connections() {
    let world = World::new(Vec::new()).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(world.connection(RED).await);
    }
    let mut surplus = world.connection(RED).await;
    let closed = timeout(PATIENCE, surplus.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "closed at once");
    assert_eq!(world.ask_by_tcp(BLUE, "nobody", A).await.code(), NO_SUCH_NAME);
    drop(held);
    world.end().await;
}
