//! Who reaches whom, and who is refused at once.

use std::net::{Ipv4Addr, UdpSocket};

use super::{BLUE, METADATA, OPENED, PRIVATE, RED, Reach, SILENCE, UNUSED, UPLINK, WORLD, World};
use crate::net::netlink::Socket;
use crate::net::nft::Family;
use crate::net::{Attachment, Swept, detach, nft, route, rules, sweep};

#[test]
fn components_of_one_environment_reach_each_other_and_others_are_refused() {
    let Some(world) = World::new() else { return };
    let (red, _) = world.instance(2, RED);
    let (red_too, here) = world.instance(3, RED);
    let (blue, _) = world.instance(4, BLUE);
    let _server = red_too.listen(Ipv4Addr::UNSPECIFIED, 8080);
    assert_eq!(red.connect((here.address, 8080)), Reach::Yes);
    assert_eq!(blue.connect((here.address, 8080)), Reach::Refused);
    assert_eq!(blue.datagram((here.address, 8080)), Reach::Refused);
    assert_eq!(world.host.connect((here.address, 8080)), Reach::Yes, "gateway and probes");
}

#[test]
fn an_address_with_a_new_owner_is_closed_to_old_connections() {
    let Some(world) = World::new() else { return };
    let (red, _) = world.instance(2, RED);
    let (old, old_place) = world.instance(3, RED);
    let reader = old.run(|| UdpSocket::bind("0.0.0.0:9000").unwrap());
    let sender = red.run(|| UdpSocket::bind("0.0.0.0:9001").unwrap());
    sender.send_to(b"old", (old_place.address, 9000)).unwrap();
    reader.set_read_timeout(Some(SILENCE)).unwrap();
    reader.recv_from(&mut [0; 16]).unwrap();

    world.host.run(|| detach(&old_place)).unwrap();
    let (new, new_place) = world.instance(3, BLUE);
    let reader = new.run(|| UdpSocket::bind("0.0.0.0:9000").unwrap());
    reader.set_read_timeout(Some(SILENCE)).unwrap();
    // Either refused right away by an answer, or on its way: in both cases it must not arrive.
    let _ = sender.send_to(b"stale", (new_place.address, 9000));
    let host = world.host.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    host.send_to(b"from the host", (new_place.address, 9000)).unwrap();
    let mut buffer = [0; 16];
    let (length, _) = reader.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"from the host");
}

#[test]
fn the_outside_cannot_talk_on_to_the_next_owner_of_an_address() {
    let Some(world) = World::new() else { return };
    let conspirator = world.outside.run(|| UdpSocket::bind("0.0.0.0:9000").unwrap());
    conspirator.set_read_timeout(Some(SILENCE)).unwrap();
    for leave in [
        (|world, here| world.host.run(|| detach(here)).unwrap()) as fn(&World, &Attachment),
        |world, _| drop(world.host.run(|| sweep(&world.config, &[])).unwrap()),
    ] {
        let (old, here) = world.instance(2, RED);
        let sender = old.run(|| UdpSocket::bind("0.0.0.0:5353").unwrap());
        sender.send_to(b"open", (WORLD, 9000)).unwrap();
        let (_, hole) = conspirator.recv_from(&mut [0; 16]).unwrap();
        leave(&world, &here);

        let (new, here) = world.instance(2, BLUE);
        let victim = new.run(|| UdpSocket::bind("0.0.0.0:5353").unwrap());
        victim.set_read_timeout(Some(SILENCE)).unwrap();
        conspirator.send_to(b"stale", hole).unwrap();
        let host = world.host.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        host.send_to(b"from the host", (here.address, 5353)).unwrap();
        let mut buffer = [0; 16];
        let (length, _) = victim.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"from the host");
        world.host.run(|| detach(&here)).unwrap();
    }
}

