//! Who belongs to the fleet, who does no more, and who tries all the same.

use std::sync::{Arc, Barrier};

use insula_model::feed::Change;
use insula_model::fleet::{Gateway, Join, JoinGrant, Member, Serial, Server};
use insula_model::instance::Instance;
use insula_model::node::{Ailment, AilmentKind, Duty, Node, Site};
use insula_model::{GatewayId, Generation, JoinId, Millis, ServerId, Timestamp};
use insula_store::authority::{self, Authority};
use insula_store::enrolments::{self, EnrolRefusal};
use insula_store::joins::{self, JoinRefusal};
use insula_store::{
    Kind, Page, StoreError, Tx, WriteError, apps, events, feed, gateways, instances, nodes,
    releases, servers, sweep,
};

use crate::model::{Fixture, Tenant, at, event, hash, instance_id, node, node_id, org_id, ready};

/// How long certificates work, in these tests.
const LIFETIME: Millis = Millis::secs(100);

/// Everything that keeps somebody out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Join(#[from] JoinRefusal),
    #[error(transparent)]
    Enrol(#[from] EnrolRefusal),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn join(n: u8, grants: JoinGrant) -> Join {
    let id = JoinId::from_u128(n.into());
    Join { id, grants, created: at(0), expires: at(10_000), used: None }
}

fn for_a_node() -> JoinGrant {
    JoinGrant::Node { name: None, site: Site::default() }
}

fn gateway(n: u128) -> Gateway {
    let id = GatewayId::from_u128(n);
    Gateway { id, version: "0.2.0".to_owned(), joined: at(0), hello: at(0) }
}

fn live_since(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.as_millis() - LIFETIME.0 as i64)
}

/// As a server lets a node in: all of it or nothing.
fn enter(tx: &mut Tx, token: u8, node: &Node, now: Timestamp) -> Result<Serial, Refusal> {
    let member = Member::Node(node.id);
    joins::redeem(tx, &hash(token), member, now)?;
    let serial = enrolments::enrol(tx, member, now, live_since(now))?;
    nodes::hello(tx, node)?;
    Ok(serial)
}

fn with_tokens(count: u8) -> Fixture {
    let fixture = Fixture::new();
    fixture
        .write(move |tx| {
            (1..=count).try_for_each(|n| joins::create(tx, &join(n, for_a_node()), &hash(n)))
        })
        .unwrap();
    fixture
}

#[test]
fn a_token_lets_one_in_however_many_try_at_once() {
    let fixture = with_tokens(1);
    let begin = Arc::new(Barrier::new(8));
    let tries: Vec<_> = (1..=8)
        .map(|n| {
            let (store, begin) = (fixture.store.clone(), Arc::clone(&begin));
            std::thread::spawn(move || {
                begin.wait();
                (n, store.write_blocking(move |tx| enter(tx, 1, &node(n), at(5))))
            })
        })
        .collect();
    let outcomes: Vec<_> = tries.into_iter().map(|one| one.join().unwrap()).collect();
    let winners: Vec<_> = outcomes.iter().filter(|(_, said)| said.is_ok()).collect();
    let [(winner, Ok(Serial(1)))] = winners[..] else { panic!("{outcomes:?}") };
    let winner = Member::Node(node_id(*winner));
    for (n, said) in &outcomes {
        let member = Member::Node(node_id(*n));
        if member != winner {
            assert!(
                matches!(said, Err(Refusal::Join(JoinRefusal::Used { by })) if *by == winner),
                "{said:?}"
            );
            assert_eq!(fixture.read(move |tx| Ok(enrolments::get(tx, member)?)), None);
        }
    }
    let there = fixture.read(|tx| Ok(nodes::list(tx, &Page::default())?));
    assert_eq!(there.items.len(), 1);
    let used = fixture.read(|tx| Ok(joins::get(tx, JoinId::from_u128(1))?)).unwrap().used;
    assert_eq!(used.map(|used| (used.at, used.by)), Some((at(5), winner)));
}

