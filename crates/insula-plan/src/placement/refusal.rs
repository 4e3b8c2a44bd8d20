//! Why a node was not taken, and what all nodes together said, in words.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use insula_model::node::{AilmentKind, Architecture};
use insula_model::{Bytes, MilliCpu, NodeName};

use super::Ask;

/// Nodes that a refusal names one by one; the others are counted. More fits on no screen.
const NODES_NAMED_MAX: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has not been heard for a moment.
    Away,
    /// It has not been heard for so long that it was given up.
    Lost,
    Cordoned,
    Draining,
    Degraded {
        ailment: AilmentKind,
    },
    /// It is in a pool that was not asked for, or not in the one that was.
    Pool,
    Labels,
    Zone,
    Architecture {
        is: Architecture,
    },
    Isolation,
    Runtime,
    /// It cannot keep orgs apart, and has another one's.
    Org,
    Memory {
        free: Bytes,
    },
    Cpu {
        free: MilliCpu,
    },
    Pids {
        free: u32,
    },
    Disk {
        free: Bytes,
    },
    Instances {
        most: u32,
    },
}

/// A refusal without its amounts: what refusals are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    Memory,
    Cpu,
    Pids,
    Disk,
    Instances,
    Pool,
    Labels,
    Zone,
    Architecture,
    Isolation,
    Runtime,
    Org,
    Degraded,
    Cordoned,
    Draining,
    Lost,
    Away,
}

impl Refusal {
    pub fn why(&self) -> Why {
        match self {
            Self::Away => Why::Away,
            Self::Lost => Why::Lost,
            Self::Cordoned => Why::Cordoned,
            Self::Draining => Why::Draining,
            Self::Degraded { .. } => Why::Degraded,
            Self::Pool => Why::Pool,
            Self::Labels => Why::Labels,
            Self::Zone => Why::Zone,
            Self::Architecture { .. } => Why::Architecture,
            Self::Isolation => Why::Isolation,
            Self::Runtime => Why::Runtime,
            Self::Org => Why::Org,
            Self::Memory { .. } => Why::Memory,
            Self::Cpu { .. } => Why::Cpu,
            Self::Pids { .. } => Why::Pids,
            Self::Disk { .. } => Why::Disk,
            Self::Instances { .. } => Why::Instances,
        }
    }

    /// How much there is, where the sentence has said of what already.
    fn amount(&self) -> Option<String> {
        match self {
            Self::Memory { free } | Self::Disk { free } => Some(free.to_string()),
            Self::Cpu { free } => Some(free.to_string()),
            Self::Pids { free } => Some(free.to_string()),
            Self::Instances { most } => Some(most.to_string()),
            Self::Degraded { ailment } => Some(ailment.as_str().to_owned()),
            Self::Architecture { is } => Some(is.to_string()),
            Self::Away
            | Self::Lost
            | Self::Cordoned
            | Self::Draining
            | Self::Pool
            | Self::Labels
            | Self::Zone
            | Self::Isolation
            | Self::Runtime
            | Self::Org => None,
        }
    }
}

/// Said of one node, where the sentence speaks of something else.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away => f.write_str("away"),
            Self::Lost => f.write_str("lost"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::Draining => f.write_str("draining"),
            Self::Degraded { ailment } => write!(f, "degraded ({})", ailment.as_str()),
            Self::Pool => f.write_str("in another pool"),
            Self::Labels => f.write_str("without the labels"),
            Self::Zone => f.write_str("in another zone"),
            Self::Architecture { is } => write!(f, "is {is}"),
            Self::Isolation => f.write_str("without the isolation"),
            Self::Runtime => f.write_str("without the runtime"),
            Self::Org => f.write_str("has another org's"),
            Self::Memory { free } => write!(f, "{free} free"),
            Self::Cpu { free } => write!(f, "{free} cores free"),
            Self::Pids { free } => write!(f, "{free} pids free"),
            Self::Disk { free } => write!(f, "{free} of disk free"),
            Self::Instances { most } => write!(f, "runs {most} instances"),
        }
    }
}

impl Why {
    fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Disk => "disk",
            Self::Instances => "instances",
            Self::Pool => "pool",
            Self::Labels => "labels",
            Self::Zone => "zone",
            Self::Architecture => "architecture",
            Self::Isolation => "isolation",
            Self::Runtime => "runtime",
            Self::Org => "org",
            Self::Degraded => "degraded",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::Lost => "lost",
            Self::Away => "away",
        }
    }
}

/// How near a node was to being taken: what it said last is what one has to cure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hurdle {
    /// It suits, and has too little.
    Room,
    /// It does not suit.
    Kind,
    /// It takes nothing at all for now.
    State,
}

impl Why {
    fn hurdle(self) -> Hurdle {
        match self {
            Self::Memory | Self::Cpu | Self::Pids | Self::Disk | Self::Instances => Hurdle::Room,
            Self::Pool
            | Self::Labels
            | Self::Zone
            | Self::Architecture
            | Self::Isolation
            | Self::Runtime
            | Self::Org => Hurdle::Kind,
            Self::Degraded | Self::Cordoned | Self::Draining | Self::Lost | Self::Away => {
                Hurdle::State
            }
        }
    }
}