#[test]
fn an_address_that_nobody_has_is_nowhere_for_the_host() {
    let Some(world) = World::new() else { return };
    let (instance, attachment) = world.instance(2, RED);
    let _listening = instance.listen(Ipv4Addr::UNSPECIFIED, 80);
    let free =
        std::net::SocketAddr::from((Ipv4Addr::from_bits(attachment.address.to_bits() + 5), 80));
    let refused = world.host.run(|| std::net::TcpStream::connect(free).unwrap_err());
    let unreachable = [libc::EHOSTUNREACH, libc::ENETUNREACH];
    assert!(refused.raw_os_error().is_some_and(|code| unreachable.contains(&code)), "{refused}");
    let taken = std::net::SocketAddr::from((attachment.address, 80));
    world.host.run(|| std::net::TcpStream::connect(taken).map(drop)).unwrap();
}

#[test]
fn the_host_answers_names_and_nothing_else() {
    let Some(world) = World::new() else { return };
    let (instance, _) = world.instance(2, RED);
    let gateway = world.config.gateway();
    let _ports = [53, 22, 8080].map(|port| world.host.listen(Ipv4Addr::UNSPECIFIED, port));
    assert_eq!(instance.connect((gateway, 53)), Reach::Yes);
    for closed in [(gateway, 22), (gateway, 8080), (UPLINK, 8080), (UPLINK, 53)] {
        assert_eq!(instance.connect(closed), Reach::Refused, "{closed:?}");
    }
    assert_eq!(instance.datagram((gateway, 123)), Reach::Refused);

    let resolver = world.host.run(|| UdpSocket::bind((gateway, 53)).unwrap());
    resolver.set_read_timeout(Some(SILENCE)).unwrap();
    let asker = instance.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    asker.set_read_timeout(Some(SILENCE)).unwrap();
    asker.send_to(b"name?", (gateway, 53)).unwrap();
    let (_, from) = resolver.recv_from(&mut [0; 16]).unwrap();
    resolver.send_to(b"name!", from).unwrap();
    assert_eq!(asker.recv_from(&mut [0; 16]).unwrap().0, 5);
}

#[test]
fn the_world_is_reached_through_nat_and_private_ranges_only_when_opened() {
    let Some(world) = World::new() else { return };
    let (instance, _) = world.instance(2, RED);
    let server = world.outside.listen(Ipv4Addr::UNSPECIFIED, 443);
    assert_eq!(instance.connect((WORLD, 443)), Reach::Yes);
    let (_, peer) = server.accept().unwrap();
    assert_eq!(peer.ip(), UPLINK, "the address of the pool stays inside");
    assert_eq!(instance.connect((OPENED, 443)), Reach::Yes);
    for closed in [PRIVATE, METADATA, UNUSED] {
        assert_eq!(instance.connect((closed, 443)), Reach::Refused, "{closed}");
        assert_eq!(instance.datagram((closed, 443)), Reach::Refused, "{closed}");
    }
}

#[test]
fn the_world_does_not_get_in() {
    let Some(world) = World::new() else { return };
    let (instance, here) = world.instance(2, RED);
    let _server = instance.listen(Ipv4Addr::UNSPECIFIED, 8080);
    assert_eq!(world.outside.connect((here.address, 8080)), Reach::Refused);
    assert_eq!(world.outside.datagram((here.address, 8080)), Reach::Refused);
}

#[test]
fn a_borrowed_source_address_goes_nowhere() {
    let Some(world) = World::new() else { return };
    let (liar, here) = world.instance(2, BLUE);
    let (_, red) = world.instance(3, RED);
    let (victim, target) = world.instance(4, RED);
    let eth0 = liar.link("eth0");
    for stolen in [red.address, Ipv4Addr::new(8, 8, 8, 8)] {
        liar.run(|| {
            let message = vec![route::add_address(eth0, stolen)];
            Socket::route().unwrap().transact("steal an address", message, |_| {}).unwrap();
        });
    }
    let inside = victim.run(|| UdpSocket::bind("0.0.0.0:9000").unwrap());
    let outside = world.outside.run(|| UdpSocket::bind("0.0.0.0:9000").unwrap());
    for receiver in [&inside, &outside] {
        receiver.set_read_timeout(Some(SILENCE)).unwrap();
    }
    for stolen in [red.address, Ipv4Addr::new(8, 8, 8, 8)] {
        let socket = liar.run(|| UdpSocket::bind((stolen, 0)).unwrap());
        for to in [target.address, WORLD] {
            let _ = socket.send_to(b"lie", (to, 9000));
        }
    }
    let honest = liar.run(|| UdpSocket::bind((here.address, 0)).unwrap());
    honest.send_to(b"truth", (WORLD, 9000)).unwrap();
    let host = world.host.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    host.send_to(b"truth", (target.address, 9000)).unwrap();
    for receiver in [inside, outside] {
        let mut buffer = [0; 16];
        let (length, _) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"truth", "nothing came before it");
    }
}