#[test]
fn a_token_is_of_no_use_to_a_stranger_too_late_or_for_another_role() {
    let fixture = with_tokens(2);
    fixture.write(|tx| joins::create(tx, &join(3, JoinGrant::Gateway), &hash(3))).unwrap();
    let as_node = |token, now| {
        let said =
            fixture.store.write_blocking(move |tx| enter(tx, token, &node(1), now)).map(drop);
        said.unwrap_err()
    };
    assert!(matches!(as_node(9, at(1)), Refusal::Join(JoinRefusal::Unknown)));
    assert!(matches!(as_node(1, at(10_000)), Refusal::Join(JoinRefusal::Expired { .. })));
    assert!(matches!(as_node(3, at(1)), Refusal::Join(JoinRefusal::OtherRole { role: "node" })));
    let as_other = |member| {
        let said =
            fixture.store.write_blocking(move |tx| joins::redeem(tx, &hash(1), member, at(1)));
        said.unwrap_err()
    };
    let gateway = Member::Gateway(GatewayId::from_u128(1));
    let server = Member::Server(ServerId::from_u128(1));
    assert!(matches!(as_other(gateway), JoinRefusal::OtherRole { role: "gateway" }));
    assert!(matches!(as_other(server), JoinRefusal::OtherRole { role: "server" }));
    fixture.write(|tx| joins::delete(tx, JoinId::from_u128(2))).unwrap();
    assert!(matches!(as_node(2, at(1)), Refusal::Join(JoinRefusal::Unknown)));
    // None of that used the first one up, nor left anything behind.
    assert_eq!(fixture.read(|tx| Ok(enrolments::list(tx)?)), []);
    fixture.store.write_blocking(|tx| enter(tx, 1, &node(1), at(9_999))).unwrap();
    let listed = fixture.read(|tx| Ok(joins::list(tx, &Page::default())?)).items;
    let ids: Vec<_> = listed.iter().map(|join| (join.id.as_u128(), join.used.is_some())).collect();
    assert_eq!(ids, [(3, false), (1, true)]);
    let again = fixture.write(|tx| joins::create(tx, &join(5, for_a_node()), &hash(1)));
    assert!(matches!(again, Err(WriteError::Exists { kind: Kind::Join })));
}

#[test]
fn who_was_removed_never_comes_back_and_its_try_costs_no_token() {
    let fixture = with_tokens(3);
    let enter =
        |token, now| fixture.store.write_blocking(move |tx| enter(tx, token, &node(1), now));
    enter(1, at(1)).unwrap();
    fixture.write(|tx| nodes::remove(tx, node_id(1), at(2))).unwrap();
    let member = Member::Node(node_id(1));
    for later in [at(3), at(9_000)] {
        let said = enter(2, later);
        assert!(matches!(said, Err(Refusal::Enrol(EnrolRefusal::Revoked { .. }))), "{said:?}");
    }
    let refused = fixture.store.write_blocking(move |tx| enrolments::renew(tx, member, at(4)));
    assert!(matches!(refused, Err(EnrolRefusal::Revoked { .. })));
    let refused = fixture.store.read_blocking(move |tx| enrolments::check(tx, member, Serial(1)));
    assert!(matches!(refused, Err(EnrolRefusal::Revoked { at: when, .. }) if when == at(2)));
    // A session that was under way says hello: its row must not appear again.
    let said = fixture.write(|tx| nodes::hello(tx, &node(1)));
    assert!(matches!(said, Err(WriteError::Revoked { member: m }) if m == member));
    assert_eq!(fixture.read(|tx| Ok(nodes::get(tx, node_id(1))?)), None);
    // Another removal changes nothing of when it was.
    fixture.store.write_blocking(move |tx| enrolments::revoke(tx, member, at(99))).unwrap();
    let revoked = fixture.read(move |tx| Ok(enrolments::revoked(tx, member)?));
    assert_eq!(revoked, Some(at(2)));
    let unused = fixture.read(|tx| Ok(joins::find(tx, &hash(2))?)).unwrap();
    assert_eq!(unused.used, None);
}

#[test]
fn a_node_of_this_machine_that_never_joined_is_removed_for_ever_too() {
    let fixture = Fixture::new();
    fixture.write(|tx| nodes::hello(tx, &node(1))).unwrap();
    fixture.write(|tx| nodes::remove(tx, node_id(1), at(2))).unwrap();
    let said = fixture.write(|tx| nodes::hello(tx, &node(1)));
    assert!(matches!(said, Err(WriteError::Revoked { .. })));
}

