//! Instances of other nodes, as this host shows them to its own.

use std::net::{Ipv4Addr, TcpListener};

use super::{BLUE, RED, Reach, World};
use crate::net::netlink::Socket;
use crate::net::{
    BadConfig, Drift, NetError, RemoteDoor, Swept, ensure_host, nft, set_remotes, sweep,
};

const DOOR: Ipv4Addr = Ipv4Addr::new(10, 87, 192, 7);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 87, 192, 8);

fn door(address: Ipv4Addr, port: u16, environment_mark: u32) -> RemoteDoor {
    RemoteDoor { address, port, environment_mark }
}

impl World {
    fn show(&self, doors: &[RemoteDoor]) {
        self.host.run(|| set_remotes(&self.config, doors)).unwrap();
    }

    fn listen_at(&self, address: Ipv4Addr, port: u16) -> TcpListener {
        self.host.listen(address, port)
    }
}

#[test]
fn only_its_own_environment_reaches_a_remote_instance_and_only_at_its_port() {
    let Some(world) = World::new() else { return };
    let (red, _) = world.instance(2, RED);
    let (blue, _) = world.instance(3, BLUE);
    world.show(&[door(DOOR, 8080, RED), door(OTHER, 8080, BLUE)]);
    let _red_door = world.listen_at(DOOR, 8080);
    let _blue_door = world.listen_at(OTHER, 8080);
    // What the operator runs on the host, at all of its addresses.
    let _host = world.listen_at(Ipv4Addr::UNSPECIFIED, 22);
    assert_eq!(red.connect((DOOR, 8080)), Reach::Yes);
    assert_eq!(blue.connect((OTHER, 8080)), Reach::Yes);
    assert_eq!(red.connect((OTHER, 8080)), Reach::Refused);
    assert_eq!(blue.connect((DOOR, 8080)), Reach::Refused);
    assert_eq!(red.connect((DOOR, 22)), Reach::Refused);
    assert_eq!(red.datagram((DOOR, 8080)), Reach::Refused);
    assert_eq!(red.connect((Ipv4Addr::new(10, 87, 192, 9), 8080)), Reach::Refused);
    assert_eq!(world.outside.connect((DOOR, 8080)), Reach::Refused);
}

#[test]
fn what_a_remote_address_stood_for_is_closed_when_it_stands_for_something_else() {
    let Some(world) = World::new() else { return };
    let (red, _) = world.instance(2, RED);
    let (blue, _) = world.instance(3, BLUE);
    world.show(&[door(DOOR, 8080, RED)]);
    let _listening = world.listen_at(DOOR, 8080);
    assert_eq!(red.connect((DOOR, 8080)), Reach::Yes);
    world.show(&[door(DOOR, 8080, BLUE)]);
    assert_eq!(red.connect((DOOR, 8080)), Reach::Refused);
    assert_eq!(blue.connect((DOOR, 8080)), Reach::Yes);
    world.show(&[]);
    assert_eq!(blue.connect((DOOR, 8080)), Reach::Refused);
    let gone = world.host.run(|| TcpListener::bind((DOOR, 8081)).unwrap_err());
    assert_eq!(gone.raw_os_error(), Some(libc::EADDRNOTAVAIL), "the address is gone as well");
}

#[test]
fn remote_instances_survive_repairs_and_are_put_back_when_somebody_deletes_them() {
    let Some(world) = World::new() else { return };
    let (red, place) = world.instance(2, RED);
    let doors = [door(DOOR, 8080, RED)];
    world.show(&doors);
    let _listening = world.listen_at(DOOR, 8080);
    world.host.run(|| ensure_host(&world.config)).unwrap();
    let swept = world.host.run(|| sweep(&world.config, std::slice::from_ref(&place))).unwrap();
    assert_eq!(swept, Swept::default(), "a remote instance is no leftover");
    assert_eq!(red.connect((DOOR, 8080)), Reach::Yes);

    let table = world.config.tag().table();
    world.host.run(|| {
        let mut firewall = Socket::netfilter().unwrap();
        let flushed = vec![nft::delete_table(nft::Family::Inet, &table)];
        firewall.commit("delete our table", flushed).unwrap();
    });
    assert_eq!(world.drift(), [Drift::TableMissing(table)]);
    world.host.run(|| ensure_host(&world.config)).unwrap();
    world.host.run(|| sweep(&world.config, &[place])).unwrap();
    assert_eq!(red.connect((DOOR, 8080)), Reach::Refused, "closed until it is registered again");
    world.show(&doors);
    assert_eq!(red.connect((DOOR, 8080)), Reach::Yes);
}

#[test]
fn an_address_of_the_instances_is_never_taken_for_a_remote_one() {
    let Some(world) = World::new() else { return };
    for stray in [world.config.gateway(), Ipv4Addr::new(10, 87, 0, 9), Ipv4Addr::new(10, 88, 0, 1)]
    {
        let refused = world.host.run(|| set_remotes(&world.config, &[door(stray, 80, RED)]));
        let refused = refused.unwrap_err();
        assert!(matches!(refused, NetError::Config(BadConfig::Remote(at)) if at == stray));
    }
}
