//! The host's share of the network: the anchor that carries the gateway's address, forwarding, the table
//! of rules. Put up, compared, taken down; instances come and go in `attach`.

use std::fs;
use std::net::Ipv4Addr;

use super::config::NetConfig;
use super::error::{NetError, tolerate};
use super::netlink::Socket;
use super::nft::{self, ChainSeen, Element, Family, Place, RuleSeen};
use super::route::{self, Link};
use super::rules;
use super::wire::Message;

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6: &str = "/proc/sys/net/ipv6";
/// Tables of the older iptables, which we cannot see into.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";

/// Tried in this order; an empty bridge carries an address as well as a dummy does, and a kernel lacks one
/// of them more often than both.
const ANCHOR_KINDS: [&str; 2] = ["dummy", "bridge"];

pub(super) const FAMILY: Family = Family::Inet;

/// Where the host is not as [`ensure_host`] leaves it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Drift {
    #[error("IPv4 forwarding is off (net.ipv4.ip_forward)")]
    ForwardingOff,
    #[error("the interface {0} is missing")]
    AnchorMissing(String),
    #[error("the interface {0} is down")]
    AnchorDown(String),
    #[error("the interface {0} has lost the address {1}")]
    GatewayMissing(String, Ipv4Addr),
    #[error("the table {0} is missing")]
    TableMissing(String),
    #[error("the table {0} is dormant: its rules do nothing")]
    TableDormant(String),
    #[error("the chain {0} is missing")]
    ChainMissing(String),
    #[error("the chain {0} hangs elsewhere or has another policy")]
    ChainChanged(String),
    #[error("the set {0} is missing")]
    SetMissing(String),
    #[error("the rules of the chain {0} are not ours or not in our order")]
    RulesChanged(String),
    #[error("Docker's chain DOCKER-USER does not let our pool through")]
    DockerBlocks,
    /// Cannot be put right by us: an accept in one table does not override a drop in another.
    #[error(
        "the chain {chain} of the table {table} drops forwarded packets by its policy; accept the pool there"
    )]
    ForeignPolicy { table: String, chain: String },
    /// Cannot be seen into by us.
    #[error(
        "iptables-legacy has a filter table; make sure that its FORWARD chain accepts the pool"
    )]
    LegacyFirewall,
}

impl Drift {
    /// Whether [`ensure_host`] puts this right.
    pub fn is_ours(&self) -> bool {
        match self {
            Self::ForeignPolicy { .. } | Self::LegacyFirewall => false,
            Self::ForwardingOff
            | Self::AnchorMissing(_)
            | Self::AnchorDown(_)
            | Self::GatewayMissing(..)
            | Self::TableMissing(_)
            | Self::TableDormant(_)
            | Self::ChainMissing(_)
            | Self::ChainChanged(_)
            | Self::SetMissing(_)
            | Self::RulesChanged(_)
            | Self::DockerBlocks => true,
        }
    }
}

