//! One running copy of a component on this node, from the first byte fetched to the last file
//! removed.
//!
//! `life` decides, `task` does; `environment` and `spec` say what the instance sees, `restart` when it
//! is started again, `record` what the next agent needs, `log` where its output goes.

mod environment;
mod life;
mod log;
mod record;
mod restart;
mod spec;
mod task;

pub use environment::{app_dir, defaults};
pub use life::{Health, Wanted};
pub use log::{drained, shortened};
pub use record::InstanceRecord;
pub use spec::OPEN_FILES;
pub use task::{Assignment, InstanceTask};

/// An instance as the control plane might want it, for tests to change.
#[cfg(test)]
pub fn sample() -> insula_model::target::InstanceTarget {
    use insula_model::build::Artifact;
    use insula_model::release::ReleaseNumber;
    use insula_model::spec::{ComponentKind, ComponentSpec, Isolation, Runtime};
    use insula_model::target::{Command, InstanceIntent, InstanceTarget, Place};
    use insula_model::{
        AppId, Bytes, DeploymentId, Digest, EnvironmentId, InstanceId, OrgId, ReleaseId, Timestamp,
    };
    let at = Timestamp::from_millis(1_700_000_000_000);
    let component = ComponentSpec::of_kind(ComponentKind::Service);
    InstanceTarget {
        id: InstanceId::from_parts(at, [1; 10]),
        place: Place {
            org: OrgId::from_parts(at, [1; 10]),
            org_name: "acme".parse().expect("a name"),
            project_name: "default".parse().expect("a name"),
            environment: EnvironmentId::from_parts(at, [1; 10]),
            environment_name: "production".parse().expect("a name"),
            app: AppId::from_parts(at, [1; 10]),
            app_name: "shop".parse().expect("a name"),
        },
        component: "web".parse().expect("a name"),
        kind: component.kind,
        runtime: Runtime::Python,
        release: ReleaseId::from_parts(at, [1; 10]),
        release_number: ReleaseNumber(3),
        deployment: DeploymentId::from_parts(at, [1; 10]),
        run: None,
        artifact: Artifact { source: Digest::from_sha256([1; 32]), built: None, size: Bytes(0) },
        command: Command::Shell { line: "python3 app.py".into() },
        root: String::new(),
        port: Some(8080),
        variables: std::collections::BTreeMap::new(),
        secrets: vec![],
        cpu: component.cpu,
        memory: component.memory,
        pids: component.pids,
        disk: component.disk,
        health: component.health,
        liveness: None,
        isolation: Isolation::Standard,
        stop: component.stop,
        log_rate: Bytes::mib(1),
        intent: InstanceIntent::Run,
        routed: true,
        failover: insula_model::spec::Failover::Never,
        trace: String::new(),
    }
}
