//! Whether the host is still as `ensure_host` left it. Looks, and changes nothing.

use std::fs;
use std::net::Ipv4Addr;

use super::config::NetConfig;
use super::error::NetError;
use super::host::{
    FAMILY, chains, comments, docker_is_here, docker_rules, forwarding, links, rules_of,
};
use super::netlink::Socket;
use super::nft::{self, ChainSeen, Family};
use super::route;
use super::rules;

/// Tables of the older iptables, which we cannot see into.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";

/// Where the host is not as [`super::ensure_host`] leaves it.
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
    /// Whether [`super::ensure_host`] puts this right.
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

/// Compares the host with what [`super::ensure_host`] makes of it. Changes nothing.
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
