//! `insula down`: stops what a data folder still runs, with or without a supervisor.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use insula_agent::DownReport;
use insula_kit::lock::Lock;
use rustix::process::{Pid, Signal, kill_process};

use crate::data::Data;

/// How long a supervisor may take to end its roles.
const SUPERVISOR_TIME_MAX: Duration = Duration::from_secs(40);
/// Between looks whether it has.
const SUPERVISOR_LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data folder
    #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let data = Data::choose(args.data.clone())?;
    if !data.root().join("format").exists() {
        bail!("{} is not a data folder of Insula", data.root().display());
    }
    let _lock = match insula_kit::lock::holder_pid(&data.lock())? {
        Some(pid) => end_supervisor(pid, &data)?,
        None => data.hold()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(stop_apps(&data))?;
    if json {
        println!("{}", serde_json::json!({"stopped": report.stopped, "cleared": report.removed}));
    }
    Ok(ExitCode::SUCCESS)
}

/// By the lock and not by the process, which stays for as long as its parent does not look.
fn end_supervisor(pid: u32, data: &Data) -> anyhow::Result<Lock> {
    let target =
        i32::try_from(pid).ok().and_then(Pid::from_raw).context("the lock names no process")?;
    kill_process(target, Signal::TERM).with_context(|| format!("ask process {pid} to end"))?;
    let began = Instant::now();
    loop {
        match data.hold() {
            Ok(lock) => return Ok(lock),
            Err(error) if began.elapsed() > SUPERVISOR_TIME_MAX => {
                return Err(error.context(format!("wait for the end of process {pid}")));
            }
            Err(_) => std::thread::sleep(SUPERVISOR_LOOK),
        }
    }
}

/// Ends the apps of a data folder and everything that was made for them.
pub async fn stop_apps(data: &Data) -> anyhow::Result<DownReport> {
    // An agent that is still ending, or was started by somebody else, must not run beside this.
    let _agent = crate::role::hold(data, "agent")?;
    let report = insula_agent::down(data.root()).await.context("stop the apps")?;
    let keeper = if report.keeper { ", and the keeper of their logs" } else { "" };
    eprintln!(
        "Stopped {} running and cleared away {} ended{keeper}; nothing is left.",
        report.stopped, report.removed
    );
    Ok(report)
}
