//! Instances come and go; nothing is left behind, and nobody else is hurt.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::{BLUE, Namespace, RED, Reach, WORLD, World};
use crate::net::netlink::Socket;
use crate::net::nft::Family;
use crate::net::route::LinkIndex;
use crate::net::{
    Drift, NetConfig, NetError, Swept, attach, detach, ensure_host, nft, route, sweep,
    teardown_host,
};

#[test]
fn a_refusal_carries_the_kernels_own_words() {
    let Some(world) = World::new() else { return };
    let error = world.host.run(|| {
        let nowhere = vec![route::default_route(WORLD, LinkIndex(9_999))];
        Socket::route().unwrap().transact("route to nowhere", nowhere, |_| {}).unwrap_err()
    });
    let NetError::Refused { reason: Some(reason), .. } = &error else { panic!("{error:?}") };
    assert_eq!(error.to_string(), format!("route to nowhere: the kernel refused ({reason})"));
    assert!(reason.contains("evice"), "names the device: {reason}");
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_is_attached_by_its_descriptor() {
    let Some(world) = World::new() else { return };
    // `cat` waits on its pipe, and ends with the test at the latest.
    let instance = Namespace::new().unwrap();
    let spawn = || Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let process = Running(instance.run(|| spawn().unwrap()));
    let pid = rustix::process::Pid::from_child(&process.0);
    let flags = rustix::process::PidfdFlags::empty();
    let pidfd = rustix::process::pidfd_open(pid, flags).unwrap();
    let here = world.attachment(2, RED);
    world.host.run(|| {
        let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        attach(&here, pidfd.as_fd()).unwrap();
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
    });
    let _server = instance.listen(here.address, 80);
    assert_eq!(world.host.connect((here.address, 80)), Reach::Yes);
    let loopback = instance.listen(Ipv4Addr::LOCALHOST, 0).local_addr().unwrap().port();
    assert_ne!(loopback, 0);
    assert_eq!(instance.links().len(), 2 + extra_links(), "lo and eth0");
}

/// Interfaces that some kernels put into every new namespace (tunnels, mostly), `lo` left out.
fn extra_links() -> usize {
    Namespace::new().unwrap().links().len() - 1
}

#[test]
fn attaching_is_all_or_nothing_and_detaching_may_be_repeated() {
    let Some(world) = World::new() else { return };
    let links = world.host.links();
    let (instance, here) = world.instance(2, RED);
    let stranger = Namespace::new().unwrap();
    let error = world.host.run(|| attach(&here, stranger.file.as_fd())).unwrap_err();
    assert!(matches!(error, NetError::AddressTaken { .. }), "{error}");
    let other_mark = world.attachment(2, BLUE);
    let error = world.host.run(|| attach(&other_mark, stranger.file.as_fd())).unwrap_err();
    assert!(matches!(error, NetError::AddressTaken { .. }), "{error}");
    let _server = instance.listen(Ipv4Addr::UNSPECIFIED, 80);
    assert_eq!(world.host.connect((here.address, 80)), Reach::Yes, "the first one is unharmed");

    // The same namespace cannot have a second eth0: refused with the kernel's reason, nothing left.
    let second = world.attachment(9, RED);
    let error = world.host.run(|| attach(&second, instance.file.as_fd())).unwrap_err();
    assert_eq!(error.refusal(), Some(libc::EEXIST), "{error}");
    for _ in 0..2 {
        world.host.run(|| detach(&second)).unwrap();
        world.host.run(|| detach(&here)).unwrap();
    }
    assert_eq!(world.host.links(), links);
    assert_eq!(world.host.run(|| sweep(&world.config, &[])).unwrap(), Swept::default());
    world.instance(2, BLUE);
}

#[test]
fn sweeping_keeps_the_living_and_clears_the_rest() {
    let Some(world) = World::new() else { return };
    let (_kept, keep) = world.instance(2, RED);
    let (_gone, gone) = world.instance(3, RED);
    let live = [keep.clone()];
    let swept = world.host.run(|| sweep(&world.config, &live)).unwrap();
    let expected = Swept { interfaces: vec![gone.interface], stale: 2, restored: 0 };
    assert_eq!(swept, expected);
    assert_eq!(world.host.run(|| sweep(&world.config, &live)).unwrap(), Swept::default());
    assert!(world.host.links().contains(&keep.interface));

    // Somebody flushed the machine's rules.
    world.host.run(|| {
        let table = vec![nft::delete_table(Family::Inet, &world.config.tag().table())];
        Socket::netfilter().unwrap().commit("flush", table).unwrap();
    });
    assert_eq!(world.drift(), [Drift::TableMissing("insula_t".to_owned())]);
    world.host.run(|| ensure_host(&world.config)).unwrap();
    let swept = world.host.run(|| sweep(&world.config, &live)).unwrap();
    assert_eq!(swept, Swept { restored: 2, ..Swept::default() });
}

#[test]
fn tearing_down_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let _instances = [world.instance(2, RED), world.instance(3, BLUE)];
    world.host.run(|| teardown_host(&world.config)).unwrap();
    world.host.run(|| teardown_host(&world.config)).unwrap();
    assert!(!world.host.links().iter().any(|name| name.starts_with("ins-")));
    let tables = world.host.run(|| {
        let mut tables = Vec::new();
        let request = nft::list_tables(Family::Inet);
        Socket::netfilter()
            .unwrap()
            .dump("list", request, |received| tables.extend(nft::read_table(received)))
            .unwrap();
        tables
    });
    assert_eq!(tables, []);
}

#[test]
fn two_installations_do_not_see_each_other() {
    let Some(world) = World::new() else { return };
    let pool = "10.99.0.0/16".parse().unwrap();
    let other = NetConfig::new("t2".parse().unwrap(), pool, Vec::new()).unwrap();
    world.host.run(|| ensure_host(&other)).unwrap();
    let (instance, here) = world.instance(2, RED);
    let neighbour = Namespace::new().unwrap();
    let there = other.attachment(Ipv4Addr::new(10, 99, 0, 2), RED);
    world.host.run(|| attach(&there, neighbour.file.as_fd())).unwrap();
    let _servers = [&instance, &neighbour].map(|it| it.listen(Ipv4Addr::UNSPECIFIED, 80));
    assert_eq!(instance.connect((there.address, 80)), Reach::Refused);
    assert_eq!(neighbour.connect((here.address, 80)), Reach::Refused);
    world.host.run(|| teardown_host(&other)).unwrap();
    assert_eq!(world.drift(), []);
    assert_eq!(world.host.connect((here.address, 80)), Reach::Yes);
}

#[test]
fn a_crowd_is_attached_and_swept() {
    const CROWD: u8 = 40;
    let Some(world) = World::new() else { return };
    let namespaces: Vec<_> = (0..CROWD).map(|_| Namespace::new().unwrap()).collect();
    let mut times = Vec::new();
    for (namespace, last_byte) in namespaces.iter().zip(2..) {
        let attachment = world.attachment(last_byte, RED);
        world.host.run(|| {
            let start = Instant::now();
            attach(&attachment, namespace.file.as_fd()).unwrap();
            times.push(start.elapsed());
        });
    }
    times.sort();
    eprintln!("attach: median {:?}, slowest {:?}", times[times.len() / 2], times[times.len() - 1]);
    let swept = world.host.run(|| sweep(&world.config, &[])).unwrap();
    assert_eq!(swept.interfaces.len(), usize::from(CROWD));
    assert_eq!(swept.stale, 2 * usize::from(CROWD));
}