#[test]
fn a_token_does_not_make_its_holder_somebody_who_is_there() {
    let fixture = with_tokens(4);
    let enter =
        |token, now| fixture.store.write_blocking(move |tx| enter(tx, token, &node(1), now));
    let member = Member::Node(node_id(1));
    // Its answer was lost on the way: it has never shown a certificate, and may ask again.
    assert_eq!(enter(1, at(1)).unwrap(), Serial(1));
    assert_eq!(enter(2, at(2)).unwrap(), Serial(2));
    let used = move |tx: &mut Tx| enrolments::note_used(tx, member, Serial(2));
    fixture.store.write_blocking(used).unwrap();
    let said = enter(3, at(3));
    assert!(matches!(said, Err(Refusal::Enrol(EnrolRefusal::Present { .. }))), "{said:?}");
    // Once nothing it has works any more, the operator's next token is for it.
    fixture
        .write(|tx| {
            let late = Join { expires: at(1_000_000), ..join(9, for_a_node()) };
            joins::create(tx, &late, &hash(9))
        })
        .unwrap();
    assert_eq!(enter(9, at(2).plus(LIFETIME).plus(Millis(1))).unwrap(), Serial(3));
}

#[test]
fn an_older_certificate_ends_when_a_newer_one_is_used() {
    let fixture = Fixture::new();
    let member = Member::Gateway(GatewayId::from_u128(7));
    let check = |n| fixture.store.read_blocking(move |tx| enrolments::check(tx, member, Serial(n)));
    let note =
        |n| fixture.store.write_blocking(move |tx| enrolments::note_used(tx, member, Serial(n)));
    assert!(matches!(check(1), Err(EnrolRefusal::Unknown { .. })));
    let renewed = fixture.store.write_blocking(move |tx| enrolments::renew(tx, member, at(0)));
    assert!(matches!(renewed, Err(EnrolRefusal::Unknown { .. })));
    let serial = fixture
        .store
        .write_blocking(move |tx| enrolments::enrol(tx, member, at(0), live_since(at(0))));
    assert_eq!(serial.unwrap(), Serial(1));
    assert!(check(1).unwrap(), "its first use");
    note(1).unwrap();
    assert!(!check(1).unwrap(), "nothing to note any more");
    let serial = fixture.store.write_blocking(move |tx| enrolments::renew(tx, member, at(50)));
    assert_eq!(serial.unwrap(), Serial(2));
    // Given out and not used: both work, so that a lost answer locks nobody out.
    assert!(!check(1).unwrap());
    note(2).unwrap();
    assert!(matches!(
        note(1),
        Err(EnrolRefusal::Superseded { shown: Serial(1), used: Serial(2), .. })
    ));
    for never in [0, 3, u64::MAX] {
        assert!(
            matches!(
                check(never),
                Err(EnrolRefusal::NeverIssued { .. } | EnrolRefusal::Superseded { .. })
            ),
            "{never}"
        );
        assert!(note(never).is_err(), "{never}");
    }
    let known = fixture.read(move |tx| Ok(enrolments::get(tx, member)?)).unwrap();
    assert_eq!((known.newest, known.used), (Serial(2), Serial(2)));
    assert_eq!((known.member, known.since, known.revoked), (member, at(0), None));
}

#[test]
fn two_servers_that_begin_at_once_have_one_authority() {
    let fixture = Fixture::new();
    let begin = Arc::new(Barrier::new(4));
    let tries: Vec<_> = (1..=4_u8)
        .map(|n| {
            let (store, begin) = (fixture.store.clone(), Arc::clone(&begin));
            std::thread::spawn(move || {
                let ours =
                    Authority { certificate: vec![n; 9], sealed_key: vec![n; 4], created: at(0) };
                begin.wait();
                store.write_blocking(move |tx| authority::put_once(tx, &ours)).unwrap()
            })
        })
        .collect();
    let told: Vec<_> = tries.into_iter().map(|one| one.join().unwrap()).collect();
    let kept = fixture.read(|tx| Ok(authority::get(tx)?)).unwrap();
    assert!(told.iter().all(|one| *one == kept), "{told:?}");
    assert_eq!(kept.certificate[0], kept.sealed_key[0], "of one and the same");
    assert!(!format!("{kept:?}").contains("key"), "a key, even a sealed one, is not for logs");
}

