//! Attacks on the rules, in a small world of namespaces: a host, an outside, and instances.
//!
//! Every namespace belongs to the test, so the machine's own network is never touched. A thread enters a
//! namespace for one piece of work and ends; sockets stay where they were opened.

mod firewalls;
mod lives;
mod remotes;
mod traffic;

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use super::attach::await_running;
use super::netlink::Socket;
use super::route::{self, End, LinkIndex, Mac};
use super::{Attachment, Drift, NetConfig, attach, check_host, ensure_host, host};

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
