//! What a node has to do with, as its Target says: whose blobs it may touch, whose usage it may
//! report.

use std::collections::BTreeSet;

use insula_model::target::NodeTarget;
use insula_model::{InstanceId, OrgId};
use serde::Deserialize;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Of whom it runs or builds something: it fetches what that is made of.
    pub(crate) orgs: BTreeSet<OrgId>,
    /// For whom it builds: it brings what came of it.
    pub(crate) builds_for: BTreeSet<OrgId>,
    pub(crate) instances: BTreeSet<InstanceId>,
}

impl Reach {
    pub(crate) fn of(target: &NodeTarget) -> Self {
        let instances = target.instances.iter().map(|instance| (instance.id, instance.place.org));
        Self::new(instances, target.builds.iter().map(|build| build.place.org))
    }

    /// Of a Target that only passes by. Of one that cannot be read nothing is known: its receiver
    /// will say so.
    pub(crate) fn of_document(document: &str) -> Option<Self> {
        let passing: Passing = serde_json::from_str(document).ok()?;
        let instances = passing.instances.iter().map(|instance| (instance.id, instance.place.org));
        Some(Self::new(instances, passing.builds.iter().map(|build| build.place.org)))
    }

    fn new(
        instances: impl Iterator<Item = (InstanceId, OrgId)>,
        builds: impl Iterator<Item = OrgId>,
    ) -> Self {
        let mut reach = Self { builds_for: builds.collect(), ..Self::default() };
        reach.orgs.extend(&reach.builds_for);
        for (id, org) in instances {
            reach.orgs.insert(org);
            reach.instances.insert(id);
        }
        reach
    }
}

/// The part of a Target's document that matters here.
#[derive(Deserialize)]
struct Passing {
    instances: Vec<PassingInstance>,
    builds: Vec<PassingBuild>,
}

#[derive(Deserialize)]
struct PassingInstance {
    id: InstanceId,
    place: PassingPlace,
}

#[derive(Deserialize)]
struct PassingBuild {
    place: PassingPlace,
}

#[derive(Deserialize)]
struct PassingPlace {
    org: OrgId,
}
