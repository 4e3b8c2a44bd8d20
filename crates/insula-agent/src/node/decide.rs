//! Compares what a Target names with what the node holds. Pure.
//!
//! Whatever is held and not named stops as if its intent said so. Deciding again after the steps are
//! done yields nothing.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::spec::Failover;
use insula_model::target::{InstanceIntent, InstanceTarget, NodeTarget};
use insula_model::{BuildId, InstanceId};

use crate::contact::Epoch;
use crate::instance::{Assignment, Wanted};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeStep {
    /// Hold an instance that was not held.
    Begin(InstanceId),
    /// Tell one that is held what is wanted now.
    Tell(InstanceId),
    /// It is held and no longer named.
    StopUnnamed(InstanceId),
    /// It may run only while a server hears us, and none has for too long.
    Fence(InstanceId),
    BeginBuild(BuildId),
    /// It is held and no longer named, or another attempt at it is: its result is known, or nobody
    /// wants it any more.
    DropBuild(BuildId),
}

/// Whether what depends on contact with a server may run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// In this epoch of contact.
    Holds(Epoch),
    Over,
}

impl Lease {
    /// What to tell those who depend on it.
    pub fn granted(self) -> Option<Epoch> {
        match self {
            Self::Holds(epoch) => Some(epoch),
            Self::Over => None,
        }
    }
}

/// An instance that must not run now, whatever its Target says.
pub fn is_fenced(target: &InstanceTarget, lease: Lease) -> bool {
    match (target.failover, lease) {
        (Failover::Lease, Lease::Over) => true,
        (Failover::Lease, Lease::Holds(_)) | (Failover::Never, Lease::Holds(_) | Lease::Over) => {
            false
        }
    }
}

