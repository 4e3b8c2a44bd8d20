//! The host's share of the network: the anchor that carries the gateway's address, forwarding, the table
//! of rules. Put up and taken down; instances come and go in `attach`.

use std::fs;

use super::config::NetConfig;
use super::error::{NetError, tolerate};
use super::netlink::Socket;
use super::nft::{self, ChainSeen, Element, Family, Place, RuleSeen};
use super::route::{self, Link};
use super::rules;
use super::wire::Message;

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6: &str = "/proc/sys/net/ipv6";

/// Tried in this order; an empty bridge carries an address as well as a dummy does, and a kernel lacks one
/// of them more often than both.
const ANCHOR_KINDS: [&str; 2] = ["dummy", "bridge"];

pub(super) const FAMILY: Family = Family::Inet;

/// Makes the host ready for instances. Repeating it changes nothing; rules that somebody changed are
/// replaced in one transaction, and attached instances stay attached.
pub fn ensure_host(config: &NetConfig) -> Result<(), NetError> {
    let mut firewall = Socket::netfilter()?;
    // Rules before forwarding: there is no moment in which packets pass unjudged.
    ensure_rules(config, &mut firewall)?;
    ensure_docker(config, &mut firewall)?;
    ensure_anchor(config)?;
    ensure_nowhere(config)?;
    if !forwarding()? {
        fs::write(FORWARDING, "1")
            .map_err(|source| file("switch on forwarding in", FORWARDING, source))?;
    }
    Ok(())
}

fn ensure_rules(config: &NetConfig, firewall: &mut Socket) -> Result<(), NetError> {
    let table = config.tag().table();
    let doing = format!("write the rules of the table {table}");
    match firewall.commit(&doing, ruleset(config)) {
        // A chain or set of an older shape cannot be changed in place.
        Err(error) if error.refusal().is_some() => rebuild(config, firewall, &doing),
        other => other,
    }
}

/// Everything anew, carrying the registered instances over, still in one transaction.
fn rebuild(config: &NetConfig, firewall: &mut Socket, doing: &str) -> Result<(), NetError> {
    let table = config.tag().table();
    let mut changes = vec![nft::add_table(FAMILY, &table), nft::delete_table(FAMILY, &table)];
    changes.extend(ruleset(config));
    for set in rules::REGISTERS {
        let elements = elements(firewall, &table, set)?;
        if !elements.is_empty() {
            changes.extend(nft::add_elements(FAMILY, &table, set, &elements));
        }
    }
    firewall.commit(doing, changes)
}

fn ruleset(config: &NetConfig) -> Vec<Message> {
    let table = config.tag().table();
    let mut changes = vec![nft::add_table(FAMILY, &table)];
    for (id, set) in (1..).zip(rules::SETS) {
        changes.push(nft::add_set(FAMILY, &table, set, id));
    }
    changes.extend(rules::CHAINS.map(|chain| nft::add_chain(FAMILY, &table, chain)));
    changes.push(nft::delete_rules(FAMILY, &table));
    for rule in rules::rules(config) {
        changes.push(nft::add_rule(FAMILY, &table, &rule, Place::Last));
    }
    changes
}

/// The elements of one of our sets; none when there is no such set.
pub(super) fn elements(
    firewall: &mut Socket,
    table: &str,
    set: &str,
) -> Result<Vec<Element>, NetError> {
    let mut found = Vec::new();
    let request = nft::list_elements(FAMILY, table, set);
    let listed = firewall.dump(&format!("list the set {set} of {table}"), request, |received| {
        found.extend(nft::read_elements(received));
    });
    tolerate(listed, &[libc::ENOENT])?;
    Ok(found)
}

fn ensure_docker(config: &NetConfig, firewall: &mut Socket) -> Result<(), NetError> {
    if !docker_is_here(&chains(firewall)?) {
        return Ok(());
    }
    let wanted = rules::docker_user_rules(config);
    let mut changes = Vec::new();
    let found = docker_rules(config, firewall)?;
    if found.iter().filter_map(|rule| rule.comment.clone()).eq(comments(&wanted)) {
        return Ok(());
    }
    changes.extend(found.iter().map(delete_docker_rule));
    // Put in front one after the other, so the last one sent stands first.
    for rule in wanted.iter().rev() {
        changes.push(nft::add_rule(Family::Ipv4, rules::DOCKER_TABLE, rule, Place::First));
    }
    firewall.commit("let the pool pass Docker's DOCKER-USER chain", changes)
}

fn delete_docker_rule(rule: &RuleSeen) -> Message {
    nft::delete_rule(Family::Ipv4, rules::DOCKER_TABLE, rules::DOCKER_USER, rule.handle)
}

pub(super) fn docker_is_here(chains: &[ChainSeen]) -> bool {
    chains.iter().any(|chain| {
        chain.family == Family::Ipv4
            && chain.table == rules::DOCKER_TABLE
            && chain.name == rules::DOCKER_USER
    })
}

/// The rules in DOCKER-USER that an installation with our tag wrote.
pub(super) fn docker_rules(
    config: &NetConfig,
    firewall: &mut Socket,
) -> Result<Vec<RuleSeen>, NetError> {
    let own = format!("insula {} ", config.tag());
    let mut found = rules_of(firewall, Family::Ipv4, rules::DOCKER_TABLE)?;
    found.retain(|rule| {
        rule.chain == rules::DOCKER_USER
            && rule.comment.as_ref().is_some_and(|comment| comment.starts_with(&own))
    });
    Ok(found)
}