#[test]
fn nobody_takes_a_nodes_name() {
    let fixture = Fixture::new();
    let named = |n: u32, name: &str| Node { name: name.parse().unwrap(), ..node(n) };
    let hello = |node: Node| {
        let id = node.id;
        fixture.write(move |tx| nodes::hello(tx, &node)).unwrap();
        fixture.read(move |tx| Ok(nodes::get(tx, id)?)).unwrap().name.to_string()
    };
    assert_eq!(hello(named(1, "db")), "db");
    let second = format!("node-{}", node_id(2).short());
    assert_eq!(hello(named(2, "db")), second);
    // Both come again, and again, as whoever they like to be.
    assert_eq!(hello(named(2, "db")), second);
    assert_eq!(hello(named(1, "db")), "db");
    assert_eq!(hello(named(2, "other")), second);
    // One who took the name that another will be given.
    let third = format!("node-{}", node_id(3).short());
    assert_eq!(hello(named(4, &third)), third);
    assert_eq!(hello(named(5, &format!("{third}-2"))), format!("{third}-2"));
    assert_eq!(hello(named(3, "db")), format!("{third}-3"));
    // A name is free again with its node.
    fixture.write(|tx| nodes::remove(tx, node_id(1), at(9))).unwrap();
    assert_eq!(hello(named(6, "db")), "db");
}

#[test]
fn a_greeting_changes_nothing_that_the_operator_said() {
    let fixture = Fixture::new();
    fixture.write(|tx| nodes::hello(tx, &node(1))).unwrap();
    let site = Site {
        pool: "gpu".parse().ok(),
        zone: "a".parse().ok(),
        labels: [("disk".parse().unwrap(), "nvme".parse().unwrap())].into(),
    };
    let ailment = Ailment { kind: AilmentKind::Disk, message: "96 % full".to_owned() };
    let duty = Duty::Drain { since: at(3) };
    let (of, bad) = (site.clone(), vec![ailment]);
    let said = bad.clone();
    let before = fixture
        .write(move |tx| {
            nodes::set_duty(tx, node_id(1), duty)?;
            nodes::set_site(tx, node_id(1), &of)?;
            assert!(nodes::mark(tx, node_id(1), None, Some(at(4)))?);
            assert!(!nodes::mark(tx, node_id(1), None, Some(at(5)))?, "somebody else was faster");
            nodes::set_ailments(tx, node_id(1), &said)
        })
        .unwrap();
    assert_eq!(before, Some(vec![]));
    let (head, said) = (*fixture.store.head().borrow(), bad.clone());
    let again = fixture.write(move |tx| nodes::set_ailments(tx, node_id(1), &said)).unwrap();
    assert_eq!((again, *fixture.store.head().borrow()), (None, head), "nothing new, nothing told");
    fixture
        .write(|tx| {
            let greeting = Node {
                agent_version: "0.3.0".to_owned(),
                hello: at(60),
                joined: at(60),
                relay: "10.0.0.7:7700".parse().ok(),
                site: Site { pool: "mine".parse().ok(), ..Site::default() },
                ..node(1)
            };
            nodes::hello(tx, &greeting)
        })
        .unwrap();
    let expected = Node {
        agent_version: "0.3.0".to_owned(),
        hello: at(60),
        relay: "10.0.0.7:7700".parse().ok(),
        site,
        duty,
        lost: Some(at(4)),
        ailments: bad,
        ..node(1)
    };
    assert_eq!(fixture.read(|tx| Ok(nodes::get(tx, node_id(1))?)), Some(expected));
    let nobody = node_id(77);
    for said in [
        fixture.write(move |tx| nodes::set_duty(tx, nobody, Duty::Serve)),
        fixture.write(move |tx| nodes::set_site(tx, nobody, &Site::default())),
        fixture.write(move |tx| nodes::set_ailments(tx, nobody, &[]).map(drop)),
        fixture.write(move |tx| nodes::mark(tx, nobody, None, Some(at(1))).map(drop)),
        fixture.write(move |tx| nodes::remove(tx, nobody, at(1))),
        fixture.write(move |tx| nodes::remove_with_instances(tx, nobody, at(1)).map(drop)),
    ] {
        assert!(matches!(said, Err(WriteError::NotFound { kind: Kind::Node })), "{said:?}");
    }
}

