//! What a reconciler says of its last pass, and what the operator sees of all of them.

use std::collections::BTreeMap;

use insula_model::fleet::Server;
use insula_model::node::NodeState;
use insula_model::{Millis, Timestamp};

/// Reasons that a report carries; the rest is a number.
pub const WAITS_TOLD_MAX: usize = 20;

/// One loop that takes no input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reconciler {
    /// Sees who is heard, gives up and welcomes nodes, notes what is wrong with them.
    Nodes,
    /// Moves deployments, runs and instances on.
    Deployments,
    /// Sends nodes what they should hold, with the newest values of secrets.
    Targets,
    /// Gives gateways their table.
    Routes,
    /// Lets servers go that are no more.
    Identities,
    /// Collects what has had its time.
    Housekeeping,
    /// Looks at everything at once, now and then, and says what the others had missed.
    Safety,
    /// Compares the nodes' clocks with this server's, and says if it is ours that is wrong.
    Clocks,
}

impl Reconciler {
    pub const ALL: [Self; 8] = [
        Self::Nodes,
        Self::Deployments,
        Self::Targets,
        Self::Routes,
        Self::Identities,
        Self::Housekeeping,
        Self::Safety,
        Self::Clocks,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Deployments => "deployments",
            Self::Targets => "targets",
            Self::Routes => "routes",
            Self::Identities => "identities",
            Self::Housekeeping => "housekeeping",
            Self::Safety => "safety",
            Self::Clocks => "clocks",
        }
    }
}

/// One pass of a reconciler.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pass {
    /// What it did, in words, with how often.
    pub did: BTreeMap<&'static str, usize>,
    /// What waits, by what it is: at most `WAITS_TOLD_MAX` of them.
    pub waits: Vec<String>,
    pub waiting: usize,
    /// What kept it from doing all of it.
    pub error: Option<String>,
    pub took_micros: u64,
    /// What the stopwatch said at its beginning.
    pub began_micros: Option<u64>,
}

impl Pass {
    pub fn did(&mut self, what: &'static str, times: usize) {
        if times > 0 {
            *self.did.entry(what).or_default() += times;
        }
    }

    pub fn wait(&mut self, what: impl FnOnce() -> String) {
        self.waiting += 1;
        if self.waits.len() < WAITS_TOLD_MAX {
            self.waits.push(what());
        }
    }
}

/// The last pass of a reconciler, and the sum of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Of the last pass; nothing before the first.
    pub at: Option<Timestamp>,
    pub took_micros: u64,
    pub passes: u64,
    /// Of the last pass that did anything.
    pub did: BTreeMap<&'static str, usize>,
    pub acted: Option<Timestamp>,
    pub waits: Vec<String>,
    pub waiting: usize,
    /// Of the last pass that failed, until one succeeds.
    pub error: Option<String>,
    pub failures: u64,
}

impl Report {
    pub fn note(&mut self, pass: Pass, at: Timestamp) {
        self.at = Some(at);
        self.took_micros = pass.took_micros;
        self.passes += 1;
        if !pass.did.is_empty() {
            self.did = pass.did;
            self.acted = Some(at);
        }
        self.waits = pass.waits;
        self.waiting = pass.waiting;
        self.failures += u64::from(pass.error.is_some());
        self.error = pass.error;
    }
}

/// All reconcilers.
pub type Reports = BTreeMap<Reconciler, Report>;

/// What the operator sees of the control plane: plain words and numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    /// When it was made.
    pub at: Option<Timestamp>,
    /// Whether this server is the one that reconciles, and under which epoch.
    pub leads: Option<u64>,
    /// Every server that shares the store, as the lease's holder saw them.
    pub servers: Vec<Server>,
    pub reports: Reports,
    pub nodes: BTreeMap<NodeState, usize>,
    pub gateways: usize,
    pub instances: usize,
    /// The age of the oldest last heartbeat of a node that is here.
    pub heartbeat_lag: Millis,
    /// Reports of nodes that named what is not theirs, or too much; each is passed over.
    pub nonsense: u64,
    /// Told by nodes and not stored yet.
    pub unstored: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_stays_until_a_pass_succeeds_and_what_was_done_until_more_is() {
        let mut report = Report::default();
        let mut pass = Pass::default();
        pass.did("target sent", 2);
        report.note(pass, Timestamp::from_millis(1));
        let failed = Pass { error: Some("the store is away".into()), ..Pass::default() };
        report.note(failed, Timestamp::from_millis(2));
        assert_eq!(report.error.as_deref(), Some("the store is away"));
        assert_eq!(report.did["target sent"], 2);
        report.note(Pass::default(), Timestamp::from_millis(3));
        assert_eq!((report.error, report.failures, report.passes), (None, 1, 3));
        assert_eq!(report.acted, Some(Timestamp::from_millis(1)));
    }

    #[test]
    fn a_thousand_things_that_wait_are_a_number_and_a_few_examples() {
        let mut pass = Pass::default();
        (0..1_000).for_each(|n| pass.wait(|| format!("{n}")));
        assert_eq!((pass.waiting, pass.waits.len()), (1_000, WAITS_TOLD_MAX));
    }
}