pub(super) fn comments(rules: &[nft::Rule]) -> impl Iterator<Item = String> {
    rules.iter().map(nft::Rule::comment)
}

pub(super) fn chains(firewall: &mut Socket) -> Result<Vec<ChainSeen>, NetError> {
    let mut found = Vec::new();
    let any_family = Family::Other(0);
    firewall.dump(
        "list the chains of all firewalls",
        nft::list_chains(any_family),
        |received| {
            found.extend(nft::read_chain(received));
        },
    )?;
    Ok(found)
}

pub(super) fn rules_of(
    firewall: &mut Socket,
    family: Family,
    table: &str,
) -> Result<Vec<RuleSeen>, NetError> {
    let mut found = Vec::new();
    let request = nft::list_rules(family, table);
    let listed = firewall.dump(&format!("list the rules of {table}"), request, |received| {
        found.extend(nft::read_rule(table, received));
    });
    tolerate(listed, &[libc::ENOENT])?;
    Ok(found)
}

fn ensure_anchor(config: &NetConfig) -> Result<(), NetError> {
    let name = config.tag().anchor();
    let mut socket = Socket::route()?;
    let link = match links(&mut socket)?.into_iter().find(|link| link.name == name) {
        Some(link) => link,
        None => create_anchor(&mut socket, &name)?,
    };
    if !link.up {
        let mut quiet = Vec::new();
        if ipv6_exists() {
            quiet.push(route::no_ipv6_address(&name));
        }
        quiet.push(route::raise_link(&name));
        socket.transact(&format!("bring {name} up"), quiet, |_| {})?;
    }
    let doing = format!("give {name} the address {}", config.gateway());
    let added =
        socket.transact(&doing, vec![route::add_address(link.index, config.gateway())], |_| {});
    tolerate(added, &[libc::EEXIST])
}

fn ensure_nowhere(config: &NetConfig) -> Result<(), NetError> {
    let doing = format!("make the free addresses of {} unreachable", config.pool());
    let made = Socket::route()?.transact(&doing, vec![route::nowhere(config.pool())], |_| {});
    tolerate(made, &[libc::EEXIST])
}

fn create_anchor(socket: &mut Socket, name: &str) -> Result<Link, NetError> {
    let mut last = None;
    for kind in ANCHOR_KINDS {
        let doing = format!("create the {kind} interface {name}");
        let mut made = None;
        let messages = vec![route::create_link(name, kind), route::find_link(name)];
        match socket.transact(&doing, messages, |received| made = route::read_link(received)) {
            Ok(()) => return made.ok_or(NetError::Silent { doing }),
            Err(error) if error.refusal() == Some(libc::EOPNOTSUPP) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    let last = last.unwrap_or(NetError::Silent { doing: format!("create {name}") });
    Err(NetError::NoAnchorKind(Box::new(last)))
}

pub(super) fn links(socket: &mut Socket) -> Result<Vec<Link>, NetError> {
    let mut found = Vec::new();
    socket.dump("list the interfaces", route::list_links(), |received| {
        found.extend(route::read_link(received));
    })?;
    Ok(found)
}

pub(super) fn ipv6_exists() -> bool {
    fs::exists(IPV6).unwrap_or(false)
}

pub(super) fn forwarding() -> Result<bool, NetError> {
    let value =
        fs::read_to_string(FORWARDING).map_err(|source| file("read", FORWARDING, source))?;
    Ok(value.trim() == "1")
}

fn file(doing: &'static str, path: &str, source: std::io::Error) -> NetError {
    NetError::File { doing, path: path.to_owned(), source }
}

/// Takes everything away that [`ensure_host`] and `attach` made under this tag. Forwarding stays on: by
/// now somebody else may rely on it.
pub fn teardown_host(config: &NetConfig) -> Result<(), NetError> {
    let mut socket = Socket::route()?;
    let prefix = config.tag().link_prefix();
    let anchor = config.tag().anchor();
    for link in links(&mut socket)? {
        if link.name.starts_with(&prefix) || link.name == anchor {
            delete_link(&mut socket, &link.name)?;
        }
    }
    let doing = format!("forget the addresses of {}", config.pool());
    let forgotten = socket.transact(&doing, vec![route::not_nowhere(config.pool())], |_| {});
    tolerate(forgotten, &[libc::ESRCH])?;
    let mut firewall = Socket::netfilter()?;
    let docker = docker_rules(config, &mut firewall)?;
    if !docker.is_empty() {
        let changes = docker.iter().map(delete_docker_rule).collect();
        firewall.commit("leave Docker's DOCKER-USER chain", changes)?;
    }
    let table = config.tag().table();
    let changes = vec![nft::add_table(FAMILY, &table), nft::delete_table(FAMILY, &table)];
    firewall.commit(&format!("delete the table {table}"), changes)
}

/// A link that is gone already is as good as deleted.
pub(super) fn delete_link(socket: &mut Socket, name: &str) -> Result<(), NetError> {
    let deleted =
        socket.transact(&format!("delete {name}"), vec![route::delete_link(name)], |_| {});
    tolerate(deleted, &[libc::ENODEV])
}
