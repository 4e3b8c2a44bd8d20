//! The rules between instances, the host and the world, as data.
//!
//! Pure: `host` puts them into the kernel, `check_host` compares. Packets of instances are recognised by
//! the name of their interface; one whose interface or address nobody registered gets nowhere.

use super::config::{Ipv4Cidr, NetConfig};
use super::nft::{
    AddressOf, Base, Chain, Expression, Hook, Meta, Register, Rule, Set, SetKind, Verdict,
    in_range, load_address,
};

/// Interface . address → mark of the environment: who may send what from where.
pub(super) const SOURCES: &str = "sources";
/// Address . mark: who may be reached from which environment.
pub(super) const MEMBERS: &str = "members";

/// Address of ours . port . mark: which instance of another node may be reached from which environment.
pub(super) const REMOTES: &str = "remotes";

/// Address → how many flows it has open.
const FLOWS: &str = "flows";

/// Tracked flows of one instance; some 130 new connections a second without reuse. The kernel's table has
/// 262,144 places for the whole machine, and who could fill it would cut off everybody.
pub(super) const FLOWS_PER_INSTANCE_MAX: u32 = 16_384;

/// Address → how fast it asks for names.
const QUESTIONS: &str = "questions";

/// By UDP, from one instance: far more than a program asks, and a fraction of what the resolver answers.
/// Its queue is everybody's, so the flood has to end before it.
const QUESTIONS_PER_SECOND_MAX: u64 = 1_000;
/// A program that starts and looks up all that it needs at once.
pub(super) const QUESTIONS_BURST: u32 = 500;

/// Where attachments and remote instances are registered; the only sets whose elements we write.
pub(super) const REGISTERS: [&str; 3] = [SOURCES, MEMBERS, REMOTES];

pub(super) const SETS: [Set; 5] = [
    Set { name: SOURCES, kind: SetKind::NameAndAddressToMark },
    Set { name: MEMBERS, kind: SetKind::AddressAndMark },
    Set { name: REMOTES, kind: SetKind::AddressPortAndMark },
    Set { name: FLOWS, kind: SetKind::CountedAddress },
    Set { name: QUESTIONS, kind: SetKind::CountedAddress },
];

const FROM_INSTANCE: &str = "from_instance";
const REFUSE: &str = "refuse";
const PREROUTING: &str = "prerouting";
const INPUT: &str = "input";
const FORWARD: &str = "forward";
const POSTROUTING: &str = "postrouting";

const PRIORITY_RAW: i32 = -300;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE_NAT: i32 = 100;

/// Those that are jumped to come first: a rule may only name a chain that is there.
pub(super) const CHAINS: [Chain; 6] = [
    Chain { name: REFUSE, base: None },
    Chain { name: FROM_INSTANCE, base: None },
    base(PREROUTING, "filter", Hook::PreRouting, PRIORITY_RAW),
    base(INPUT, "filter", Hook::Input, PRIORITY_FILTER),
    base(FORWARD, "filter", Hook::Forward, PRIORITY_FILTER),
    base(POSTROUTING, "nat", Hook::PostRouting, PRIORITY_SOURCE_NAT),
];

const fn base(name: &'static str, kind: &'static str, hook: Hook, priority: i32) -> Chain {
    Chain { name, base: Some(Base { kind, hook, priority }) }
}

/// What is not the public internet (IANA's special-purpose registry), and where clouds keep the
/// credentials of the machine. `open` in the configuration makes exceptions.
const RESERVED: [&str; 16] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10", // carrier NAT; Alibaba's metadata at 100.100.100.200
    "127.0.0.0/8",
    "168.63.129.16/32", // Azure's host agent
    "169.254.0.0/16",   // link-local; everybody else's metadata
    "172.16.0.0/12",
    "192.0.0.0/24", // Oracle's metadata at 192.0.0.192
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

const DNS_PORT: u16 = 53;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const ICMP_ECHO_REQUEST: u8 = 8;

const STATE_INVALID: u32 = 1;
const STATE_ESTABLISHED: u32 = 2;
const STATE_RELATED: u32 = 4;
const STATE_NEW: u32 = 8;

