//! Attacks on the rules, in a small world of namespaces: a host, an outside, and instances.
//!
//! Every namespace belongs to the test, so the machine's own network is never touched. A thread enters a
//! namespace for one piece of work and ends; sockets stay where they were opened.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use super::attach::await_running;
use super::netlink::Socket;
use super::nft::{self, Expression, Family, Place, Rule, Verdict};
use super::route::{self, End, LinkIndex, Mac};
use super::{
    Attachment, Drift, NetConfig, NetError, Swept, attach, check_host, detach, ensure_host, host,
    rules, sweep, teardown_host,
};

/// Only a packet that nobody answers waits this long; then the test fails.
const SILENCE: Duration = Duration::from_secs(5);

const UPLINK: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 1);
const WORLD: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
const OPENED: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const UNUSED: Ipv4Addr = Ipv4Addr::new(10, 87, 200, 200);

const RED: u32 = 1;
const BLUE: u32 = 2;

struct Namespace {
    file: File,
}

impl Namespace {
    fn new() -> Result<Self, rustix::io::Errno> {
        std::thread::scope(|scope| {
            let born = scope.spawn(|| {
                // SAFETY: only the network namespace of this short-lived thread changes; descriptors,
                // memory and the file system stay shared.
                #[allow(unsafe_code)]
                unsafe {
                    rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)?;
                }
                Ok(Self { file: File::open("/proc/thread-self/ns/net").unwrap() })
            });
            born.join().unwrap()
        })
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let network = ThreadNameSpaceType::NETWORK;
                move_into_thread_name_spaces(self.file.as_fd(), network).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn listen(&self, address: Ipv4Addr, port: u16) -> TcpListener {
        self.run(|| TcpListener::bind((address, port)).unwrap())
    }

    fn connect(&self, to: (Ipv4Addr, u16)) -> Reach {
        let to = SocketAddrV4::new(to.0, to.1).into();
        self.run(|| match TcpStream::connect_timeout(&to, SILENCE) {
            Ok(_) => Reach::Yes,
            Err(error) if error.kind() == ErrorKind::TimedOut => Reach::Silence,
            Err(_) => Reach::Refused,
        })
    }

    /// A datagram, and whether a refusal comes back for it.
    fn datagram(&self, to: (Ipv4Addr, u16)) -> Reach {
        self.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(SILENCE)).unwrap();
            socket.connect(to).unwrap();
            socket.send(b"?").unwrap();
            match socket.recv(&mut [0; 16]) {
                Ok(_) => Reach::Yes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Reach::Silence,
                Err(_) => Reach::Refused,
            }
        })
    }

    fn links(&self) -> Vec<String> {
        self.run(|| {
            let links = host::links(&mut Socket::route().unwrap()).unwrap();
            links.into_iter().map(|link| link.name).collect()
        })
    }

    fn link(&self, name: &str) -> LinkIndex {
        self.run(|| {
            let links = host::links(&mut Socket::route().unwrap()).unwrap();
            links.into_iter().find(|link| link.name == name).unwrap().index
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Yes,
    Refused,
    Silence,
}

struct World {
    config: NetConfig,
    host: Namespace,
    outside: Namespace,
}

impl World {
    /// `None` where namespaces cannot be made; says so, or fails when everything has to be tested.
    fn new() -> Option<Self> {
        let made = Namespace::new().and_then(|host| Ok((host, Namespace::new()?)));
        let (host, outside) = match made {
            Ok(made) => made,
            Err(errno) => {
                let all = std::env::var_os("INSULA_TEST_ALL").is_some_and(|value| value == "1");
                assert!(!all, "no network namespaces: {errno}");
                eprintln!("SKIPPED: needs root to make network namespaces ({errno})");
                return None;
            }
        };
        let open = vec!["192.168.77.0/24".parse().unwrap()];
        let config = NetConfig::new("t".parse().unwrap(), NetConfig::default_pool(), open).unwrap();
        let world = Self { config, host, outside };
        world.wire_up();
        world.host.run(|| ensure_host(&world.config)).unwrap();
        Some(world)
    }

    /// host up0 9.9.9.1 ── eth0 outside, which has an address of every kind, and a route to our pool.
    fn wire_up(&self) {
        let everywhere = [WORLD, PRIVATE, OPENED, METADATA, UNUSED];
        let far = self.outside.file.as_fd();
        self.host.run(|| {
            let near = End { name: "up0", mac: Mac([2, 0, 0, 0, 0, 1]) };
            let eth0 = End { name: "eth0", mac: Mac([2, 0, 0, 0, 0, 2]) };
            let made = vec![route::create_veth(near, eth0, far), route::raise_link("up0")];
            Socket::route().unwrap().transact("make the uplink", made, |_| {}).unwrap();
        });
        let (up0, eth0) = (self.host.link("up0"), self.outside.link("eth0"));
        self.host.run(|| {
            let mut messages = vec![route::add_address(up0, UPLINK)];
            messages.extend(everywhere.map(|address| route::route_to(address, up0, None)));
            Socket::route().unwrap().transact("route the uplink", messages, |_| {}).unwrap();
        });
        self.outside.run(|| {
            let mut messages = vec![route::raise_link("lo"), route::raise_link("eth0")];
            messages.extend(everywhere.map(|address| route::add_address(eth0, address)));
            messages.push(route::route_to(UPLINK, eth0, None));
            messages.push(route::default_route(UPLINK, eth0));
            Socket::route().unwrap().transact("make the outside", messages, |_| {}).unwrap();
        });
        self.host.run(|| await_running(&mut Socket::route().unwrap(), "up0")).unwrap();
    }

    fn instance(&self, last_byte: u8, environment: u32) -> (Namespace, Attachment) {
        let instance = Namespace::new().unwrap();
        let attachment = self.attachment(last_byte, environment);
        self.host.run(|| attach(&attachment, instance.file.as_fd())).unwrap();
        (instance, attachment)
    }

    fn attachment(&self, last_byte: u8, environment: u32) -> Attachment {
        self.config.attachment(Ipv4Addr::new(10, 87, 0, last_byte), environment)
    }

    fn drift(&self) -> Vec<Drift> {
        self.host.run(|| check_host(&self.config)).unwrap()
    }
}

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

/// Asking iptables-legacy about its filter table is what makes the kernel set it up.
#[test]
fn an_older_firewall_that_cannot_be_seen_into_is_reported() {
    use std::os::fd::AsRawFd;
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
