//! Keeps the roles running: a process each, started again when it ends, ended with us.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use insula_kit::backoff::Backoff;
use insula_kit::shutdown::Shutdown;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tracing::{error, info, warn};

/// The first restart is at once; a role that cannot start does not take the machine with it.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(10));
/// Ends in a row after which a role will not get better by itself.
const FAILURES_TOLD: u32 = 4;
/// After this long a role has proved itself and its failures are forgotten.
const PROVED_AFTER: Duration = Duration::from_secs(10);
/// How long a role may take to end after it was asked.
const END_TIME_MAX: Duration = Duration::from_secs(10);

/// A process of ours that `up` keeps running.
#[derive(Debug, Clone)]
pub struct Role {
    pub name: &'static str,
    pub args: Vec<String>,
    pub environment: Environment,
    /// What it logs, where the operator did not say.
    pub log_filter: Option<&'static str>,
    /// User and group, for a role that must have no privilege.
    pub user: Option<(u32, u32)>,
}

/// What a role gets of the environment that `up` was started in: credentials stand in it.
#[derive(Debug, Clone, Copy)]
pub enum Environment {
    Whole,
    Without(&'static [&'static str]),
    /// How to log, and nothing else: for what parses a stranger's bytes.
    Logging,
}

/// What says how to log.
const LOGGING: [&str; 2] = [insula_kit::telemetry::FILTER_VARIABLE, "NO_COLOR"];

/// The path of the program that runs now, whatever has become of its file since.
const SELF: &str = "/proc/self/exe";

impl Role {
    fn start(&self) -> std::io::Result<Child> {
        let mut command = Command::new(SELF);
        command
            .arg0("insula")
            .args(&self.args)
            .env(crate::SUPERVISOR, std::process::id().to_string())
            // Nobody keeps a folder from being unmounted, and everybody may stand in this one.
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Its own group: Ctrl-C is for the supervisor to hear and to translate.
            .process_group(0);
        match self.environment {
            Environment::Whole => {}
            Environment::Without(names) => {
                for name in names {
                    command.env_remove(name);
                }
            }
            Environment::Logging => {
                command.env_clear().env(crate::SUPERVISOR, std::process::id().to_string());
                let kept = LOGGING.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
                command.envs(kept);
            }
        }
        if let Some(filter) = self.log_filter {
            command.env(insula_kit::telemetry::FILTER_VARIABLE, filter);
        }
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command.spawn()
    }
}

/// Runs a role until the end is asked for, then ends it.
///
/// A role that ends again and again is told to `failing`; at the start, that ends it all.
pub async fn keep(
    role: Role,
    shutdown: Shutdown,
    end: tokio::sync::watch::Receiver<bool>,
    failing: tokio::sync::watch::Sender<Option<&'static str>>,
) {
    let mut failures = 0;
    while !shutdown.begun() {
        let began = Instant::now();
        let status = match role.start() {
            Ok(mut child) => tokio::select! {
                status = child.wait() => status,
                _ = asked(end.clone()) => {
                    finish(&role, child).await;
                    return;
                }
            },
            Err(error) => Err(error),
        };
        if began.elapsed() >= PROVED_AFTER {
            failures = 0;
        }
        failures += 1;
        if failures == FAILURES_TOLD {
            failing.send_replace(Some(role.name));
        }
        match status {
            Ok(status) => {
                warn!(role = role.name, ended = %words(status), "a role ended; starting it again")
            }
            Err(error) => error!(role = role.name, %error, "a role cannot be started"),
        }
        let wait = if failures == 1 { Duration::ZERO } else { BACKOFF.delay(failures - 1, 0.5) };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = asked(end.clone()) => return,
        }
    }
}

async fn asked(mut end: tokio::sync::watch::Receiver<bool>) {
    // An error means that whoever could ask is gone, which is asking too.
    let _ = end.wait_for(|asked| *asked).await;
}

async fn finish(role: &Role, mut child: Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself a moment ago; then there is nothing to ask.
        let _ = kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(END_TIME_MAX, child.wait()).await {
        Ok(_) => info!(role = role.name, "ended"),
        Err(_) => {
            warn!(role = role.name, "did not end in time and is killed");
            let _ = child.kill().await;
        }
    }
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}