#[test]
fn an_interface_that_nobody_registered_gets_nowhere() {
    let Some(world) = World::new() else { return };
    let (instance, here) = world.instance(2, RED);
    let (_, other) = world.instance(3, RED);
    let server = world.outside.run(|| UdpSocket::bind("0.0.0.0:443").unwrap());
    server.set_read_timeout(Some(SILENCE)).unwrap();
    let client = instance.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    world.host.run(|| {
        let table = world.config.tag().table();
        let source = nft::source_element(&here.interface, here.address, RED);
        let change = nft::delete_elements(Family::Inet, &table, rules::SOURCES, &[source]);
        Socket::netfilter().unwrap().commit("forget it", change).unwrap();
    });
    client.send_to(b"forgotten", (WORLD, 443)).unwrap();

    // Remembered again by the next sweep.
    let swept = world.host.run(|| sweep(&world.config, &[here, other])).unwrap();
    assert_eq!(swept, Swept { restored: 1, ..Swept::default() });
    client.send_to(b"remembered", (WORLD, 443)).unwrap();
    let mut buffer = [0; 16];
    let (length, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"remembered", "nothing came before it");
}

#[test]
fn a_flood_of_flows_is_refused_to_the_one_who_makes_it() {
    let Some(world) = World::new() else { return };
    let (flooder, here) = world.instance(2, RED);
    let (neighbour, _) = world.instance(3, RED);
    let _server = world.outside.listen(Ipv4Addr::UNSPECIFIED, 443);
    let _inside = flooder.listen(Ipv4Addr::UNSPECIFIED, 80);
    let names = (world.config.gateway(), 53);
    let _resolver = world.host.listen(names.0, names.1);
    assert_eq!(flooder.connect((WORLD, 443)), Reach::Yes);
    assert_eq!(flooder.connect(names), Reach::Yes);
    let flood = flooder.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let ports = u16::try_from(rules::FLOWS_PER_INSTANCE_MAX).unwrap();
    for port in 1..=ports {
        // The outside says "port unreachable" to many of them; that is as good.
        let _ = flood.send_to(b"!", (WORLD, 1_000 + port));
    }
    assert_eq!(flooder.connect((WORLD, 443)), Reach::Refused);
    assert_eq!(flooder.connect(names), Reach::Refused);
    assert_eq!(neighbour.connect((WORLD, 443)), Reach::Yes);
    assert_eq!(world.host.connect((here.address, 80)), Reach::Yes, "it still serves");
}

#[test]
fn a_flood_of_questions_is_refused_before_the_resolvers_queue() {
    let Some(world) = World::new() else { return };
    let (flooder, _) = world.instance(2, RED);
    let (neighbour, _) = world.instance(3, RED);
    let names = (world.config.gateway(), 53);
    let resolver = world.host.run(|| UdpSocket::bind(names).unwrap());
    resolver.set_read_timeout(Some(SILENCE)).unwrap();
    let flood = flooder.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    flood.connect(names).unwrap();
    // The first question is answered, so that the rest belongs to a known flow.
    flood.send(b"first").unwrap();
    let (_, from) = resolver.recv_from(&mut [0; 16]).unwrap();
    resolver.send_to(b"answer", from).unwrap();
    flood.recv(&mut [0; 16]).unwrap();
    // Whatever the time this takes, a refusal comes before ten times the burst is through.
    let refused = (0..10 * rules::QUESTIONS_BURST).any(|_| flood.send(b"flood").is_err());
    assert!(refused);

    resolver.set_nonblocking(true).unwrap();
    while resolver.recv_from(&mut [0; 16]).is_ok() {}
    resolver.set_nonblocking(false).unwrap();
    let asker = neighbour.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    asker.send_to(b"neighbour", names).unwrap();
    let mut buffer = [0; 16];
    let (length, _) = resolver.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"neighbour");
}
