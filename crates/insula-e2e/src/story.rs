//! The stories that are told in two lengths: bounded by the tests, full by bench and soak.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::folder;
use crate::load::{Load, Seen};
use crate::machine::{Machine, wait_for};
use crate::process;

/// The issue's own bound: after a crash of everything, a deployment has its verdict within this.
pub const VERDICT_TIME_MAX: Duration = Duration::from_secs(60);
/// For what should take a moment and shares two cores with everything else.
pub const MOMENT: Duration = Duration::from_secs(30);

/// A number that looks random and is the same for the same seed.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*, good enough to pick moments.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }
}

/// A Python service that answers with what it drew when it began: tells a process from its
/// successor.
pub const REMEMBERS: &str = r#"import http.server, os, secrets, signal, threading
drawn = (secrets.token_hex(8) + "\n").encode()

class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        if self.path == "/die":
            os._exit(3)
        self.send_response(200)
        self.send_header("Content-Length", str(len(drawn)))
        self.end_headers()
        self.wfile.write(drawn)
    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Hello)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
"#;

pub fn url(deployed: &Value) -> Result<String> {
    Ok(deployed["url"].as_str().with_context(|| format!("no url in {deployed}"))?.to_owned())
}

/// Time from the call of `insula deploy` to the first 200 at the URL it printed.
pub fn first_200(machine: &Machine, folder: &std::path::Path, app: &str) -> Result<Duration> {
    let began = Instant::now();
    let deployed = machine.deploy(folder, app)?;
    let url = url(&deployed)?;
    let answer = machine.visit(&url, "/")?;
    ensure!(answer.status == 200, "{url} answered {}: {}", answer.status, answer.text());
    Ok(began.elapsed())
}

#[derive(Debug)]
pub struct UnderLoad {
    pub seen: Seen,
    /// Failed requests while deployments and rollbacks went on.
    pub failed_in_moves: usize,
    /// Failed requests while instances behind two were killed.
    pub failed_in_kills: usize,
    pub deploys: Vec<Duration>,
    pub rollbacks: Vec<Duration>,
}

/// Deploys, rolls back, and kills instances behind two, with requests at a steady rate throughout.
pub fn moves_under_load(
    machine: &Machine,
    deploys: u32,
    rollbacks: u32,
    rate: u32,
) -> Result<UnderLoad> {
    let source = folder::python("one")?;
    let toml =
        "[components.web]\nkind = \"service\"\nrun = \"exec python3 main.py\"\ninstances = 2\n";
    folder::write(source.path(), "insula.toml", toml)?;
    let deployed = machine.deploy(source.path(), "moving")?;
    let host = crate::machine::host_of(&url(&deployed)?)?;
    let load = Load::start(machine.edge, &host, "/", rate);
    let mut report = UnderLoad {
        seen: Seen::default(),
        failed_in_moves: 0,
        failed_in_kills: 0,
        deploys: Vec::new(),
        rollbacks: Vec::new(),
    };
    for n in 0..deploys {
        folder::write(source.path(), "version.txt", &n.to_string())?;
        let began = Instant::now();
        machine.deploy(source.path(), "moving")?;
        report.deploys.push(began.elapsed());
    }
    for n in 0..rollbacks {
        let to = if n % 2 == 0 { "v1" } else { "v2" };
        let began = Instant::now();
        machine.json(&["rollback", to, "--app", "moving"])?;
        report.rollbacks.push(began.elapsed());
    }
    report.failed_in_moves = load.seen().failed.len();
    for instance in instance_pids(machine, "moving")? {
        process::signal(instance, Signal::KILL)?;
        wait_ready(machine, "moving", 2)?;
    }
    report.seen = load.finish();
    report.failed_in_kills = report.seen.failed.len() - report.failed_in_moves;
    Ok(report)
}

/// What `insula ps --json` lists of an app.
pub fn instances(machine: &Machine, app: &str) -> Result<Vec<Value>> {
    let listed = machine.json(&["ps", "--app", app])?;
    let items = listed.get("items").unwrap_or(&listed);
    Ok(items.as_array().with_context(|| format!("not a list: {listed}"))?.clone())
}