/// All rules of our table, in the order in which they are to stand in their chains.
pub(super) fn rules(config: &NetConfig) -> Vec<Rule> {
    let ours = Ours { prefix: config.tag().link_prefix() };
    let mut rules = Vec::new();
    prerouting(&ours, &mut rules);
    input(&ours, config, &mut rules);
    forward(&ours, &mut rules);
    from_instance(&ours, config, &mut rules);
    refuse(&mut rules);
    postrouting(&ours, config, &mut rules);
    rules
}

/// Before connection tracking: a packet from an instance has the address that its interface was given,
/// and is IPv4, or it is gone. No answer: a liar is owed none.
fn prerouting(ours: &Ours, rules: &mut Vec<Rule>) {
    add(rules, PREROUTING, "not-ours", [ours.not_incoming(), vec![accept()]]);
    // Unmarked again at once: the mark could mean something to the routing that follows.
    let true_source = [ipv4(), mark_by_source(), unmark(), vec![accept()]];
    add(rules, PREROUTING, "true-source", true_source);
    add(rules, PREROUTING, "spoofed", [vec![Expression::Decide(Verdict::Drop)]]);
}

/// To the host itself: names and pings at the gateway's address, and at the addresses that stand for
/// instances of other nodes what their own environment may say to them. Nothing else: whatever the host
/// listens on is not theirs, at none of its addresses.
fn input(ours: &Ours, config: &NetConfig, rules: &mut Vec<Rule>) {
    let to_gateway = || in_range(AddressOf::Destination, config.gateway().into());
    let to_remotes = || in_range(AddressOf::Destination, config.remote_range());
    let strangers = [ours.not_incoming(), ipv4(), to_remotes(), vec![jump(REFUSE)]];
    add(rules, INPUT, "remote-strangers", strangers);
    add(rules, INPUT, "not-ours", [ours.not_incoming(), vec![accept()]]);
    // Before `answers`: the second question from one port already belongs to a known flow.
    let flood = [ipv4(), transport(PROTOCOL_UDP), to_port(DNS_PORT), too_many_questions()];
    add(rules, INPUT, "flood", flood.into_iter().chain([vec![jump(REFUSE)]]));
    let answers = STATE_ESTABLISHED | STATE_RELATED;
    add(rules, INPUT, "answers", [state(answers), vec![accept()]]);
    add(rules, INPUT, "too-many", [ipv4(), too_many_flows(), vec![jump(REFUSE)]]);
    for (name, protocol) in [("names-udp", PROTOCOL_UDP), ("names-tcp", PROTOCOL_TCP)] {
        let steps = [ipv4(), to_gateway(), transport(protocol), to_port(DNS_PORT), vec![accept()]];
        add(rules, INPUT, name, steps);
    }
    let remote = [ipv4(), transport(PROTOCOL_TCP), to_remotes(), mark_by_source(), is_remote()];
    add(rules, INPUT, "remote", remote.into_iter().chain([unmark(), vec![accept()]]));
    let ping = [ipv4(), to_gateway(), transport(PROTOCOL_ICMP), echo_request(), vec![accept()]];
    add(rules, INPUT, "ping", ping);
    add(rules, INPUT, "host", [vec![jump(REFUSE)]]);
}

fn forward(ours: &Ours, rules: &mut Vec<Rule>) {
    add(rules, FORWARD, "from-instance", [ours.incoming(), vec![jump(FROM_INSTANCE)]]);
    let answers = STATE_ESTABLISHED | STATE_RELATED;
    add(rules, FORWARD, "answers", [ours.outgoing(), state(answers), vec![accept()]]);
    add(rules, FORWARD, "inbound", [ours.outgoing(), vec![jump(REFUSE)]]);
}