#[test]
fn a_node_that_is_gone_for_ever_takes_its_instances_with_it() {
    let fixture = Fixture::new();
    let tenants = [Tenant::of(1), Tenant::of(2)];
    let rows: Vec<Instance> = (10..30)
        .map(|n| {
            let of = &tenants[n as usize % 2];
            let node = node_id(if n < 20 { 1 } else { 2 });
            Instance { id: instance_id(n), node, ..of.instance.clone() }
        })
        .collect();
    let (release, gone) = (tenants[1].release.id, tenants[1].app.clone());
    fixture
        .write(move |tx| {
            tenants.iter().try_for_each(|tenant| tenant.deploy(tx))?;
            nodes::hello(tx, &node(2))?;
            instances::create_many(tx, &rows)?;
            instances::set_observed(
                tx,
                org_id(1),
                instance_id(10),
                &ready(instance_id(10), at(3)),
            )?;
            // Its app is gone: what it runs is kept for as long as something runs it.
            apps::delete(tx, gone.org, gone.id)
        })
        .unwrap();
    let refused = fixture.write(|tx| nodes::remove(tx, node_id(1), at(5)));
    assert!(matches!(refused, Err(WriteError::NotEmpty { kind: Kind::Node, .. })));
    let head = *fixture.store.head().borrow();
    let count = fixture.write(|tx| nodes::remove_with_instances(tx, node_id(1), at(5))).unwrap();
    // Ten of these, and the one that each tenant had there before.
    assert_eq!(count, 12);
    let (_, told) = fixture.read(move |tx| Ok(feed::since(tx, head, 100).unwrap()));
    let ended = told.iter().filter(|change| matches!(change, Change::InstanceGone(_))).count();
    assert_eq!(ended, 12);
    assert!(told.contains(&Change::NodeGone(node_id(1))));
    assert!(!told.iter().any(|change| matches!(change, Change::ReleaseGone(_))));
    let left = fixture.read(|tx| Ok(instances::of_node_any_org(tx, node_id(2))?));
    assert_eq!(left.len(), 10);
    assert_eq!(fixture.read(|tx| Ok(instances::of_node_any_org(tx, node_id(1))?)), []);
    assert!(fixture.read(move |tx| Ok(releases::get_any_org(tx, release)?)).is_some());

    let count = fixture.write(|tx| nodes::remove_with_instances(tx, node_id(2), at(6))).unwrap();
    assert_eq!(count, 10);
    assert_eq!(fixture.read(move |tx| Ok(releases::get_any_org(tx, release)?)), None);
}

#[test]
fn gateways_come_are_told_and_go_for_ever() {
    let fixture = Fixture::new();
    fixture.write(|tx| gateways::hello(tx, &gateway(1))).unwrap();
    fixture.write(|tx| gateways::hello(tx, &gateway(2))).unwrap();
    let again =
        Gateway { hello: at(50), joined: at(50), version: "0.3.0".to_owned(), ..gateway(1) };
    let expected = Gateway { joined: at(0), ..again.clone() };
    fixture.write(move |tx| gateways::hello(tx, &again)).unwrap();
    let (_, told) = fixture.read(|tx| Ok(feed::since(tx, Generation(0), 9).unwrap()));
    let both =
        [gateway(2), expected.clone()].map(|gateway| Change::Gateway(Box::new(gateway))).to_vec();
    assert_eq!(told, both);
    assert_eq!(fixture.read(|tx| Ok(gateways::list(tx)?)), [expected, gateway(2)]);

    let (id, head) = (gateway(1).id, *fixture.store.head().borrow());
    fixture.write(move |tx| gateways::remove(tx, id, at(60))).unwrap();
    let (_, told) = fixture.read(move |tx| Ok(feed::since(tx, head, 9).unwrap()));
    assert_eq!(told, [Change::GatewayGone(id)]);
    let said = fixture.write(|tx| gateways::hello(tx, &gateway(1)));
    assert!(matches!(said, Err(WriteError::Revoked { .. })));
    let said = fixture.write(move |tx| gateways::remove(tx, id, at(61)));
    assert!(matches!(said, Err(WriteError::NotFound { kind: Kind::Gateway })));
    assert_eq!(fixture.read(move |tx| Ok(gateways::get(tx, id)?)), None);
    let (_, whole) = fixture.read(|tx| Ok(feed::snapshot(tx)?));
    assert_eq!(whole, [Change::Gateway(Box::new(gateway(2)))]);
}