pub fn ready(machine: &Machine, app: &str) -> Result<usize> {
    let is_ready = |i: &Value| {
        let text = i.to_string();
        text.contains("\"ready\"") && !text.contains("\"drain\"") && !text.contains("\"stop\"")
    };
    Ok(instances(machine, app)?.iter().filter(|i| is_ready(i)).count())
}

pub fn wait_ready(machine: &Machine, app: &str, count: usize) -> Result<()> {
    wait_for(&format!("{count} ready instances of {app}"), MOMENT, || {
        Ok(ready(machine, app)? == count)
    })
}

/// Pids of the inits of an app's sandboxes, from the records in the data folder.
pub fn instance_pids(machine: &Machine, app: &str) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for instance in instances(machine, app)? {
        let id = instance["id"].as_str().context("id")?.to_owned();
        for entry in std::fs::read_dir(machine.data().join("run"))?.flatten() {
            let named = entry.file_name().to_str().is_some_and(|name| name.contains(&id));
            let record = std::fs::read_to_string(entry.path().join("record.json"));
            if let (true, Ok(text)) = (named, record) {
                let record: Value = serde_json::from_str(&text)?;
                let pid = record["init"]["pid"].as_u64().or(record["pid"].as_u64());
                pids.push(u32::try_from(pid.context("pid of the init")?)?);
            }
        }
    }
    Ok(pids)
}

#[derive(Debug, Default)]
pub struct Kills {
    pub rounds: u32,
    pub acknowledged: usize,
    pub live: usize,
    pub failed: usize,
    pub slowest_verdict: Duration,
}

/// `kill -9` of one role, or of all, at random moments during deployments.
pub fn kill_everything(machine: &mut Machine, rounds: u32, seed: u64) -> Result<Kills> {
    let mut dice = Dice::new(seed);
    let steady =
        folder::with(&[("main.py", REMEMBERS), ("Procfile", "web: exec python3 main.py\n")])?;
    let steady_url = url(&machine.deploy(steady.path(), "steady")?)?;
    let drawn = machine.visit(&steady_url, "/")?.text();
    let moving = folder::python("moving")?;
    let mut kills = Kills { rounds, ..Kills::default() };
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..rounds {
        folder::write(moving.path(), "version.txt", &format!("{seed} {round}"))?;
        let path = moving.path().to_str().context("path")?.to_owned();
        let killing = Duration::from_millis(dice.below(1_200));
        let whom = dice.below(VICTIMS);
        let output = std::thread::scope(|scope| {
            let machine = &*machine;
            let deploying = scope.spawn(move || {
                machine.cli(&["deploy", &path, "--app", "moving", "--detach", "--json"])
            });
            std::thread::sleep(killing);
            let struck = strike(machine, whom);
            let output = deploying.join().map_err(|_| anyhow::anyhow!("the deploying thread"))?;
            struck.and(output)
        })?;
        if whom == SUPERVISOR {
            machine.up()?;
        }
        if output.status.success() {
            let told: Value = serde_json::from_slice(&output.stdout)?;
            let id = told["deployment"].as_str().or(told["id"].as_str());
            acknowledged.push(id.with_context(|| format!("no id in {told}"))?.to_owned());
        }
        let began = Instant::now();
        wait_for("every deployment has its verdict", VERDICT_TIME_MAX, || {
            // The server may be on its way back.
            let Ok(states) = states(machine, "moving") else { return Ok(false) };
            Ok(states.iter().all(|(_, state)| is_final(state)))
        })
        .with_context(|| format!("round {round}, seed {seed}, whom {whom}"))?;
        kills.slowest_verdict = kills.slowest_verdict.max(began.elapsed());
        wait_for("the steady app answers", MOMENT, || {
            Ok(machine.visit(&steady_url, "/").is_ok_and(|a| a.status == 200))
        })?;
        let now = machine.visit(&steady_url, "/")?.text();
        ensure!(now == drawn, "round {round}, seed {seed}: the steady app was restarted");
    }
    let states = states(machine, "moving")?;
    for id in &acknowledged {
        ensure!(
            states.iter().any(|(known, _)| known == id),
            "{id} was acknowledged and is missing"
        );
    }
    let last = states.iter().find(|(id, _)| Some(id) == acknowledged.last());
    ensure!(kills.rounds == 0 || last.is_some(), "nothing was acknowledged");
    kills.acknowledged = acknowledged.len();
    kills.live = states.iter().filter(|(_, s)| s == "live").count();
    kills.failed = states.iter().filter(|(_, s)| s == "failed").count();
    ensure!(kills.live > 0, "nothing became live: {states:?}");
    wait_for("nothing is left but what runs", MOMENT, || {
        let live = instances(machine, "steady")?.len() + instances(machine, "moving")?.len();
        let traces = machine.traces()?;
        Ok(traces.sandboxes.len() == live && traces.links.len() <= live + 1)
    })
    .with_context(|| format!("{:?}", machine.traces()))?;
    Ok(kills)
}