/// From an instance to whatever is not the host.
fn from_instance(ours: &Ours, config: &NetConfig, rules: &mut Vec<Rule>) {
    const CHAIN: &str = FROM_INSTANCE;
    // An untracked packet would leave with its private address.
    add(rules, CHAIN, "invalid", [state(STATE_INVALID), vec![Expression::Decide(Verdict::Drop)]]);
    let too_many = [state(STATE_NEW), ipv4(), too_many_flows(), vec![jump(REFUSE)]];
    add(rules, CHAIN, "too-many", too_many);
    // Asked for every packet, also of a known connection: the address may have a new owner.
    add(rules, CHAIN, "environment", [ours.outgoing(), ipv4(), mark_by_source()]);
    let neighbours = [ours.outgoing(), ipv4(), is_member(), unmark(), vec![accept()]];
    add(rules, CHAIN, "same-environment", neighbours);
    add(rules, CHAIN, "other-environment", [ours.outgoing(), vec![jump(REFUSE)]]);
    let answers = STATE_ESTABLISHED | STATE_RELATED;
    add(rules, CHAIN, "answers", [state(answers), vec![accept()]]);
    // Addresses of the pool that nobody has are not looked for elsewhere, whatever is open.
    let to = |range| [ipv4(), in_range(AddressOf::Destination, range)];
    add(rules, CHAIN, "pool", to(config.pool()).into_iter().chain([vec![jump(REFUSE)]]));
    for range in config.open() {
        let name = format!("open {range}");
        add(rules, CHAIN, &name, to(*range).into_iter().chain([vec![accept()]]));
    }
    for range in RESERVED {
        let range: Ipv4Cidr = range.parse().expect("the table of reserved ranges is well-formed");
        let name = format!("reserved {range}");
        add(rules, CHAIN, &name, to(range).into_iter().chain([vec![jump(REFUSE)]]));
    }
    add(rules, CHAIN, "world", [vec![accept()]]);
}

/// Says no at once: a silent drop lets a program wait for many seconds, at bind even.
fn refuse(rules: &mut Vec<Rule>) {
    add(rules, REFUSE, "tcp", [transport(PROTOCOL_TCP), vec![Expression::Reset]]);
    add(rules, REFUSE, "rest", [vec![Expression::Unreachable]]);
}

fn postrouting(ours: &Ours, config: &NetConfig, rules: &mut Vec<Rule>) {
    let from_pool = in_range(AddressOf::Source, config.pool());
    let steps = [ours.not_outgoing(), ipv4(), from_pool, vec![Expression::Masquerade]];
    add(rules, POSTROUTING, "masquerade", steps);
}

/// For the chain that Docker reserves for rules of others. Accepting there only means "not Docker's
/// business": our own table still decides.
pub(super) fn docker_user_rules(config: &NetConfig) -> Vec<Rule> {
    const CHAIN: &str = DOCKER_USER;
    let mut rules = Vec::new();
    for (direction, side) in [("to", AddressOf::Destination), ("from", AddressOf::Source)] {
        let name = format!("{} {direction}", config.tag());
        let in_pool = in_range(side, config.pool());
        add(&mut rules, CHAIN, &name, [in_pool, vec![accept()]]);
    }
    rules
}

pub(super) const DOCKER_USER: &str = "DOCKER-USER";
pub(super) const DOCKER_TABLE: &str = "filter";

struct Ours {
    prefix: String,
}

const WORK: Register = Register::word(0);

impl Ours {
    fn name(what: Meta) -> Expression {
        Expression::LoadMeta { what, into: WORK }
    }

    /// Comparing only the first bytes is how the kernel spells a wildcard.
    fn matches(&self) -> Expression {
        Expression::Equal { register: WORK, value: self.prefix.as_bytes().to_vec() }
    }

    fn differs(&self) -> Expression {
        Expression::NotEqual { register: WORK, value: self.prefix.as_bytes().to_vec() }
    }

    fn incoming(&self) -> Vec<Expression> {
        vec![Self::name(Meta::IncomingName), self.matches()]
    }

    fn not_incoming(&self) -> Vec<Expression> {
        vec![Self::name(Meta::IncomingName), self.differs()]
    }

    fn outgoing(&self) -> Vec<Expression> {
        vec![Self::name(Meta::OutgoingName), self.matches()]
    }

    fn not_outgoing(&self) -> Vec<Expression> {
        vec![Self::name(Meta::OutgoingName), self.differs()]
    }
}

fn add(
    rules: &mut Vec<Rule>,
    chain: &'static str,
    name: &str,
    steps: impl IntoIterator<Item = Vec<Expression>>,
) {
    let steps = steps.into_iter().flatten().collect();
    rules.push(Rule { chain, name: name.to_owned(), steps });
}

fn accept() -> Expression {
    Expression::Decide(Verdict::Accept)
}

fn jump(chain: &'static str) -> Expression {
    Expression::Decide(Verdict::Jump(chain))
}

fn ipv4() -> Vec<Expression> {
    const IPV4: u8 = libc::NFPROTO_IPV4 as u8;
    vec![
        Expression::LoadMeta { what: Meta::NetworkProtocol, into: WORK },
        Expression::Equal { register: WORK, value: vec![IPV4] },
    ]
}

