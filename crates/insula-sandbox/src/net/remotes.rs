//! Addresses of the host that stand for instances of other nodes, and who may reach them.
//!
//! Whoever listens there passes the bytes on; here is only that the host has the address, and that
//! nobody but the instance's own environment gets to it, at that port alone.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::config::{BadConfig, NetConfig};
use super::error::{NetError, tolerate};
use super::flows;
use super::host::{self, FAMILY};
use super::netlink::Socket;
use super::nft::{self, Element};
use super::route::{self, LinkIndex};
use super::rules::REMOTES;

/// One instance of another node, as this host shows it to its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemoteDoor {
    /// Of [`NetConfig::remote_range`].
    pub address: Ipv4Addr,
    pub port: u16,
    pub environment_mark: u32,
}

/// Makes the host show exactly these. May be repeated; what is right already is not touched.
pub fn set_remotes(config: &NetConfig, wanted: &[RemoteDoor]) -> Result<(), NetError> {
    if let Some(stray) = wanted.iter().find(|it| !config.remote_range().contains(it.address)) {
        return Err(BadConfig::Remote(stray.address).into());
    }
    let mut firewall = Socket::netfilter()?;
    let mut routes = Socket::route()?;
    let gone = close(config, wanted, &mut firewall)?;
    let (anchor, shown) = shown(config, &mut routes)?;
    let addresses: BTreeSet<Ipv4Addr> = wanted.iter().map(|it| it.address).collect();
    for address in shown.difference(&addresses) {
        let doing = format!("take {address} off the host");
        let deleted =
            routes.transact(&doing, vec![route::delete_address(anchor, *address)], |_| {});
        tolerate(deleted, &[libc::EADDRNOTAVAIL])?;
    }
    // Who held a connection has no claim on what the address stands for next.
    for address in gone {
        flows::forget(&mut firewall, address)?;
    }
    for address in addresses.difference(&shown) {
        let doing = format!("give the host the address {address}");
        let added = routes.transact(&doing, vec![route::add_address(anchor, *address)], |_| {});
        tolerate(added, &[libc::EEXIST])?;
    }
    Ok(())
}

/// Registers what is wanted and nothing else; says which addresses stand for something else than before.
fn close(
    config: &NetConfig,
    wanted: &[RemoteDoor],
    firewall: &mut Socket,
) -> Result<BTreeSet<Ipv4Addr>, NetError> {
    let table = config.tag().table();
    let found: BTreeSet<Element> = host::elements(firewall, &table, REMOTES)?.into_iter().collect();
    let element = |it: &RemoteDoor| nft::remote_element(it.address, it.port, it.environment_mark);
    let wanted: BTreeSet<Element> = wanted.iter().map(element).collect();
    let stale: Vec<_> = found.difference(&wanted).cloned().collect();
    let missing: Vec<_> = wanted.difference(&found).cloned().collect();
    let mut changes = Vec::new();
    // A list without elements is not one to the kernel.
    if !stale.is_empty() {
        changes.extend(nft::delete_elements(FAMILY, &table, REMOTES, &stale));
    }
    if !missing.is_empty() {
        changes.extend(nft::add_elements(FAMILY, &table, REMOTES, &missing));
    }
    if !changes.is_empty() {
        firewall.commit(&format!("register instances of other nodes in {table}"), changes)?;
    }
    Ok(stale.iter().filter_map(nft::member_address).collect())
}

/// The interface that carries them, and which it has.
fn shown(
    config: &NetConfig,
    routes: &mut Socket,
) -> Result<(LinkIndex, BTreeSet<Ipv4Addr>), NetError> {
    let name = config.tag().anchor();
    let anchor = host::links(routes)?
        .into_iter()
        .find(|link| link.name == name)
        .ok_or_else(|| NetError::Silent { doing: format!("look for {name}") })?
        .index;
    let mut found = BTreeSet::new();
    routes.dump("list the addresses", route::list_addresses(), |received| {
        if let Some((link, address)) = route::read_address(received)
            && link == anchor
            && config.remote_range().contains(address)
        {
            found.insert(address);
        }
    })?;
    Ok((anchor, found))
}
