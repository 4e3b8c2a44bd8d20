//! A fleet of the real binary in network namespaces: servers, nodes, gateways, a database.
//!
//! Every process stands in a place of its own (see `ground`) and is hurt there: killed, frozen, cut
//! off. The command line runs in the place of a server, because the API is on loopback.

mod api;
pub mod capture;
pub mod database;
pub mod flows;
pub mod ground;
pub mod impostor;
pub mod past;
pub mod process;
pub mod relays;
pub mod s3;
pub mod watch;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::host::Traces;
use crate::http::{self, Answer};
use crate::machine::{host_of, program, wait_for};
use database::Database;
use ground::Ground;
use process::Role;
use s3::S3;

/// Where each role listens in its place.
const FLEET_PORT: u16 = 7443;
const RELAY_PORT: u16 = 7444;
pub const API: &str = "127.0.0.1:7070";
pub const EDGE_PORT: u16 = 8080;

/// How long a fleet may take to stand, on a machine that is busy with other tests.
const STAND_TIME_MAX: Duration = Duration::from_secs(60);

/// What a fleet is made of.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// More than one of them share a PostgreSQL.
    pub servers: usize,
    pub nodes: usize,
    pub gateways: usize,
}

#[derive(Debug)]
pub struct Fleet {
    // In the order in which they end: agents last, so that `down` finds nobody.
    pub gateways: Vec<Role>,
    pub servers: Vec<Role>,
    pub nodes: Vec<Role>,
    pub database: Option<Database>,
    /// In place of a folder that all servers see.
    pub s3: Option<S3>,
    pub ground: Ground,
    /// The server that is asked; else the first that runs.
    pub front: Option<usize>,
    /// Its story went well: nobody wants to read logs.
    finished: bool,
    program: PathBuf,
    /// Whether nodes are told where their relay listens; who is not finds out.
    tells_relays: bool,
    folder: TempDir,
}

impl Fleet {
    /// A fleet that stands: every node ready, every gateway connected.
    pub fn start(shape: Shape) -> Result<Self> {
        Self::start_of(program()?, shape)
    }

    /// The same of another build.
    pub fn start_of(program: PathBuf, shape: Shape) -> Result<Self> {
        let mut fleet = Self::prepare()?;
        // A build of before might not find out.
        fleet.tells_relays = program != fleet.program;
        fleet.program = program;
        if shape.servers > 1 {
            let place = fleet.ground.place("db")?;
            fleet.database = Some(Database::start(place, fleet.folder.path())?);
        }
        for _ in 0..shape.servers {
            fleet.add_server()?;
        }
        for _ in 0..shape.nodes {
            fleet.add_node(&[])?;
        }
        for _ in 0..shape.gateways {
            fleet.add_gateway()?;
        }
        fleet.wait_until_ready(shape.nodes)?;
        Ok(fleet)
    }

