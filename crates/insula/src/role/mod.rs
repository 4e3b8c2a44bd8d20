//! The roles, one file each: read the arguments, open what it needs, run until asked to end.

pub mod agent;
pub mod backup;
pub mod blobs;
mod build_env;
mod fleet;
pub mod gateway;
pub mod master_key;
pub mod migrate;
pub mod relay;
mod resolver;
pub mod server;
mod store;
mod unprivileged;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use insula_kit::lock::{Lock, LockError};
use insula_kit::shutdown::Shutdown;
use insula_kit::telemetry::{FILTER_VARIABLE, LogFormat, Telemetry};

use crate::data::Data;

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum LogFormatArg {
    Auto,
    Human,
    Json,
}

impl From<LogFormatArg> for LogFormat {
    fn from(given: LogFormatArg) -> Self {
        match given {
            LogFormatArg::Auto => Self::Auto,
            LogFormatArg::Human => Self::Human,
            LogFormatArg::Json => Self::Json,
        }
    }
}

/// Logging, and the end together with the supervisor, if there is one.
fn begin(role: &'static str, format: LogFormatArg) -> anyhow::Result<()> {
    let filter = std::env::var(FILTER_VARIABLE).ok();
    Telemetry { role, format: format.into(), filter }.start()?;
    if let Some(supervisor) = std::env::var(crate::SUPERVISOR).ok().and_then(|p| p.parse().ok()) {
        let signal = Some(rustix::process::Signal::TERM);
        rustix::process::set_parent_process_death_signal(signal)?;
        let parent = rustix::process::getppid().map(|p| p.as_raw_nonzero().get());
        if parent != Some(supervisor) {
            anyhow::bail!("the supervisor {supervisor} is gone already");
        }
    }
    Ok(())
}

/// How long a role waits for its predecessor, which may be ending.
const PREDECESSOR_TIME_MAX: Duration = Duration::from_secs(15);
/// Between looks whether it has.
const PREDECESSOR_LOOK: Duration = Duration::from_millis(20);

/// One process of a role at a time in a data folder, whoever started it.
pub fn hold(data: &Data, role: &'static str) -> anyhow::Result<Lock> {
    if std::env::var_os(crate::SUPERVISOR).is_none() {
        // Nobody has made the folder for it.
        data.prepare()?;
    }
    take_place(data, role)
}

/// The same in a folder that is made already, by somebody who may do more.
fn take_place(data: &Data, role: &'static str) -> anyhow::Result<Lock> {
    let path = data.role_lock(role);
    let began = Instant::now();
    loop {
        match Lock::acquire(&path) {
            Err(LockError::Held { .. }) if began.elapsed() < PREDECESSOR_TIME_MAX => {
                std::thread::sleep(PREDECESSOR_LOOK);
            }
            other => return Ok(other?),
        }
    }
}

/// Waits for the roles of a supervisor that was killed: they end with it, and take a moment.
pub fn wait_for_predecessors(data: &Data) -> anyhow::Result<()> {
    let began = Instant::now();
    for role in ["server", "agent", "gateway"] {
        while let Some(pid) = insula_kit::lock::holder_pid(&data.role_lock(role))? {
            if began.elapsed() > PREDECESSOR_TIME_MAX {
                anyhow::bail!(
                    "{} is still run by process {pid}, the {role} of another start",
                    data.root().display()
                );
            }
            std::thread::sleep(PREDECESSOR_LOOK);
        }
    }
    Ok(())
}

/// Runs a role's future on a runtime of its own until it ends or fails.
fn run_until_asked<F>(
    runtime: &tokio::runtime::Runtime,
    role: impl FnOnce(Shutdown) -> F,
) -> anyhow::Result<ExitCode>
where
    F: Future<Output = anyhow::Result<()>>,
{
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        shutdown.listen_to_signals()?;
        role(shutdown).await
    })?;
    Ok(ExitCode::SUCCESS)
}