fn is_final(state: &str) -> bool {
    matches!(state, "live" | "failed" | "superseded" | "cancelled")
}

/// Ids and states of all deployments of an app.
pub fn states(machine: &Machine, app: &str) -> Result<Vec<(String, String)>> {
    let listed = machine.json(&["deployments", "--limit", "1000", "--app", app])?;
    let items = listed.get("items").unwrap_or(&listed).as_array().context("a list")?.clone();
    let pair = |d: &Value| Some((d["id"].as_str()?.to_owned(), d["state"].as_str()?.to_owned()));
    items.iter().map(|d| pair(d).with_context(|| format!("not a deployment: {d}"))).collect()
}

/// Each role, all of them, and the supervisor.
const VICTIMS: u64 = 6;
const SUPERVISOR: u64 = 5;

/// Kills by number.
fn strike(machine: &Machine, whom: u64) -> Result<()> {
    if whom == SUPERVISOR {
        let up = machine.up_pid().context("the supervisor")?;
        return process::signal(up, Signal::KILL);
    }
    let all = ["server", "agent", "gateway", "keeper"];
    let named: Vec<&str> = match usize::try_from(whom).ok().and_then(|n| all.get(n)) {
        Some(role) => vec![*role],
        None => all.to_vec(),
    };
    for role in named {
        let pid = if role == "keeper" { machine.keeper() } else { machine.role(role) };
        if let Some(pid) = pid {
            // It may be between two lives.
            let _ = process::signal(pid, Signal::KILL);
        }
    }
    Ok(())
}

#[derive(Debug)]
pub struct Idle {
    /// Role, KiB of memory in proportion, thousandths of a core.
    pub roles: Vec<(String, u64, f64)>,
}

impl Idle {
    pub fn pss_kib(&self) -> u64 {
        self.roles.iter().map(|(_, kib, _)| kib).sum()
    }

    pub fn cpu_mcores(&self) -> f64 {
        self.roles.iter().map(|(_, _, mcores)| mcores).sum()
    }
}

/// Memory and processor of every process of ours while nothing is asked of them.
pub fn idle(machine: &Machine, settle: Duration, watch: Duration) -> Result<Idle> {
    std::thread::sleep(settle);
    let before: Vec<(String, u32, u64)> = machine
        .processes()
        .into_iter()
        .map(|(role, pid)| (role, pid, process::cpu_ms(pid).unwrap_or(0)))
        .collect();
    std::thread::sleep(watch);
    let mut roles = Vec::new();
    for (role, pid, cpu) in before {
        let Some(pss) = process::pss_kib(pid) else { bail!("{role} ended while it was watched") };
        let used = process::cpu_ms(pid).unwrap_or(cpu).saturating_sub(cpu);
        let mcores = used as f64 / watch.as_millis().max(1) as f64 * 1_000.0;
        roles.push((role, pss, mcores));
    }
    Ok(Idle { roles })
}