pub fn decide(
    target: &NodeTarget,
    instances: &BTreeMap<InstanceId, Assignment>,
    builds: &BTreeMap<BuildId, u32>,
    lease: Lease,
) -> Vec<NodeStep> {
    let mut steps = Vec::new();
    let mut named = BTreeSet::new();
    // What stops first gives its memory to what starts.
    let mut begin = Vec::new();
    for wanted in &target.instances {
        named.insert(wanted.id);
        match (instances.get(&wanted.id), wanted.intent) {
            (Some(held), InstanceIntent::Run) if is_fenced(wanted, lease) => {
                if held.wanted == Wanted::Run {
                    steps.push(NodeStep::Fence(wanted.id));
                }
            }
            // Started again once a server has asked for it again.
            (None, InstanceIntent::Run) if is_fenced(wanted, lease) => {}
            (Some(held), _) if *held == Assignment::of(wanted.clone(), lease.granted()) => {}
            (Some(_), _) => steps.push(NodeStep::Tell(wanted.id)),
            (None, InstanceIntent::Run) => begin.push(NodeStep::Begin(wanted.id)),
            // Not here, and should not be.
            (None, InstanceIntent::Stop) => {}
        }
    }
    let unnamed = instances.iter().filter(|(id, _)| !named.contains(id));
    steps.extend(
        unnamed
            .filter(|(_, held)| held.wanted == Wanted::Run)
            .map(|(id, _)| NodeStep::StopUnnamed(*id)),
    );
    steps.extend(begin);
    let wanted: BTreeMap<BuildId, u32> =
        target.builds.iter().map(|build| (build.id, build.attempt)).collect();
    let other_attempt = |(id, attempt): &(&BuildId, &u32)| wanted.get(id) != Some(attempt);
    steps.extend(builds.iter().filter(other_attempt).map(|(id, _)| NodeStep::DropBuild(*id)));
    let not_held = |id: &&BuildId| !builds.contains_key(id);
    steps.extend(wanted.keys().filter(not_held).map(|id| NodeStep::BeginBuild(*id)));
    steps
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use insula_model::Timestamp;
    use insula_model::build::BuildPlan;
    use insula_model::target::BuildTarget;
    use insula_model::{Bytes, Generation, MilliCpu, Millis, NodeId};

    use super::*;
    use crate::instance::sample;

    const HOLDS: Lease = Lease::Holds(Epoch::FIRST);

    fn instance(name: u8) -> InstanceId {
        InstanceId::from_parts(Timestamp::from_millis(1), [name; 10])
    }

    fn build(name: u8) -> BuildTarget {
        let target = sample();
        BuildTarget {
            id: BuildId::from_parts(Timestamp::from_millis(1), [name; 10]),
            place: target.place,
            deployment: target.deployment,
            source: target.artifact.source,
            plan: BuildPlan::default(),
            variables: BTreeMap::new(),
            secrets: vec![],
            time_limit: Millis::secs(60),
            memory: Bytes::gib(1),
            cpu: MilliCpu(1_000),
            pids: 100,
            output_max: Bytes::gib(1),
            attempt: 1,
            trace: String::new(),
        }
    }

    /// `held` and `named`: letters; an upper one stops, a lower one runs, a digit is a build. Those
    /// from `s` on may run only while a server hears us.
    fn check(held: &str, named: &str, expected: &Expect) {
        check_under(HOLDS, held, named, expected);
    }

    fn check_under(lease: Lease, held: &str, named: &str, expected: &Expect) {
        let (mut instances, mut builds) = (BTreeMap::new(), BTreeMap::new());
        for name in held.bytes() {
            match name {
                b'0'..=b'9' => {
                    builds.insert(build(name).id, 1);
                }
                _ => {
                    let it = Assignment::of(of(name), lease.granted());
                    instances.insert(it.target.id, it);
                }
            }
        }
        let mut target = NodeTarget {
            node: NodeId::from_parts(Timestamp::from_millis(1), [1; 10]),
            generation: Generation(1),
            instances: vec![],
            builds: vec![],
            fleet: Default::default(),
        };
        for name in named.bytes() {
            match name {
                b'0'..=b'9' => target.builds.push(build(name)),
                _ => target.instances.push(of(name)),
            }
        }
        let letter = |id: &InstanceId| {
            (b'a'..=b'z').find(|name| instance(*name) == *id).map_or('?', char::from)
        };
        let digit = |id: &BuildId| {
            (b'0'..=b'9').find(|name| build(*name).id == *id).map_or('?', char::from)
        };
        let mut out = String::new();
        let steps = decide(&target, &instances, &builds, lease);
        for step in &steps {
            out += &match step {
                NodeStep::Begin(id) => format!("begin {}\n", letter(id)),
                NodeStep::Tell(id) => format!("tell {}\n", letter(id)),
                NodeStep::StopUnnamed(id) => format!("stop {}, which is not named\n", letter(id)),
                NodeStep::Fence(id) => format!("fence {}\n", letter(id)),
                NodeStep::BeginBuild(id) => format!("build {}\n", digit(id)),
                NodeStep::DropBuild(id) => format!("drop build {}\n", digit(id)),
            };
        }
        for step in steps {
            let wanted = |id: InstanceId| target.instances.iter().find(|it| it.id == id).cloned();
            match step {
                NodeStep::Begin(id) | NodeStep::Tell(id) => {
                    instances.insert(id, Assignment::of(wanted(id).unwrap(), lease.granted()));
                }
                NodeStep::StopUnnamed(id) | NodeStep::Fence(id) => {
                    instances.get_mut(&id).unwrap().wanted = Wanted::Stop;
                }
                NodeStep::BeginBuild(id) => {
                    builds.insert(id, 1);
                }
                NodeStep::DropBuild(id) => {
                    builds.remove(&id);
                }
            }
        }
        assert!(decide(&target, &instances, &builds, lease).is_empty(), "no fixed point");
        expected.assert_eq(&out);
    }

    fn of(name: u8) -> InstanceTarget {
        let intent =
            if name.is_ascii_uppercase() { InstanceIntent::Stop } else { InstanceIntent::Run };
        let failover = match name.to_ascii_lowercase() {
            b's'.. => Failover::Lease,
            _ => Failover::Never,
        };
        InstanceTarget { failover, id: instance(name.to_ascii_lowercase()), intent, ..sample() }
    }

    #[test]
    fn what_is_named_begins_and_what_is_not_stops() {
        check(
            "",
            "ab1",
            &expect![[r#"
            begin a
            begin b
            build 1
        "#]],
        );
        check(
            "abC12",
            "bd2",
            &expect![[r#"
            stop a, which is not named
            begin d
            drop build 1
        "#]],
        );
    }

    #[test]
    fn a_stop_is_told_once_and_what_is_not_here_is_not_begun_to_stop_it() {
        check(
            "ab",
            "AbC",
            &expect![[r#"
            tell a
        "#]],
        );
        check("A", "A", &expect![""]);
    }

    #[test]
    fn without_contact_only_what_depends_on_it_stops() {
        check_under(
            Lease::Over,
            "abst",
            "abstu",
            &expect![[r#"
            fence s
            fence t
        "#]],
        );
        // It stops already, or is wanted to by the server itself.
        check_under(Lease::Over, "aS", "as", &expect![""]);
        check_under(
            Lease::Over,
            "as",
            "aS",
            &expect![[r#"
            tell s
        "#]],
        );
        check_under(
            HOLDS,
            "aS",
            "asu",
            &expect![[r#"
            tell s
            begin u
        "#]],
        );
    }

    #[test]
    fn what_depends_on_contact_is_told_for_which_epoch_it_is_wanted() {
        let target = NodeTarget {
            node: NodeId::from_parts(Timestamp::from_millis(1), [1; 10]),
            generation: Generation(1),
            instances: b"as".map(of).to_vec(),
            builds: vec![],
            fleet: Default::default(),
        };
        let held = |granted| {
            let of = |it: &InstanceTarget| (it.id, Assignment::of(it.clone(), granted));
            target.instances.iter().map(of).collect::<BTreeMap<_, _>>()
        };
        let none = BTreeMap::new();
        let before = held(HOLDS.granted());
        assert_eq!(decide(&target, &before, &none, HOLDS), []);
        let later = Lease::Holds(Epoch::FIRST.next());
        assert_eq!(decide(&target, &before, &none, later), [NodeStep::Tell(instance(b's'))]);
        assert_eq!(decide(&target, &held(later.granted()), &none, later), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_without_a_server_stops_what_asked_for_it_and_nothing_else() {
        use crate::contact::Contact;
        use crate::contact::tests::{LEASE, TokioTicks};
        use std::time::Duration;
        let nowhere = std::path::Path::new("/nonexistent");
        let contact = Contact::open(nowhere, LEASE, TokioTicks::new());
        contact.answered(contact.now());
        let granted = contact.epoch();
        let target = NodeTarget {
            node: NodeId::from_parts(Timestamp::from_millis(1), [1; 10]),
            generation: Generation(1),
            instances: b"abcs".map(of).to_vec(),
            builds: vec![build(b'1')],
            fleet: Default::default(),
        };
        let mut held: BTreeMap<InstanceId, Assignment> = target
            .instances
            .iter()
            .map(|it| (it.id, Assignment::of(it.clone(), granted)))
            .collect();
        let builds = BTreeMap::from([(build(b'1').id, 1)]);
        let mut done = Vec::new();
        for second in 0..3_600 {
            let holds = contact.epoch().is_some() && contact.epoch() == granted;
            let lease = granted.filter(|_| holds).map_or(Lease::Over, Lease::Holds);
            for step in decide(&target, &held, &builds, lease) {
                done.push((second, step.clone()));
                if let NodeStep::Fence(id) = step {
                    // Stopped, gone, and not begun again.
                    held.remove(&id);
                }
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(done, [(10, NodeStep::Fence(instance(b's')))]);
        // Contact alone brings nothing back: a Target that was sent after it does.
        contact.answered(contact.now());
        assert_ne!(contact.epoch(), granted);
        assert!(decide(&target, &held, &builds, Lease::Over).is_empty());
        let again = decide(&target, &held, &builds, HOLDS);
        assert_eq!(again, [NodeStep::Begin(instance(b's'))]);
    }

    #[test]
    fn another_attempt_begins_once_the_one_before_is_gone() {
        let target = NodeTarget {
            node: NodeId::from_parts(Timestamp::from_millis(1), [1; 10]),
            generation: Generation(1),
            instances: vec![],
            builds: vec![BuildTarget { attempt: 2, ..build(b'1') }],
            fleet: Default::default(),
        };
        let id = build(b'1').id;
        let none = BTreeMap::new();
        let held = |attempt| BTreeMap::from([(id, attempt)]);
        assert_eq!(decide(&target, &none, &held(1), HOLDS), [NodeStep::DropBuild(id)]);
        assert_eq!(decide(&target, &none, &BTreeMap::new(), HOLDS), [NodeStep::BeginBuild(id)]);
        assert_eq!(decide(&target, &none, &held(2), HOLDS), []);
    }
}
