//! Mistakes that people really make, to be planted into the real code one at a time: each must be
//! found, or the simulation has no teeth.

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct Bug {
    pub name: &'static str,
    /// From the root of the repository.
    pub file: &'static str,
    /// What stands there, exactly once.
    pub text: &'static str,
    pub planted: &'static str,
    /// What finds it first, with seeds from 1, by the word of the property.
    pub property: &'static str,
    /// Seeds within which it has to be found.
    pub budget: u64,
}

const CREW: &str = "crates/insula-plan/src/crew.rs";
const STEADY: &str = "crates/insula-plan/src/steady.rs";
const SINGLE: &str = "crates/insula-plan/src/single.rs";
const NODES: &str = "crates/insula-plan/src/nodes.rs";
const INSTANCES: &str = "crates/insula-plan/src/instances.rs";
const ROLLOUT: &str = "crates/insula-plan/src/rollout.rs";
const SEAT: &str = "crates/insula-plan/src/placement/seat.rs";
const TARGET: &str = "crates/insula-plan/src/target.rs";
const DUE: &str = "crates/insula-plan/src/due.rs";
const ACCEPT: &str = "crates/insula-model/src/target.rs";
const CORE: &str = "crates/insula-control/src/core.rs";
const INGEST: &str = "crates/insula-control/src/core/ingest.rs";
const FLIGHT: &str = "crates/insula-control/src/core/flight.rs";
const TOLD: &str = "crates/insula-control/src/core/told.rs";
const MUTATION: &str = "crates/insula-control/src/core/mutation.rs";
const CONCERN: &str = "crates/insula-control/src/core/concern.rs";
const PRESENCE: &str = "crates/insula-control/src/core/presence.rs";

