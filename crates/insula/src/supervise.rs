//! Keeps the roles running: a process each, started again when it ends, ended with us.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use insula_kit::backoff::Backoff;
use insula_kit::files;
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
/// An error with its causes: a few lines.
const LAST_WORDS_BYTES_MAX: u64 = 8 * 1024;
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
    /// Where it leaves what it ended of, if it can be trusted with a file that we read.
    pub last_words: Option<PathBuf>,
}

/// A role that will not get better by itself.
#[derive(Debug, Clone)]
pub struct Failing {
    pub role: &'static str,
    /// How its process ended.
    pub ended: String,
    /// What it said itself, if it did.
    pub said: Option<String>,
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
        if let Some(path) = &self.last_words {
            // Those of an earlier process; where there are none there is nothing to remove.
            let _ = std::fs::remove_file(path);
            command.env(crate::LAST_WORDS, path);
        }
        command.spawn()
    }

    fn last_words(&self) -> Option<String> {
        let bytes = files::read(self.last_words.as_ref()?, LAST_WORDS_BYTES_MAX).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        // They end in somebody's terminal.
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Some(line.trim().to_owned()).filter(|line| !line.is_empty())
    }
}

/// Runs a role until the end is asked for, then ends it.
///
/// A role that ends again and again is told to `failing`; at the start, that ends it all.
pub async fn keep(
    role: Role,
    shutdown: Shutdown,
    end: tokio::sync::watch::Receiver<bool>,
    failing: tokio::sync::watch::Sender<Option<Failing>>,
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
            let ended = match &status {
                Ok(status) => words(*status),
                Err(error) => format!("cannot be started: {error}"),
            };
            let said = role.last_words();
            failing.send_replace(Some(Failing { role: role.name, ended, said }));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn role(last_words: Option<PathBuf>) -> Role {
        let environment = Environment::Logging;
        Role { name: "agent", args: vec![], environment, log_filter: None, user: None, last_words }
    }

    #[test]
    fn the_last_words_of_a_role_are_one_line_that_drives_no_terminal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last-words");
        assert_eq!(role(None).last_words(), None);
        assert_eq!(role(Some(path.clone())).last_words(), None);
        std::fs::write(&path, "no control groups:\nmount \u{1b}[2Jthem\n").unwrap();
        let said = role(Some(path)).last_words();
        assert_eq!(said.as_deref(), Some("no control groups: mount  [2Jthem"));
    }
}