fn transport(protocol: u8) -> Vec<Expression> {
    vec![
        Expression::LoadMeta { what: Meta::TransportProtocol, into: WORK },
        Expression::Equal { register: WORK, value: vec![protocol] },
    ]
}

fn to_port(port: u16) -> Vec<Expression> {
    vec![
        Expression::LoadTransport { offset: 2, length: 2, into: WORK },
        Expression::Equal { register: WORK, value: port.to_be_bytes().to_vec() },
    ]
}

fn echo_request() -> Vec<Expression> {
    vec![
        Expression::LoadTransport { offset: 0, length: 1, into: WORK },
        Expression::Equal { register: WORK, value: vec![ICMP_ECHO_REQUEST] },
    ]
}

fn state(any_of: u32) -> Vec<Expression> {
    vec![
        Expression::LoadConnectionState { into: WORK },
        Expression::Mask { register: WORK, mask: any_of.to_ne_bytes() },
        Expression::NotEqual { register: WORK, value: vec![0; 4] },
    ]
}

fn too_many_flows() -> Vec<Expression> {
    let limit = FLOWS_PER_INSTANCE_MAX;
    vec![
        load_address(AddressOf::Source, WORK),
        Expression::FlowsOver { set: FLOWS, key: WORK, limit },
    ]
}

fn too_many_questions() -> Vec<Expression> {
    let (per_second, burst) = (QUESTIONS_PER_SECOND_MAX, QUESTIONS_BURST);
    vec![
        load_address(AddressOf::Source, WORK),
        Expression::PacketsOver { set: QUESTIONS, key: WORK, per_second, burst },
    ]
}

/// Holds when interface and source address were registered together, and gives the packet the mark of its
/// environment. A packet arrives unmarked: leaving a namespace takes the mark away.
///
/// The mark goes by the packet and not by a register because `nft` cannot list a key that was looked up.
fn mark_by_source() -> Vec<Expression> {
    const MARK: Register = Register::word(8);
    // The name takes four words, so the address stands in the fifth.
    vec![
        Expression::LoadMeta { what: Meta::IncomingName, into: WORK },
        load_address(AddressOf::Source, Register::word(4)),
        Expression::Map { map: SOURCES, key: WORK, into: MARK },
        Expression::StoreMark { from: MARK },
    ]
}

fn is_member() -> Vec<Expression> {
    vec![
        load_address(AddressOf::Destination, WORK),
        Expression::LoadMark { into: Register::word(1) },
        Expression::Find { set: MEMBERS, key: WORK },
    ]
}

fn is_remote() -> Vec<Expression> {
    vec![
        load_address(AddressOf::Destination, WORK),
        Expression::LoadTransport { offset: 2, length: 2, into: Register::word(1) },
        Expression::LoadMark { into: Register::word(2) },
        Expression::Find { set: REMOTES, key: WORK },
    ]
}

fn unmark() -> Vec<Expression> {
    vec![Expression::Constant { value: [0; 4], into: WORK }, Expression::StoreMark { from: WORK }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn config(open: &[&str]) -> NetConfig {
        let open = open.iter().map(|range| range.parse().unwrap()).collect();
        NetConfig::new("t".parse().unwrap(), NetConfig::default_pool(), open).unwrap()
    }

    #[test]
    fn every_rule_has_a_name_of_its_own_and_a_chain_that_exists() {
        let rules = rules(&config(&["10.1.0.0/16", "192.168.1.1/32"]));
        let names: BTreeSet<_> =
            rules.iter().map(|rule| (rule.chain, rule.name.as_str())).collect();
        assert_eq!(names.len(), rules.len());
        for rule in &rules {
            assert!(CHAINS.iter().any(|chain| chain.name == rule.chain), "{}", rule.chain);
        }
    }

    #[test]
    fn an_opened_range_is_decided_after_the_pool_and_before_the_reserved_ones() {
        let rules = rules(&config(&["10.0.0.0/8"]));
        let names: Vec<_> = rules
            .iter()
            .filter(|rule| rule.chain == FROM_INSTANCE)
            .map(|rule| rule.name.as_str())
            .collect();
        let at = |name| names.iter().position(|found| *found == name).unwrap();
        assert!(at("pool") < at("open 10.0.0.0/8"));
        assert!(at("open 10.0.0.0/8") < at("reserved 10.0.0.0/8"));
        assert_eq!(at("world"), names.len() - 1);
    }
}
