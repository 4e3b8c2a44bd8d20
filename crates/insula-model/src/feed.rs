//! What the commit-ordered feed tells: a row as it is now, or that it is gone.
//!
//! A change carries the whole row, so applying it twice, or skipping to the newest, is the same.

use crate::app::{App, Domain, Environment, Project};
use crate::build::Build;
use crate::deployment::Deployment;
use crate::fleet::Gateway;
use crate::ids::{
    AppId, DomainId, EnvironmentId, GatewayId, InstanceId, NodeId, OrgId, ProjectId, ReleaseId,
    RunId,
};
use crate::instance::{Instance, Run};
use crate::node::Node;
use crate::release::Release;
use crate::tenancy::Org;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Org(Box<Org>),
    OrgGone(OrgId),
    Project(Box<Project>),
    ProjectGone(ProjectId),
    Environment(Box<Environment>),
    EnvironmentGone(EnvironmentId),
    App(Box<App>),
    AppGone(AppId),
    Domain(Box<Domain>),
    DomainGone(DomainId),
    Deployment(Box<Deployment>),
    Build(Box<Build>),
    Release(Box<Release>),
    ReleaseGone(ReleaseId),
    Instance(Box<Instance>),
    InstanceGone(InstanceId),
    Run(Box<Run>),
    RunGone(RunId),
    Node(Box<Node>),
    NodeGone(NodeId),
    Gateway(Box<Gateway>),
    GatewayGone(GatewayId),
    /// A secret was set or unset somewhere in the org. Values never travel in the feed.
    SecretsOf(OrgId),
}
