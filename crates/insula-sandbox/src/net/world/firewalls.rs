//! Rules that somebody changed, and other firewalls on the same machine.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use super::{BLUE, PRIVATE, RED, Reach, WORLD, World};
use crate::net::netlink::Socket;
use crate::net::nft::{Expression, Family, Place, Rule, Verdict};
use crate::net::{Drift, Swept, ensure_host, nft, route, rules, sweep, teardown_host};

/// Asking iptables-legacy about its filter table is what makes the kernel set it up.
#[test]
fn an_older_firewall_that_cannot_be_seen_into_is_reported() {
    const IPT_SO_GET_INFO: libc::c_int = 64;
    let Some(world) = World::new() else { return };
    let asked = world.host.run(|| {
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::RAW,
            Some(rustix::net::ipproto::UDP),
        )
        .unwrap();
        // `struct ipt_getinfo`: 32 bytes of name and 13 numbers.
        let mut table = [0_u8; 84];
        table[..6].copy_from_slice(b"filter");
        let mut length = table.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, which `table` has.
        #[allow(unsafe_code)]
        unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_IP,
                IPT_SO_GET_INFO,
                table.as_mut_ptr().cast(),
                &raw mut length,
            )
        }
    });
    let expected = if asked == 0 { vec![Drift::LegacyFirewall] } else { Vec::new() };
    assert_eq!(world.drift(), expected, "nothing to report where the kernel has no such tables");
}

#[test]
fn drift_is_seen_and_put_right_without_detaching_anybody() {
    let Some(world) = World::new() else { return };
    assert_eq!(world.drift(), []);
    let (instance, here) = world.instance(2, RED);
    let _server = instance.listen(Ipv4Addr::UNSPECIFIED, 80);
    let table = world.config.tag().table();

    let intruder = Rule {
        chain: "from_instance",
        name: "intruder".to_owned(),
        steps: vec![Expression::Decide(Verdict::Accept)],
    };
    world.host.run(|| {
        let change = vec![nft::add_rule(Family::Inet, &table, &intruder, Place::First)];
        Socket::netfilter().unwrap().commit("intrude", change).unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    });
    let expected = [Drift::ForwardingOff, Drift::RulesChanged("from_instance".to_owned())];
    assert_eq!(world.drift(), expected);
    world.host.run(|| ensure_host(&world.config)).unwrap();
    assert_eq!(world.drift(), []);

    world.host.run(|| {
        let anchor = vec![route::delete_link("ins-t0")];
        Socket::route().unwrap().transact("cut the anchor", anchor, |_| {}).unwrap();
    });
    assert_eq!(world.drift(), [Drift::AnchorMissing("ins-t0".to_owned())]);
    world.host.run(|| ensure_host(&world.config)).unwrap();
    world.host.run(|| ensure_host(&world.config)).unwrap();
    assert_eq!(world.drift(), []);
    // The kernel dropped the instance's route together with the anchor's address.
    let live = [here.clone()];
    let swept = world.host.run(|| sweep(&world.config, &live)).unwrap();
    assert_eq!(swept, Swept { restored: 1, ..Swept::default() });
    assert_eq!(world.host.run(|| sweep(&world.config, &live)).unwrap(), Swept::default());
    assert_eq!(world.host.connect((here.address, 80)), Reach::Yes);
}

#[test]
fn a_table_of_another_shape_is_rebuilt_with_its_instances() {
    let Some(world) = World::new() else { return };
    let (_instance, here) = world.instance(2, RED);
    let table = world.config.tag().table();
    // `members` as a map cannot become a set in place.
    world.host.run(|| {
        let members = nft::Set { name: "members", kind: nft::SetKind::NameAndAddressToMark };
        let source = nft::source_element(&here.interface, here.address, RED);
        let mut changes = vec![
            nft::delete_table(Family::Inet, &table),
            nft::add_table(Family::Inet, &table),
            nft::add_set(Family::Inet, &table, rules::SETS[0], 1),
            nft::add_set(Family::Inet, &table, members, 2),
        ];
        changes.extend(nft::add_elements(Family::Inet, &table, rules::SOURCES, &[source]));
        Socket::netfilter().unwrap().commit("age the table", changes).unwrap();
        ensure_host(&world.config).unwrap();
    });
    assert_eq!(world.drift(), []);
    let swept = world.host.run(|| sweep(&world.config, &[here])).unwrap();
    assert_eq!(swept, Swept { restored: 1, ..Swept::default() });
}

/// `type filter hook forward priority 0; policy drop`, as Docker and careful operators have it.
fn dropping_forward_chain(table: &str, user_chain: Option<&'static str>) {
    let forward = nft::Base { kind: "filter", hook: nft::Hook::Forward, priority: 0 };
    let forward = nft::Chain { name: "FORWARD", base: Some(forward) };
    let mut changes = vec![nft::add_table(Family::Ipv4, table)];
    changes.push(nft::add_chain_with_policy(Family::Ipv4, table, forward, Verdict::Drop));
    if let Some(name) = user_chain {
        changes.push(nft::add_chain(Family::Ipv4, table, nft::Chain { name, base: None }));
        let steps = vec![Expression::Decide(Verdict::Jump(name))];
        let jump = Rule { chain: "FORWARD", name: "jump".to_owned(), steps };
        changes.push(nft::add_rule(Family::Ipv4, table, &jump, Place::Last));
    }
    Socket::netfilter().unwrap().commit("make a strict firewall", changes).unwrap();
}

#[test]
fn docker_lets_our_pool_through_and_gets_its_chain_back() {
    let Some(world) = World::new() else { return };
    let (instance, _) = world.instance(2, RED);
    let (blue, here) = world.instance(3, BLUE);
    let _outside = world.outside.listen(Ipv4Addr::UNSPECIFIED, 443);
    let _inside = blue.listen(Ipv4Addr::UNSPECIFIED, 443);
    world.host.run(|| dropping_forward_chain("filter", Some("DOCKER-USER")));
    assert_eq!(world.drift(), [Drift::DockerBlocks]);
    for _ in 0..2 {
        world.host.run(|| ensure_host(&world.config)).unwrap();
    }
    assert_eq!(world.drift(), []);
    assert_eq!(instance.connect((WORLD, 443)), Reach::Yes);
    assert_eq!(instance.connect((here.address, 443)), Reach::Refused, "our own rules still decide");
    assert_eq!(instance.connect((PRIVATE, 443)), Reach::Refused);
    world.host.run(|| teardown_host(&world.config)).unwrap();
    let left = world.host.run(|| {
        let mut left = Vec::new();
        let request = nft::list_rules(Family::Ipv4, "filter");
        Socket::netfilter()
            .unwrap()
            .dump("list", request, |received| left.extend(nft::read_rule("filter", received)))
            .unwrap();
        left
    });
    assert_eq!(left.iter().filter(|rule| rule.chain == "DOCKER-USER").count(), 0);
}

#[test]
fn a_foreign_policy_that_drops_is_reported() {
    let Some(world) = World::new() else { return };
    world.host.run(|| dropping_forward_chain("strict", None));
    let drift = world.drift();
    let expected = Drift::ForeignPolicy { table: "strict".to_owned(), chain: "FORWARD".to_owned() };
    assert_eq!(drift, [expected]);
    assert!(!drift[0].is_ours());
}