    /// The ground alone.
    pub fn prepare() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("insula-fleet").tempdir()?;
        Ok(Self {
            gateways: Vec::new(),
            servers: Vec::new(),
            nodes: Vec::new(),
            database: None,
            s3: None,
            ground: Ground::lay()?,
            front: None,
            finished: false,
            program: program()?,
            tells_relays: false,
            folder,
        })
    }

    /// From now on servers keep their blobs in an S3 that has a place of its own.
    pub fn keep_blobs_in_s3(&mut self) -> Result<()> {
        let place = self.ground.place("s3")?;
        self.s3 = Some(S3::start(place, self.folder.path())?);
        Ok(())
    }

    /// That S3, to be hurt.
    pub fn s3(&mut self) -> Result<&mut S3> {
        self.s3.as_mut().context("blobs are in a folder")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The next server; its data folder is prepared with the master key of the first.
    pub fn add_server(&mut self) -> Result<usize> {
        let number = self.servers.len();
        let place = self.ground.place(&format!("s{number}"))?;
        let fleet = place.at(FLEET_PORT).to_string();
        let edge = format!("127.0.0.1:{EDGE_PORT}");
        let blobs = self.folder.path().join("blobs").display().to_string();
        let mut args = vec!["server", "--api", API, "--edge", &edge, "--fleet", &fleet];
        let s3 = self.s3.as_ref().map(S3::flags);
        match &s3 {
            Some(flags) => args.extend(flags.iter().map(String::as_str)),
            None => args.extend(["--blobs", &blobs]),
        }
        let url = self.database.as_ref().map(Database::url);
        if let Some(url) = &url {
            args.extend(["--database", url]);
        }
        let mut role = Role::new(place, self.folder.path(), &self.program, &args);
        if s3.is_some() {
            S3::keys().iter().for_each(|(name, value)| role.set_variable(name, value));
        }
        if let Some(first) = self.servers.first() {
            std::fs::create_dir_all(&role.data)?;
            let (from, to) = (first.data.join("master.key"), role.data.join("master.key"));
            std::fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        }
        role.start()?;
        self.servers.push(role);
        wait_for(&format!("server {number} answers"), STAND_TIME_MAX, || {
            ensure!(self.servers[number].is_running()?, "{}", self.servers[number].excerpt());
            Ok(self.cli_at(number, &["status", "--json"])?.status.success())
        })?;
        Ok(number)
    }

    /// Where members dial, joined by commas.
    pub fn fleet_addresses(&self) -> String {
        let addresses: Vec<String> =
            self.servers.iter().map(|role| role.place.at(FLEET_PORT).to_string()).collect();
        addresses.join(",")
    }

    /// A token to join with.
    pub fn token(&self, more: &[&str]) -> Result<String> {
        let made = self.json(&[&["nodes", "token"], more].concat())?;
        Ok(made["secret"].as_str().context("secret")?.to_owned())
    }

    /// A node that joins with a token that `more` describes (`--zone`, `--label`, …).
    pub fn add_node(&mut self, more: &[&str]) -> Result<usize> {
        let number = self.nodes.len();
        let token = self.token(more)?;
        let mut role = self.node_role(number, &token)?;
        role.start()?;
        role.forget_argument("--token");
        self.nodes.push(role);
        Ok(number)
    }

    /// An agent as it would be started, and is not yet.
    pub fn node_role(&mut self, number: usize, token: &str) -> Result<Role> {
        let name = format!("n{number}");
        let place = self.ground.place(&name)?;
        let servers = self.fleet_addresses();
        let relay = place.at(RELAY_PORT).to_string();
        let mut args = vec!["agent", "--server", &servers, "--token", token, "--name", &name];
        if self.tells_relays {
            args.extend(["--relay", &relay]);
        }
        Ok(Role::new(place, self.folder.path(), &self.program, &args))
    }

    pub fn add_gateway(&mut self) -> Result<usize> {
        let mut role = self.gateway_role()?;
        role.start()?;
        role.forget_argument("--token");
        self.gateways.push(role);
        Ok(self.gateways.len() - 1)
    }

    /// The next gateway as it would be started, and is not yet.
    pub fn gateway_role(&mut self) -> Result<Role> {
        let token = self.token(&["--for", "gateway"])?;
        let place = self.ground.place(&format!("g{}", self.gateways.len()))?;
        let listen = format!("127.0.0.1:{EDGE_PORT}");
        let servers = self.fleet_addresses();
        let args = ["gateway", "--server", &servers, "--token", &token, "--listen", &listen];
        Ok(Role::new(place, self.folder.path(), &self.program, &args))
    }

    /// Waits until so many nodes are ready and every gateway is there.
    pub fn wait_until_ready(&self, nodes: usize) -> Result<()> {
        let waited = wait_for("the fleet stands", STAND_TIME_MAX, || {
            let status = self.json(&["status"])?;
            let there = &status["installation"];
            let ready = there["nodes_by_state"]["ready"].as_u64().unwrap_or(0);
            let gateways = there["gateways"].as_u64().unwrap_or(0);
            Ok(ready >= nodes as u64 && gateways >= self.gateways.len() as u64)
        });
        waited.with_context(|| format!("{:?}", self.nodes_told()))
    }

    /// The command line at a server's place.
    pub fn cli_at(&self, server: usize, args: &[&str]) -> Result<Output> {
        let role = self.servers.get(server).context("there is no such server")?;
        Ok(role
            .command()
            .args(args)
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .output()?)
    }

    /// A command that has to succeed, at the server that is asked.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let running = self.servers.iter().position(|role| role.pid().is_some());
        self.ok_at(self.front.or(running).unwrap_or(0), args)
    }

    pub fn ok_at(&self, server: usize, args: &[&str]) -> Result<String> {
        let output = self.cli_at(server, args)?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!(
                "insula {args:?} ended with {}\nstdout: {stdout}\nstderr: {stderr}",
                output.status
            );
        }
        Ok(stdout)
    }

    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.ok(&[args, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{args:?} printed {text:?}"))
    }

    pub fn deploy(&self, folder: &Path, app: &str) -> Result<Value> {
        let path = folder.to_str().context("path")?;
        self.json(&["deploy", path, "--app", app])
    }

    /// Asks a gateway for a page of an app, in the gateway's place.
    pub fn visit(&self, gateway: usize, url: &str, path: &str) -> Result<Answer> {
        let role = self.gateways.get(gateway).context("there is no such gateway")?;
        let (host, edge) = (host_of(url)?, format!("127.0.0.1:{EDGE_PORT}").parse()?);
        role.place.inside(|| http::get(edge, &host, path))
    }

    /// A request to a server's API with the operator's token, in the server's place.
    pub fn api_at(&self, server: usize, method: &str, path: &str, body: &Value) -> Result<Answer> {
        let role = self.servers.get(server).context("there is no such server")?;
        let operator = std::fs::read_to_string(role.data.join("operator.json"))?;
        let operator: Value = serde_json::from_str(&operator)?;
        let bearer = format!("Bearer {}", operator["token"].as_str().context("token")?);
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        role.place.inside(|| {
            let mut api = http::Connection::open(API.parse()?)?;
            api.send(method, API, path, &headers, body.as_bytes())
        })
    }

    /// The server that decides, as the one that is asked says.
    pub fn leader(&self) -> Result<Option<usize>> {
        let status = self.json(&["status"])?;
        let servers = status["installation"]["servers"].as_array().context("servers")?;
        let leads = servers.iter().find(|one| one["leads"] == true);
        let address = leads.and_then(|one| one["fleet"].as_str()).unwrap_or_default();
        let at = |role: &Role| role.place.at(FLEET_PORT).to_string() == address;
        Ok(self.servers.iter().position(at))
    }

    /// All that the API tells of the nodes, for the eyes of who looks for a fault.
    fn nodes_told(&self) -> Result<String> {
        Ok(self.json(&["nodes", "list"])?.to_string())
    }

    pub fn node_states(&self) -> Result<Vec<(String, String)>> {
        let nodes = self.json(&["nodes", "list"])?;
        let nodes = nodes.as_array().context("a list of nodes")?.iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(nodes.map(|node| (text(&node["name"]), text(&node["state"]))).collect())
    }

    fn roles(&self) -> impl Iterator<Item = &Role> {
        self.servers.iter().chain(&self.nodes).chain(&self.gateways)
    }

    /// What matters of what every process has said.
    pub fn logs(&self) -> String {
        self.roles().map(|role| format!("--- {} ---\n{}\n", role.name(), role.excerpt())).collect()
    }

    /// Ends everything and looks whether anything is left of it.
    pub fn finish(mut self) -> Result<()> {
        let tag = |role: &Role| -> Result<String> {
            let told = role.command().args(["doctor", "--tag"]).output()?;
            Ok(String::from_utf8_lossy(&told.stdout).trim().to_owned())
        };
        let mut tags = Vec::new();
        for role in &self.nodes {
            tags.push((role.data.clone(), tag(role)?));
        }
        self.end();
        for (data, tag) in tags {
            let traces = Traces::of(&data, &tag);
            ensure!(traces.is_empty(), "{} leaves {traces:?}", data.display());
        }
        for role in self.roles() {
            let left = crate::process::with_argument(&role.data.display().to_string());
            ensure!(left.is_empty(), "{} leaves {left:?}", role.name());
        }
        self.finished = true;
        Ok(())
    }

    /// Ends every process, the apps too, and says what did not go well.
    fn end(&mut self) {
        for role in self.gateways.iter_mut().chain(&mut self.servers).chain(&mut self.nodes) {
            if let Err(error) = role.stop() {
                eprintln!("{error:#}");
            }
        }
        for role in self.nodes.iter().filter(|role| role.data.join("format").exists()) {
            // The apps outlive their agent.
            let down = role.command().arg("down").arg("--data").arg(&role.data).output();
            if let Ok(down) = down
                && !down.status.success()
            {
                eprintln!("insula down: {}", String::from_utf8_lossy(&down.stderr));
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.end();
        if !self.finished {
            eprintln!("{}", self.logs());
        }
    }
}
