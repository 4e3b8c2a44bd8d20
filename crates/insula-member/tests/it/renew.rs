//! Renewal, and what it means for calls that go on.

use std::sync::Arc;

use insula_kit::pki::Identity;
use insula_kit::random::SeededRandom;
use insula_kit::shutdown::{Cause, Shutdown};
use insula_member::{Dial, Fleet as Servers, Renewal, Uplink};
use insula_wire::node::{self as wire, join_client::JoinClient};

use super::fleet::{Fleet, NOW_MS};
use super::join::{Newcomer, node};

const HOUR_MS: i64 = 3_600_000;

#[tokio::test]
async fn the_next_certificate_is_kept_and_then_shown_with_another_key() {
    let fleet = Fleet::new();
    let server = fleet.server().await;
    let newcomer = Newcomer::new(&fleet, node(1), &[server.address.to_string()]);
    let joined = newcomer.join(Some(&fleet.token(1))).await.unwrap();
    let first_key = Identity::load(&newcomer.files.credentials).unwrap().key.public_key();
    let first = joined.credentials.serial();
    let dial = Dial::Fleet(Servers::new(joined.servers, &joined.credentials));
    let uplink = Uplink::new(dial);
    let renewal = Renewal {
        credentials: Arc::clone(&joined.credentials),
        file: newcomer.files.credentials.clone(),
        uplink: uplink.clone(),
        clock: Arc::clone(&newcomer.clock),
        random: Arc::new(SeededRandom::new(1)),
    };
    renewal.renew().await.unwrap();
    let second = joined.credentials.serial();
    assert!(second > first);
    let kept = Identity::load(&newcomer.files.credentials).unwrap();
    assert_ne!(kept.key.public_key(), first_key);

    // The next call shows the next certificate.
    renewal.renew().await.unwrap();
    assert_eq!(fleet.callers(), [None, Some(first), Some(second)]);
}

#[tokio::test]
async fn it_renews_by_itself_when_it_is_due() {
    let fleet = Fleet::new();
    let server = fleet.server().await;
    let newcomer = Newcomer::new(&fleet, node(1), &[server.address.to_string()]);
    let joined = newcomer.join(Some(&fleet.token(1))).await.unwrap();
    let first = joined.credentials.serial();
    let uplink = Uplink::new(Dial::Fleet(Servers::new(joined.servers, &joined.credentials)));
    let renewal = Renewal {
        credentials: Arc::clone(&joined.credentials),
        file: newcomer.files.credentials.clone(),
        uplink,
        clock: Arc::clone(&newcomer.clock),
        random: Arc::new(SeededRandom::new(1)),
    };
    fleet.clock.set_ms(NOW_MS + 27 * HOUR_MS);
    let shutdown = Shutdown::new();
    let keeping = tokio::spawn(renewal.keep(shutdown.clone()));
    while joined.credentials.serial() == first {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(joined.credentials.not_after_ms(), NOW_MS + (27 + 72) * HOUR_MS);
    shutdown.begin(Cause::Own);
    keeping.await.unwrap();
}

#[tokio::test]
async fn without_a_certificate_nobody_renews() {
    let fleet = Fleet::new();
    let server = fleet.server().await;
    let newcomer = Newcomer::new(&fleet, node(1), &[server.address.to_string()]);
    let joined = newcomer.join(Some(&fleet.token(1))).await.unwrap();
    let uplink = Uplink::new(Dial::Fleet(Servers::new(joined.servers, &joined.credentials)));
    // As somebody whose certificate has ended: the handshake is refused by the other side.
    fleet.clock.set_ms(NOW_MS + 80 * HOUR_MS);
    let mut client = JoinClient::new(uplink.channel());
    assert!(client.renew(wire::RenewRequest::default()).await.is_err());
    assert_eq!(fleet.callers(), [None], "it never got through");
}
