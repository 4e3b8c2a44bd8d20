//! Brings one instance into the network and out of it again, and clears away what nobody uses.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::config::{Attachment, NetConfig};
use super::error::{NetError, tolerate};
use super::flows;
use super::host::{self, FAMILY};
use super::netlink::Socket;
use super::nft::{self, Element};
use super::route::{self, End, LinkIndex, Mac};
use super::rules::{MEMBERS, SOURCES};
use super::wire::Message;

/// What the instance calls its end of the link.
const INSIDE: &str = "eth0";
const LOOPBACK: &str = "lo";
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// The kernel batches what it notices by the second at the worst.
const RUNNING_WITHIN: Duration = Duration::from_secs(1);
const RUNNING_POLL: Duration = Duration::from_micros(50);

/// Locally administered addresses, made from the instance's: `02` is the host's end, `06` its own.
fn mac(first: u8, address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([first, 0x69, a, b, c, d])
}

const HOST_END: u8 = 0x02;
const INSTANCE_END: u8 = 0x06;

/// Connects the namespace of the process behind `pidfd` (a descriptor of the namespace does as well).
///
/// Moves the calling thread into that namespace and back, so call it where no other work shares the
/// thread. When it fails, everything it made is gone again.
pub fn attach(attachment: &Attachment, pidfd: BorrowedFd<'_>) -> Result<(), NetError> {
    attachment.checked()?;
    let inside = enter(pidfd)?;
    let mut firewall = Socket::netfilter()?;
    // Registered before the link exists: its first packet already has a judge.
    register(attachment, &mut firewall)?;
    connect(attachment, inside).inspect_err(|_| {
        // The first error is the one to tell; what stays behind is found by `sweep`.
        let _ = detach(attachment);
    })
}

/// A socket that acts inside the instance, and the namespace to give the link's far end to.
struct Inside {
    socket: Socket,
    namespace: OwnedFd,
}

fn enter(pidfd: BorrowedFd<'_>) -> Result<Inside, NetError> {
    let home = own_namespace()?;
    move_into_thread_name_spaces(pidfd, ThreadNameSpaceType::NETWORK)
        .map_err(|errno| NetError::Enter(errno.into()))?;
    let opened =
        own_namespace().and_then(|namespace| Ok(Inside { socket: Socket::route()?, namespace }));
    if move_into_thread_name_spaces(home.as_fd(), ThreadNameSpaceType::NETWORK).is_err() {
        // Everything this thread did from here on would happen in a tenant's network.
        std::process::abort();
    }
    opened
}

fn own_namespace() -> Result<OwnedFd, NetError> {
    let file = File::open(OWN_NAMESPACE).map_err(|source| NetError::File {
        doing: "open",
        path: OWN_NAMESPACE.to_owned(),
        source,
    })?;
    Ok(file.into())
}

fn register(attachment: &Attachment, firewall: &mut Socket) -> Result<(), NetError> {
    let table = attachment.tag.table();
    let mut changes = nft::add_elements(FAMILY, &table, SOURCES, &[source(attachment)]);
    changes.extend(nft::add_elements(FAMILY, &table, MEMBERS, &[member(attachment)]));
    let doing = format!("register {}", attachment.address);
    match firewall.commit(&doing, changes) {
        Err(error) if matches!(error.refusal(), Some(libc::EEXIST | libc::EBUSY)) => {
            Err(NetError::AddressTaken { address: attachment.address })
        }
        other => other,
    }
}

fn source(attachment: &Attachment) -> Element {
    nft::source_element(&attachment.interface, attachment.address, attachment.environment_mark)
}

fn member(attachment: &Attachment) -> Element {
    nft::member_element(attachment.address, attachment.environment_mark)
}

fn connect(attachment: &Attachment, mut inside: Inside) -> Result<(), NetError> {
    let Attachment { interface, address, gateway, .. } = attachment;
    let host_mac = mac(HOST_END, *address);
    let instance_mac = mac(INSTANCE_END, *address);
    let near = End { name: interface, mac: host_mac };
    let far = End { name: INSIDE, mac: instance_mac };
    let mut outside = Socket::route()?;

    let create = vec![route::create_veth(near, far, inside.namespace.as_fd())];
    outside.transact(&format!("make the link {interface}"), create, |_| {})?;

    // The end that goes up second carries packets at once, and that is to be the host's.
    let far = up(&mut inside.socket, INSIDE, vec![route::raise_link(LOOPBACK)])?;
    let routes = vec![
        route::add_address(far, *address),
        route::neighbour(*gateway, host_mac, far),
        route::route_to(*gateway, far, None),
        route::default_route(*gateway, far),
    ];
    let doing = format!("give the instance the address {address}");
    inside.socket.transact(&doing, routes, |_| {})?;

    let near = up(&mut outside, interface, Vec::new())?;
    let routes = vec![
        route::neighbour(*address, instance_mac, near),
        route::route_to(*address, near, Some(*gateway)),
    ];
    outside.transact(&format!("route {address} to {interface}"), routes, |_| {})?;
    await_running(&mut inside.socket, INSIDE)
}

/// The end that went up first drops what it is given until the kernel has noticed the other one, usually
/// within microseconds; a program's first packet would be lost, and sent again only a second later.
pub(super) fn await_running(socket: &mut Socket, name: &str) -> Result<(), NetError> {
    let start = Instant::now();
    // Too late is no reason to fail: by then the program's own repetition gets through.
    while start.elapsed() < RUNNING_WITHIN {
        let mut running = false;
        socket.transact("look at a link", vec![route::find_link(name)], |received| {
            running |= route::read_link(received).is_some_and(|link| link.running);
        })?;
        if running {
            break;
        }
        std::thread::sleep(RUNNING_POLL);
    }
    Ok(())
}

