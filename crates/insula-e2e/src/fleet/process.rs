//! A process of the fleet: started in its place, hurt, and started again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::ground::Place;
use crate::machine::LOOK;
use crate::process;

const END_TIME_MAX: Duration = Duration::from_secs(30);
/// Of a log that is shown when a test failed: its last lines, and so many warnings before them.
const LAST_LINES: usize = 40;
const WARNINGS_MAX: usize = 60;

#[derive(Debug)]
pub struct Role {
    pub place: Place,
    /// Its data folder.
    pub data: PathBuf,
    program: PathBuf,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Role {
    pub fn new(place: Place, folder: &Path, program: &Path, args: &[&str]) -> Self {
        let data = folder.join(&place.name);
        let log = folder.join(format!("{}.log", place.name));
        Self {
            place,
            data,
            program: program.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            environment: vec![("INSULA_LOG".into(), "info".into())],
            log,
            child: None,
        }
    }

    /// Sets a variable, from the next start on.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// Another binary from the next start on: an upgrade.
    pub fn upgrade(&mut self, program: &Path) {
        self.program = program.to_owned();
    }

    /// Takes arguments away that are needed once only, a token say.
    pub fn forget_argument(&mut self, flag: &str) {
        if let Some(at) = self.args.iter().position(|arg| arg == flag) {
            self.args.drain(at..at + 2);
        }
    }

    /// Arguments from the next start on.
    pub fn add_arguments(&mut self, more: &[&str]) {
        self.args.extend(more.iter().map(|arg| (*arg).to_owned()));
    }

    pub fn start(&mut self) -> Result<()> {
        self.reap()?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let supervises = self.args.first().is_some_and(|role| role == "up");
        let log_format: &[&str] =
            if supervises { &["--log-json"] } else { &["--log-format", "json"] };
        let child = self
            .place
            .command(&self.program)
            .args(&self.args)
            .arg("--data")
            .arg(&self.data)
            .args(log_format)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.place.name))?;
        self.child = Some(child);
        Ok(())
    }

    /// A command of the same program in the same place.
    pub fn command(&self) -> Command {
        let mut command = self.place.command(&self.program);
        command.env("INSULA_DATA", &self.data).env("NO_COLOR", "1");
        command
    }

    /// `nsenter` becomes the program: its pid is the program's.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn is_running(&mut self) -> Result<bool> {
        let Some(child) = &mut self.child else { return Ok(false) };
        Ok(child.try_wait()?.is_none())
    }

    /// The code that it ended with, if it has by then.
    pub fn ended_within(&mut self, within: Duration) -> Result<Option<i32>> {
        let deadline = Instant::now() + within;
        let Some(child) = &mut self.child else { return Ok(None) };
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            std::thread::sleep(LOOK);
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.place.name))?;
        process::signal(pid, signal)
    }

    /// `kill -9`, and the end of it.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self) -> Result<()> {
        if self.child.is_none() {
            return Ok(());
        }
        if !self.is_running()? {
            self.child = None;
            return Ok(());
        }
        // One that was frozen could not hear it.
        self.signal(Signal::CONT)?;
        self.signal(Signal::TERM)?;
        if self.ended_within(END_TIME_MAX)?.is_none() {
            self.kill()?;
            bail!("{} did not end; it said:\n{}", self.place.name, self.excerpt());
        }
        self.child = None;
        Ok(())
    }

    fn reap(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take()
            && child.try_wait()?.is_none()
        {
            bail!("{} runs already", self.place.name);
        }
        Ok(())
    }

    /// What matters of what it wrote: warnings, and the last lines.
    pub fn excerpt(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let (before, last) = lines.split_at(lines.len().saturating_sub(LAST_LINES));
        let is_calm = |line: &str| line.contains("\"INFO\"") || line.contains("\"DEBUG\"");
        let warnings = before.iter().filter(|line| !is_calm(line)).take(WARNINGS_MAX);
        let shown: Vec<&str> = warnings.chain(last).copied().collect();
        shown.join("\n")
    }

    /// What it wrote to stderr, over all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}
