//! A PostgreSQL from the distribution's package, in a place of its own or on this machine.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::ground::Place;
use crate::machine::wait_for;
use crate::process;

pub const PORT: u16 = 5432;
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// The user that the package makes; PostgreSQL refuses to be root.
const USER: &str = "postgres";

#[derive(Debug)]
pub struct Database {
    /// Nothing for this machine's own network, where it listens on loopback.
    place: Option<Place>,
    address: SocketAddr,
    folder: PathBuf,
    bin: PathBuf,
    child: Option<std::process::Child>,
}

/// The folder of PostgreSQL's programs, the newest version first.
pub fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("postgres").exists())
        .collect();
    found.sort();
    found.pop()
}

impl Database {
    pub fn start(place: Place, under: &Path) -> Result<Self> {
        let address = place.at(PORT);
        Self::start_at(Some(place), address, under)
    }

    /// On loopback, at a port that is free.
    pub fn start_here(under: &Path) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Self::start_at(None, address, under)
    }

    fn start_at(place: Option<Place>, address: SocketAddr, under: &Path) -> Result<Self> {
        let bin = programs().context("the package postgresql is missing")?;
        let folder = under.join("postgres");
        std::fs::create_dir(&folder)?;
        // The user of the database has to get through to its folder.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(under, mode)?;
        run(Command::new("chown").arg(format!("{USER}:")).arg(&folder))?;
        let mut database = Self { place, address, folder, bin, child: None };
        let data = database.data();
        run(database
            .as_user(&Command::new(database.bin.join("initdb")))
            .arg("-D")
            .arg(&data)
            .args(["-A", "trust", "-U", "insula", "--no-sync", "-E", "UTF8", "--locale=C"]))?;
        let mut config = std::fs::File::options().append(true).open(data.join("pg_hba.conf"))?;
        writeln!(config, "host all all 10.97.0.0/24 trust")?;
        database.resume()?;
        Ok(database)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The command, as the database's user and in its place.
    fn as_user(&self, command: &Command) -> Command {
        let setpriv = "setpriv";
        let mut whole =
            self.place.as_ref().map_or_else(|| Command::new(setpriv), |it| it.command(setpriv));
        whole.args(["--reuid", USER, "--regid", USER, "--init-groups", "--"]);
        whole.arg(command.get_program()).args(command.get_args()).current_dir(&self.folder);
        whole.stdin(Stdio::null());
        whole
    }

    pub fn url(&self) -> String {
        format!("postgres://insula@{}/postgres?sslmode=disable", self.address)
    }

    /// Starts it (again).
    pub fn resume(&mut self) -> Result<()> {
        let mut command = Command::new(self.bin.join("postgres"));
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.folder);
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        command.args(["-h", &host, "-p", &port]);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.with_extension("log"))?;
        let mut command = self.as_user(&command);
        let child = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        self.child = Some(child);
        wait_for("PostgreSQL answers", START_TIME_MAX, || {
            let listens = || Ok(TcpStream::connect(self.address).is_ok());
            self.place.as_ref().map_or_else(listens, |place| place.inside(listens))
        })
    }

    /// Whether it takes questions: not while it mends what a crash left.
    pub fn answers(&self) -> Result<bool> {
        let mut command = Command::new(self.bin.join("pg_isready"));
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        command.args(["-q", "-h", &host, "-p", &port]);
        Ok(self.as_user(&command).status()?.success())
    }

    /// The answer to a question, one line for each row.
    pub fn ask(&self, sql: &str) -> Result<String> {
        let mut command = Command::new(self.bin.join("psql"));
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        command.args(["-h", &host, "-p", &port, "-U", "insula", "-d", "postgres", "-XAtc", sql]);
        let output = self.as_user(&command).output()?;
        if !output.status.success() {
            bail!("{sql}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(std::process::Child::id)
    }

    /// It and the processes that it started.
    fn processes(&self) -> Vec<u32> {
        let Some(pid) = self.pid() else { return Vec::new() };
        [vec![pid], process::children(pid)].concat()
    }

    /// `kill -9` of all of it, with no chance to write anything down.
    pub fn crash(&mut self) -> Result<()> {
        // The first of them would start the others again.
        for pid in self.processes() {
            match process::signal(pid, Signal::KILL) {
                Err(error) if process::is_alive(pid) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.wait()?;
        Ok(())
    }

    /// Connections stay, and nobody answers.
    pub fn freeze(&self) -> Result<()> {
        self.signal_all(Signal::STOP)
    }

    pub fn thaw(&self) -> Result<()> {
        self.signal_all(Signal::CONT)
    }

    fn signal_all(&self, signal: Signal) -> Result<()> {
        for pid in self.processes() {
            match process::signal(pid, signal) {
                // The end of one that served a connection.
                Err(error) if process::is_alive(pid) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Ends it at once; what was acknowledged is on its disk.
    pub fn kill(&mut self) -> Result<()> {
        // What is frozen hears nothing.
        self.thaw()?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // Immediate shutdown: its children go with it, and no memory of theirs stays shared.
        process::signal(child.id(), Signal::QUIT)?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