/// What every node said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoRoom {
    /// What the sentence is about; the nodes that said it come first, and say only how much.
    lead: Option<Why>,
    /// The sentence's beginning.
    words: String,
    /// The first ones by the order of their ids.
    named: Vec<(NodeName, Refusal)>,
    /// Those that are not named.
    others: BTreeMap<Why, usize>,
    counts: BTreeMap<Why, usize>,
}

impl NoRoom {
    /// `refused` has every node.
    pub(super) fn new(ask: &Ask, refused: &[(&NodeName, Refusal)]) -> Self {
        let mut counts: BTreeMap<Why, usize> = BTreeMap::new();
        for (_, refusal) in refused {
            *counts.entry(refusal.why()).or_default() += 1;
        }
        // What was nearest, and of that what was said most often.
        let lead = counts.iter().min_by_key(|(why, n)| (why.hurdle(), Reverse(**n), **why));
        let lead = lead.map(|(why, _)| *why);
        let said_first = refused.iter().filter(|(_, refusal)| Some(refusal.why()) == lead);
        let said_else = refused.iter().filter(|(_, refusal)| Some(refusal.why()) != lead);
        let mut in_order = said_first.chain(said_else);
        let named = in_order.by_ref().take(NODES_NAMED_MAX);
        let named = named.map(|(name, refusal)| ((*name).clone(), *refusal)).collect();
        let mut others: BTreeMap<Why, usize> = BTreeMap::new();
        for (_, refusal) in in_order {
            *others.entry(refusal.why()).or_default() += 1;
        }
        let words = lead.map_or_else(String::new, |why| words(why, ask, counts.len()));
        Self { lead, words, named, others, counts }
    }

    /// How many nodes refused for each reason.
    pub fn counts(&self) -> &BTreeMap<Why, usize> {
        &self.counts
    }

    /// The nodes that are named, and what each said.
    pub fn named(&self) -> &[(NodeName, Refusal)] {
        &self.named
    }

    /// Whether a node that is not there could take it once it is back.
    pub fn may_pass(&self) -> bool {
        self.counts.is_empty()
            || self.counts.contains_key(&Why::Away)
            || self.counts.contains_key(&Why::Lost)
    }
}

/// What is asked for and no node has, if nodes gave so many different reasons.
fn words(why: Why, ask: &Ask, reasons: usize) -> String {
    let wanted = &ask.placement;
    match why {
        Why::Memory => format!("no node has {} free", ask.memory),
        Why::Cpu => format!("no node has {} cores free", ask.cpu),
        Why::Pids => format!("no node has {} pids free", ask.pids),
        Why::Disk => format!("no node has {} of disk free", ask.disk),
        Why::Instances => "no node may run more instances".to_owned(),
        Why::Pool => match &wanted.pool {
            Some(pool) => format!("no node of pool `{pool}` can take it"),
            None => "no node outside of pools can take it".to_owned(),
        },
        Why::Labels => {
            let labels: Vec<String> =
                wanted.labels.iter().map(|(name, value)| format!("`{name}={value}`")).collect();
            format!("no node labelled {} can take it", labels.join(" and "))
        }
        Why::Zone => {
            let zones: Vec<String> = wanted.zones.iter().map(|zone| format!("`{zone}`")).collect();
            format!("no node of zone {} can take it", zones.join(" or "))
        }
        Why::Architecture => match wanted.architecture {
            Some(architecture) => format!("no {architecture} node can take it"),
            None => "no node of a known architecture can take it".to_owned(),
        },
        Why::Isolation => format!("no node with {} isolation can take it", ask.isolation.as_str()),
        Why::Runtime => format!("no node with {} can take it", ask.runtime.as_str()),
        Why::Org => "no node that keeps orgs apart can take it".to_owned(),
        Why::Away if reasons == 1 => "no node answers".to_owned(),
        Why::Degraded | Why::Cordoned | Why::Draining | Why::Lost if reasons == 1 => {
            format!("every node is {}", why.as_str())
        }
        Why::Degraded | Why::Cordoned | Why::Draining | Why::Lost | Why::Away => {
            "no node takes anything new".to_owned()
        }
    }
}

/// A whole clause: what no node has, then each node with what it has instead.
impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(lead) = self.lead else { return f.write_str("there is no node") };
        write!(f, "{}:", self.words)?;
        // Where states differ, each is said.
        let led = lead.hurdle() != Hurdle::State || self.counts.len() == 1;
        for (at, (node, refusal)) in self.named.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma} {node}")?;
            match refusal.amount() {
                Some(amount) if led && refusal.why() == lead => write!(f, " {amount}")?,
                None if led && refusal.why() == lead => {}
                Some(_) | None => write!(f, " {refusal}")?,
            }
        }
        let more: usize = self.others.values().sum();
        if more == 0 {
            return Ok(());
        }
        write!(f, " … and {} more: ", thousands(more))?;
        let mut kinds: Vec<(usize, Why)> = self.others.iter().map(|(why, n)| (*n, *why)).collect();
        kinds.sort_by_key(|(count, why)| (Reverse(*count), *why));
        for (at, (count, why)) in kinds.into_iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}", thousands(count), why.as_str())?;
        }
        Ok(())
    }
}

fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