/// Brings a link up, without an address of its own choosing, after `first`; says which link it is.
fn up(socket: &mut Socket, name: &str, first: Vec<Message>) -> Result<LinkIndex, NetError> {
    let doing = format!("bring {name} up");
    let mut messages = first;
    if host::ipv6_exists() {
        messages.push(route::no_ipv6_address(name));
    }
    messages.push(route::raise_link(name));
    messages.push(route::find_link(name));
    let mut index = None;
    socket.transact(&doing, messages, |received| {
        if let Some(link) = route::read_link(received) {
            index = Some(link.index);
        }
    })?;
    index.ok_or(NetError::Silent { doing })
}

/// Takes one instance out of the network; what is gone already stays gone.
pub fn detach(attachment: &Attachment) -> Result<(), NetError> {
    attachment.checked()?;
    host::delete_link(&mut Socket::route()?, &attachment.interface)?;
    let mut firewall = Socket::netfilter()?;
    let table = attachment.tag.table();
    let gone = [(SOURCES, vec![source(attachment)]), (MEMBERS, vec![member(attachment)])];
    unregister(&mut firewall, &table, &gone)?;
    flows::forget(&mut firewall, attachment.address)
}

/// In one transaction, or, where some of it was gone already, piece by piece.
fn unregister(
    firewall: &mut Socket,
    table: &str,
    gone: &[(&str, Vec<Element>)],
) -> Result<(), NetError> {
    const MISSING: [i32; 1] = [libc::ENOENT];
    let doing = format!("remove addresses from {table}");
    let messages =
        |set: &str, elements: &[Element]| nft::delete_elements(FAMILY, table, set, elements);
    let all: Vec<_> = gone.iter().flat_map(|(set, elements)| messages(set, elements)).collect();
    if all.is_empty() {
        return Ok(());
    }
    match firewall.commit(&doing, all) {
        Err(error) if error.refusal() == Some(libc::ENOENT) => {}
        other => return other,
    }
    for (set, elements) in gone {
        for element in elements {
            let one = messages(set, std::slice::from_ref(element));
            tolerate(firewall.commit(&doing, one), &MISSING)?;
        }
    }
    Ok(())
}

/// What [`sweep`] found and put right.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Interfaces that nobody used.
    pub interfaces: Vec<String>,
    /// Registrations that nobody used.
    pub stale: usize,
    /// Registrations and routes of live instances that were missing: somebody emptied the table, say, or
    /// the anchor was deleted, which takes along every route that names its address.
    pub restored: usize,
}

/// Makes the host agree with the list of live attachments: what is not on it goes, and a registration that
/// got lost comes back. Needs the table that `ensure_host` makes.
pub fn sweep(config: &NetConfig, live: &[Attachment]) -> Result<Swept, NetError> {
    let live: Vec<_> = live.iter().filter(|it| it.tag == *config.tag()).collect();
    let mut swept = Swept::default();

    let mut routes = Socket::route()?;
    sweep_links(config, &live, &mut routes, &mut swept)?;
    let mut firewall = Socket::netfilter()?;
    sweep_registrations(config, &live, &mut firewall, &mut swept)?;
    Ok(swept)
}

fn sweep_links(
    config: &NetConfig,
    live: &[&Attachment],
    routes: &mut Socket,
    swept: &mut Swept,
) -> Result<(), NetError> {
    let prefix = config.tag().link_prefix();
    for link in host::links(routes)? {
        if !link.name.starts_with(&prefix) {
            continue;
        }
        let Some(user) = live.iter().find(|it| it.interface == link.name) else {
            host::delete_link(routes, &link.name)?;
            swept.interfaces.push(link.name);
            continue;
        };
        let route = route::route_to(user.address, link.index, Some(user.gateway));
        let doing = format!("route {} to {}", user.address, link.name);
        match routes.transact(&doing, vec![route], |_| {}) {
            Err(error) if error.refusal() == Some(libc::EEXIST) => {}
            other => {
                other?;
                swept.restored += 1;
            }
        }
    }
    Ok(())
}

fn sweep_registrations(
    config: &NetConfig,
    live: &[&Attachment],
    firewall: &mut Socket,
    swept: &mut Swept,
) -> Result<(), NetError> {
    type Make = fn(&Attachment) -> Element;
    let table = config.tag().table();
    let mut stale = Vec::new();
    let mut missing = Vec::new();
    for (set, make) in [(SOURCES, source as Make), (MEMBERS, member as Make)] {
        let found: BTreeSet<_> = host::elements(firewall, &table, set)?.into_iter().collect();
        let wanted: BTreeSet<_> = live.iter().map(|it| make(it)).collect();
        stale.push((set, found.difference(&wanted).cloned().collect::<Vec<_>>()));
        missing.push((set, wanted.difference(&found).cloned().collect::<Vec<_>>()));
    }
    let count = |lists: &[(&str, Vec<Element>)]| -> usize {
        lists.iter().map(|(_, elements)| elements.len()).sum()
    };
    unregister(firewall, &table, &stale)?;
    let members =
        stale.iter().filter(|(set, _)| *set == MEMBERS).flat_map(|(_, elements)| elements);
    for address in members.filter_map(nft::member_address) {
        flows::forget(firewall, address)?;
    }
    swept.stale += count(&stale);
    let back: Vec<_> = missing
        .iter()
        .flat_map(|(set, elements)| nft::add_elements(FAMILY, &table, set, elements))
        .collect();
    if !back.is_empty() {
        firewall.commit(&format!("restore addresses in {table}"), back)?;
    }
    swept.restored += count(&missing);
    Ok(())
}
