//! The sandbox that an instance runs in. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use insula_kit::seal::SecretBytes;
use insula_model::target::{Command, InstanceTarget};
use insula_model::{Bytes, InstanceId, VariableName};
use insula_sandbox::{AppLayer, Bind, Limits, SandboxId, SandboxSpec, Upper};

use super::environment::{Environment, PROGRAM_DIR, app_dir, argv, environment};
use crate::places::Place;

/// What servers with a connection per descriptor ask for; the host's own limit still holds.
pub const OPEN_FILES: u64 = 65_536;
/// `/tmp` counts as memory of the instance, so this bounds nothing that is not bounded already.
const TMP_MAX: Bytes = Bytes::mib(64);
/// What browsers and databases in memory expect of `/dev/shm`.
const SHM_MAX: Bytes = Bytes::mib(64);

/// Everything beside the Target that a launch is made of.
#[derive(Debug)]
pub struct Surroundings<'a> {
    pub sandbox: SandboxId,
    pub layers: Vec<PathBuf>,
    pub place: &'a Place,
    /// What `PORT` says.
    pub port: Option<u16>,
    pub secrets: &'a BTreeMap<VariableName, SecretBytes>,
    /// Our own binary.
    pub program: &'a Path,
    pub open_usr_local: bool,
}

pub fn spec(target: &InstanceTarget, around: Surroundings<'_>) -> (SandboxSpec, Vec<VariableName>) {
    let Environment { variables, missing } = environment(target, around.port, around.secrets);
    let serves = matches!(target.command, Command::Serve);
    let program =
        Bind { source: around.program.to_owned(), target: PROGRAM_DIR.into(), read_only: true };
    let spec = SandboxSpec {
        id: around.sandbox,
        argv: argv(target, around.port),
        env: variables.into_iter().collect(),
        cwd: if serves { app_dir("") } else { app_dir(&target.root) },
        app: AppLayer { lower: around.layers, upper: Upper::Memory { bytes: target.disk.0 } },
        binds: if serves { vec![program] } else { vec![] },
        limits: Limits {
            memory_bytes: target.memory.0,
            cpu_milli: target.cpu.0,
            pids: target.pids,
            nofile: OPEN_FILES,
            tmp_bytes: target.memory.min(TMP_MAX).0,
            shm_bytes: target.memory.min(SHM_MAX).0,
        },
        network: around.place.network(),
        uid_base: around.place.uid_base,
        hostname: hostname(target),
        resolver: around.place.attachment.as_ref().map(|attachment| attachment.gateway),
        open_usr_local: around.open_usr_local,
        extra_hosts: vec![],
    };
    (spec, missing)
}

/// The component and six characters of the instance: a name has 40, and a host's 64.
fn hostname(target: &InstanceTarget) -> String {
    format!("{}-{}", target.component, target.id.short())
}

/// Each process of an instance has a sandbox of its own, so that what is left of one is never taken
/// for another.
pub fn sandbox_id(instance: InstanceId, attempt: u32) -> SandboxId {
    // An id is 30 characters of those that a sandbox's may have, and so is a number.
    SandboxId::new(format!("{instance}-{attempt}")).expect("an id and a number make a sandbox's id")
}