pub const BUGS: &[Bug] = &[
    bug(
        "one more than the surge",
        CREW,
        "(asked.want + pace.surge).saturating_sub(there)",
        "(asked.want + pace.surge + 1).saturating_sub(there)",
        "surge",
    ),
    bug(
        "those on their way out do not count",
        CREW,
        "let there = tally.run + if pace.whole { tally.going } else { 0 };",
        "let there = tally.run;",
        "surge",
    ),
    bug(
        "the old one leaves before the new one is ready",
        CREW,
        "            || tally.ready > least\n",
        "            || tally.run > least\n",
        "enough",
    ),
    bug(
        "surplus is drained on nodes that are silent",
        CREW,
        "if !world.is_here(spare.node) || (ready && tally.ready <= asked.want) {",
        "if ready && tally.ready <= asked.want {",
        "innocent",
    ),
    bug(
        "what is on a lost node still counts",
        CREW,
        "            if nodes::is_lost(world, one.node) {\n                lost",
        "            if nodes::is_lost(world, one.node) && one.intent != Intent::Run {\n                lost",
        "stays",
    ),
    bug(
        "the replaced one leaves a node that is silent",
        CREW,
        "if !world.is_here(one.node) || tally.run <= least || !spared {",
        "if tally.run <= least || !spared {",
        "innocent",
    ),
    bug(
        "strays are ended on nodes that are silent",
        STEADY,
        "        if !world.is_here(one.node) {\n            // One that the goal",
        "        if !world.nodes.contains_key(&one.node) {\n            // One that the goal",
        "innocent",
    ),
    bug(
        "a single one is replaced when its node is lost",
        SINGLE,
        "    if others.is_empty() {\n",
        "    if others.iter().all(|it| nodes::is_lost(world, it.node)) {\n",
        "single",
    ),
    bug(
        "what is left of a single one on a lost node does not block the next",
        SINGLE,
        "rows().filter(|i| !is_fenced(world, i)).collect();",
        "rows().filter(|i| !is_fenced(world, i) && !nodes::is_lost(world, i.node)).collect();",
        "surge",
    ),
    bug(
        "the lease is taken to be shorter than it is",
        SINGLE,
        "Millis(limits::FAILOVER_LEASE.0 + spec.stop.grace.0 + slack)",
        "Millis(limits::FAILOVER_LEASE.0 / 2 + slack)",
        "single",
    ),
    bug(
        "a single one is told to stop, and counts as gone at once",
        SINGLE,
        "matches!(instance.intent, Intent::Stop { .. }) && lease_is_over(world, instance)",
        "matches!(instance.intent, Intent::Stop { .. })",
        "single",
    ),
    bug(
        "a node is welcomed although it is silent",
        NODES,
        "(Presence::Here, Some(_)) => plan",
        "(Presence::Here | Presence::Silent { .. }, Some(_)) => plan",
        "stays",
    ),
    bug(
        "a node is never given up",
        NODES,
        "            plan.act(Action::Lose { node: node.id });\n",
        "",
        "stays",
    ),
    bug(
        "a row is forgotten before its node said that it is gone",
        INSTANCES,
        "Observed::Absent { .. } => plan.act(Action::Forget { instance: instance.id }),\n            Observed::Unknown | Observed::Present { .. } => {",
        "Observed::Absent { .. } | Observed::Unknown => {\n                plan.act(Action::Forget { instance: instance.id });\n            }\n            Observed::Present { .. } => {",
        "innocent",
    ),
    bug(
        "one that drains is stopped while gateways send to it",
        INSTANCES,
        "        && !routed\n",
        "",
        "routes",
    ),
    bug(
        "a release takes over with one that is not ready",
        ROLLOUT,
        "(ready >= asked.want && crew.old.is_empty(), no)",
        "(ready + 1 >= asked.want && crew.old.is_empty(), no)",
        "verdict",
    ),
    bug(
        "it is live before gateways let go of the old ones",
        ROLLOUT,
        "world.edge.gateways > 0 && arrived && left)",
        "world.edge.gateways > 0 && (arrived || left))",
        "verdict",
    ),
    bug(
        "a cordoned node gets something",
        SEAT,
        "Duty::Cordon { .. } => return Some(Refusal::Cordoned),",
        "Duty::Cordon { .. } => {}",
        "capacity",
    ),
    bug(
        "the memory of a node is not looked at",
        SEAT,
        "            && seat.memory.free >= grains(ask.memory)\n",
        "",
        "capacity",
    ),
    bug(
        "one that drains is told to stop at once",
        TARGET,
        "Intent::Run | Intent::Drain { .. } if !over => InstanceIntent::Run,",
        "Intent::Run if !over => InstanceIntent::Run,",
        "innocent",
    ),
    bug(
        "an app is not looked at when a node of it is lost",
        DUE,
        "if old.duty != row.duty || old.lost != row.lost || old.hello != row.hello {",
        "if old.duty != row.duty || old.hello != row.hello {",
        "missed",
    ),
    bug(
        "a node takes a Target of the past",
        ACCEPT,
        "if offered < held { Err(Stale { held, offered }) } else { Ok(offered) }",
        "if offered.0 + 50 < held.0 { Err(Stale { held, offered }) } else { Ok(offered) }",
        "generations",
    ),
    bug(
        "it decides on a world that is older than its own writes",
        CORE,
        "self.flights.is_empty() && self.current_as_of == Some(self.answered)",
        "self.flights.is_empty() && self.current_as_of.is_some()",
        "surge",
    ),
    bug(
        "it decides while writes are under way",
        CORE,
        "self.flights.is_empty() && self.current_as_of == Some(self.answered)",
        "self.current_as_of == Some(self.answered)",
        "surge",
    ),
    bug(
        "an old report is believed to say what is not there",
        INGEST,
        "asked.filter(|asked| report.generation >= asked.generation);",
        "asked.filter(|asked| report.generation.0 + 1_000_000 >= asked.generation.0);",
        "innocent",
    ),
    bug(
        "what was placed since is believed not to be there",
        INGEST,
        "asked.as_ref().is_some_and(|asked| asked.covers.contains(&instance.id));",
        "asked.is_some();",
        "single",
    ),
    bug(
        "a report that was not stored is dropped",
        FLIGHT,
        "                    self.reports.entry(node).or_insert(report);\n",
        "                    drop(report);\n",
        "stays",
    ),
    bug(
        "a report from before the Target is read once",
        TOLD,
        "            if asked.is_none() {\n",
        "            if asked.is_none() && node.as_u128() == 0 {\n",
        "stays",
    ),
    bug(
        "a mark of loss writes the node as it was",
        MUTATION,
        "let marked = Node { lost: row.lost, ..(**found).clone() };",
        "let marked = Node { offer: found.offer.clone(), ..(**row).clone() };",
        "acknowledged",
    ),
    bug(
        "a greeting ends a cordon",
        MUTATION,
        "duty: known.map_or(Duty::Serve, |known| known.duty),",
        "duty: Duty::Serve,",
        "acknowledged",
    ),
    bug(
        "a deployment is written whatever became of it meanwhile",
        MUTATION,
        "store.deployments.get(&row.id).filter(|found| found.state == *was)?;",
        "store.deployments.get(&row.id).filter(|found| found.state == *was || found.state.is_final())?;",
        "acknowledged",
    ),
    bug(
        "a node is not sent what it should stop",
        CONCERN,
        "let targeted = |row: &Instance| (row.node, row.intent, row.release, row.run);",
        "let targeted = |row: &Instance| (row.node, row.release, row.run);",
        "missed",
    ),
    bug(
        "the silence of a node is counted twice as fast",
        PRESENCE,
        "self.counted.0 += passed.0;",
        "self.counted.0 += 2 * passed.0;",
        "single",
    ),
];

const fn bug(
    name: &'static str,
    file: &'static str,
    text: &'static str,
    planted: &'static str,
    property: &'static str,
) -> Bug {
    Bug { name, file, text, planted, property, budget: BUDGET }
}

/// Enough for the rarest of them: some three minutes on one core.
const BUDGET: u64 = 5_000;