#[test]
fn servers_say_that_they_are_there_and_are_forgotten_when_they_do_not() {
    let fixture = Fixture::new();
    let server = |n: u128, version: &str| Server {
        id: ServerId::from_u128(n),
        fleet: "192.0.2.1:7443".parse().ok(),
        version: version.to_owned(),
        seen: at(10),
    };
    let say = |one: Server| {
        fixture.store.write_blocking(move |tx| servers::say_here(tx, &one)).unwrap();
    };
    say(server(2, "1"));
    say(server(1, "1"));
    say(Server { fleet: None, ..server(3, "1") });
    say(server(1, "2"));
    let all = fixture.read(|tx| Ok(servers::list(tx)?));
    let said = all.iter().map(|one| (one.id.as_u128(), one.version.as_str(), one.fleet.is_some()));
    assert_eq!(said.collect::<Vec<_>>(), [(1, "2", true), (2, "1", true), (3, "1", false)]);
    let (first, hour) = (all[0].seen, Millis::secs(3_600));
    assert_eq!(fixture.read(move |tx| Ok(servers::fresh(tx, first, hour)?)), all);

    let old = |before| fixture.store.write_blocking(move |tx| servers::forget_old(tx, before));
    let oldest = all.iter().map(|one| one.seen).min().unwrap();
    assert_eq!(old(oldest).unwrap(), 0);
    fixture.store.write_blocking(|tx| servers::forget(tx, ServerId::from_u128(1))).unwrap();
    assert_eq!(fixture.read(|tx| Ok(servers::get(tx, ServerId::from_u128(1))?)), None);
    assert_eq!(old(first.plus(hour)).unwrap(), 2);
    assert_eq!(fixture.read(|tx| Ok(servers::list(tx)?)), []);
    assert_eq!(*fixture.store.head().borrow(), Generation(0), "no news for anybody's world");
}

#[test]
fn the_operators_own_history_holds_no_orgs_events() {
    let fixture = Fixture::new();
    fixture
        .write(|tx| {
            events::append(tx, &event(None, None, 1))?;
            events::append(tx, &event(Some(org_id(1)), None, 2))?;
            Ok(events::append(tx, &event(None, None, 3))?)
        })
        .unwrap();
    let list = |of| {
        let found = fixture.read(move |tx| Ok(events::list(tx, of, &Page::default())?)).items;
        found.into_iter().map(|event| event.message).collect::<Vec<_>>()
    };
    assert_eq!(list(events::Of::Operator), ["event 3", "event 1"]);
    assert_eq!(list(events::Of::Platform), ["event 3", "event 2", "event 1"]);
    assert_eq!(list(events::Of::Org(org_id(1))), ["event 2"]);
}

#[test]
fn tokens_that_are_long_past_are_forgotten() {
    let fixture = with_tokens(2);
    fixture.store.write_blocking(|tx| enter(tx, 2, &node(1), at(1))).unwrap();
    let week = Millis::secs(7 * 24 * 3_600);
    let past = move |now: Timestamp| {
        fixture.store.write_blocking(move |tx| sweep::all(tx, now)).unwrap().joins
    };
    assert_eq!(past(at(10_000)), 0);
    assert_eq!(past(at(9_999).plus(week)), 0, "shown for a while");
    assert_eq!(past(at(10_000).plus(week)), 2);
}
