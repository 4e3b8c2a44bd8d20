//! The sandbox of one step of a build. Pure.

use std::path::{Path, PathBuf};

use insula_model::Bytes;
use insula_model::build::BuildStep;
use insula_model::target::BuildTarget;
use insula_sandbox::{AppLayer, Bind, Limits, SandboxId, SandboxSpec, Upper};

use super::settings::Settings;
use crate::instance::{OPEN_FILES, app_dir, defaults};
use crate::places::Place;

/// What package managers keep for the next build of the app.
const CACHE: &str = "/cache";
/// Wheels are compiled here.
const TMP_MAX: Bytes = Bytes::gib(1);
const SHM_MAX: Bytes = Bytes::mib(64);
const HOSTNAME: &str = "build";

/// Where the caches of package managers lie, and that nobody is there to answer questions.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("CI", "true"),
    ("HOME", "/tmp"),
    ("PIP_CACHE_DIR", "/cache/pip"),
    ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
    ("PIP_NO_INPUT", "1"),
    ("XDG_CACHE_HOME", "/cache/xdg"),
    ("npm_config_cache", "/cache/npm"),
];

#[derive(Debug)]
pub struct Surroundings<'a> {
    pub sandbox: SandboxId,
    /// The topmost first.
    pub layers: Vec<PathBuf>,
    pub upper: &'a Path,
    pub work: &'a Path,
    pub cache: &'a Path,
    pub place: &'a Place,
    pub settings: &'a Settings,
    pub open_usr_local: bool,
}

pub fn spec(target: &BuildTarget, step: &BuildStep, around: Surroundings<'_>) -> SandboxSpec {
    let mut env = defaults(step.runtime, &step.dir);
    // Packages that only builds need would be left out.
    env.remove("NODE_ENV");
    env.extend(ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.extend(around.settings.env.clone());
    env.extend(target.variables.iter().map(|(name, value)| (name.to_string(), value.clone())));
    env.extend(step.env.clone());
    let cache = Bind { source: around.cache.into(), target: CACHE.into(), read_only: false };
    let mut binds = vec![cache];
    binds.extend(around.settings.binds.iter().cloned());
    let (upper, work) = (around.upper.to_owned(), around.work.to_owned());
    SandboxSpec {
        id: around.sandbox,
        argv: step.argv.clone(),
        env: env.into_iter().collect(),
        cwd: app_dir(&step.dir),
        app: AppLayer { lower: around.layers, upper: Upper::Directory { upper, work } },
        binds,
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
        hostname: HOSTNAME.into(),
        resolver: around.place.attachment.as_ref().map(|attachment| attachment.gateway),
        open_usr_local: around.open_usr_local,
        extra_hosts: vec![],
    }
}