/// Makes the host ready for instances. Repeating it changes nothing; rules that somebody changed are
/// replaced in one transaction, and attached instances stay attached.
pub fn ensure_host(config: &NetConfig) -> Result<(), NetError> {
    let mut firewall = Socket::netfilter()?;
    // Rules before forwarding: there is no moment in which packets pass unjudged.
    ensure_rules(config, &mut firewall)?;
    ensure_docker(config, &mut firewall)?;
    ensure_anchor(config)?;
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

fn docker_is_here(chains: &[ChainSeen]) -> bool {
    chains.iter().any(|chain| {
        chain.family == Family::Ipv4
            && chain.table == rules::DOCKER_TABLE
            && chain.name == rules::DOCKER_USER
    })
}

/// The rules in DOCKER-USER that an installation with our tag wrote.
fn docker_rules(config: &NetConfig, firewall: &mut Socket) -> Result<Vec<RuleSeen>, NetError> {
    let own = format!("insula {} ", config.tag());
    let mut found = rules_of(firewall, Family::Ipv4, rules::DOCKER_TABLE)?;
    found.retain(|rule| {
        rule.chain == rules::DOCKER_USER
            && rule.comment.as_ref().is_some_and(|comment| comment.starts_with(&own))
    });
    Ok(found)
}

fn comments(rules: &[nft::Rule]) -> impl Iterator<Item = String> {
    rules.iter().map(nft::Rule::comment)
}

fn chains(firewall: &mut Socket) -> Result<Vec<ChainSeen>, NetError> {
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

fn rules_of(firewall: &mut Socket, family: Family, table: &str) -> Result<Vec<RuleSeen>, NetError> {
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

fn forwarding() -> Result<bool, NetError> {
    let value =
        fs::read_to_string(FORWARDING).map_err(|source| file("read", FORWARDING, source))?;
    Ok(value.trim() == "1")
}

fn file(doing: &'static str, path: &str, source: std::io::Error) -> NetError {
    NetError::File { doing, path: path.to_owned(), source }
}

/// Compares the host with what [`ensure_host`] makes of it. Changes nothing.
pub fn check_host(config: &NetConfig) -> Result<Vec<Drift>, NetError> {
    let mut drifts = Vec::new();
    if !forwarding()? {
        drifts.push(Drift::ForwardingOff);
    }
    check_anchor(config, &mut drifts)?;
    let mut firewall = Socket::netfilter()?;
    let chains = chains(&mut firewall)?;
    check_table(config, &mut firewall, &chains, &mut drifts)?;
    check_others(config, &mut firewall, &chains, &mut drifts)?;
    Ok(drifts)
}

fn check_anchor(config: &NetConfig, drifts: &mut Vec<Drift>) -> Result<(), NetError> {
    let name = config.tag().anchor();
    let mut socket = Socket::route()?;
    let Some(link) = links(&mut socket)?.into_iter().find(|link| link.name == name) else {
        drifts.push(Drift::AnchorMissing(name));
        return Ok(());
    };
    if !link.up {
        drifts.push(Drift::AnchorDown(name.clone()));
    }
    let mut found = false;
    socket.dump("list the addresses", route::list_addresses(), |received| {
        found |= route::read_address(received) == Some((link.index, config.gateway()));
    })?;
    if !found {
        drifts.push(Drift::GatewayMissing(name, config.gateway()));
    }
    Ok(())
}

fn check_table(
    config: &NetConfig,
    firewall: &mut Socket,
    chains: &[ChainSeen],
    drifts: &mut Vec<Drift>,
) -> Result<(), NetError> {
    let table = config.tag().table();
    let mut awake = None;
    firewall.dump("list the tables", nft::list_tables(FAMILY), |received| {
        if let Some((name, is_awake)) = nft::read_table(received)
            && name == table
        {
            awake = Some(is_awake);
        }
    })?;
    match awake {
        None => {
            drifts.push(Drift::TableMissing(table));
            return Ok(());
        }
        Some(false) => drifts.push(Drift::TableDormant(table.clone())),
        Some(true) => {}
    }

    let mut sets = Vec::new();
    firewall.dump("list the sets", nft::list_sets(FAMILY, &table), |received| {
        sets.extend(nft::read_set(received));
    })?;
    let missing = rules::SETS.iter().filter(|set| !sets.iter().any(|name| name == set.name));
    drifts.extend(missing.map(|set| Drift::SetMissing(set.name.to_owned())));

    let seen = rules_of(firewall, FAMILY, &table)?;
    let wanted = rules::rules(config);
    for chain in rules::CHAINS {
        check_chain(chain, &table, chains, drifts);
        let in_chain = seen.iter().filter(|rule| rule.chain == chain.name);
        let wanted = wanted.iter().filter(|rule| rule.chain == chain.name);
        let as_wanted =
            in_chain.map(|rule| rule.comment.clone()).eq(wanted.map(|rule| Some(rule.comment())));
        if !as_wanted {
            drifts.push(Drift::RulesChanged(chain.name.to_owned()));
        }
    }
    Ok(())
}

fn check_chain(wanted: nft::Chain, table: &str, seen: &[ChainSeen], drifts: &mut Vec<Drift>) {
    let found = seen
        .iter()
        .find(|chain| chain.family == FAMILY && chain.table == table && chain.name == wanted.name);
    let Some(found) = found else {
        drifts.push(Drift::ChainMissing(wanted.name.to_owned()));
        return;
    };
    let hook = wanted.base.map(|base| (base.hook.number(), base.priority));
    let kind = wanted.base.map(|base| base.kind);
    if found.hook != hook || found.kind.as_deref() != kind || !found.accepts {
        drifts.push(Drift::ChainChanged(wanted.name.to_owned()));
    }
}

/// What other firewalls on this machine do to our packets.
fn check_others(
    config: &NetConfig,
    firewall: &mut Socket,
    chains: &[ChainSeen],
    drifts: &mut Vec<Drift>,
) -> Result<(), NetError> {
    let docker = docker_is_here(chains);
    if docker {
        let found = docker_rules(config, firewall)?;
        let wanted = rules::docker_user_rules(config);
        if !found.into_iter().filter_map(|rule| rule.comment).eq(comments(&wanted)) {
            drifts.push(Drift::DockerBlocks);
        }
    }
    let sees_ipv4 = |family| matches!(family, Family::Inet | Family::Ipv4);
    for chain in chains {
        let forwards = chain.hook.is_some_and(|(hook, _)| hook == nft::Hook::Forward.number());
        let handled = docker && chain.family == Family::Ipv4 && chain.table == rules::DOCKER_TABLE;
        if forwards && !chain.accepts && sees_ipv4(chain.family) && !handled {
            drifts.push(Drift::ForeignPolicy {
                table: chain.table.clone(),
                chain: chain.name.clone(),
            });
        }
    }
    // Absent on a kernel without the old tables.
    if fs::read_to_string(LEGACY_TABLES).is_ok_and(|names| names.lines().any(|it| it == "filter")) {
        drifts.push(Drift::LegacyFirewall);
    }
    Ok(())
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
