//! What a request costs on its way through a relay, beside the direct one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Options, spread};
use crate::fleet::process::Role;
use crate::fleet::watch::lives_on;
use crate::fleet::{Fleet, Shape};
use crate::http::Connection;
use crate::machine::{host_of, program, wait_for};
use crate::story::{self, MOMENT};
use crate::{folder, process};

const ROUNDS: usize = 5;
const SPAN: Duration = Duration::from_secs(8);
/// Kept alive, one request after the other on each.
const CONNECTIONS: usize = 16;
/// Long enough for every connection of the pools to be there.
const WARM: Duration = Duration::from_secs(2);
const APP: &str = "near-and-far";

/// One way to the app: a gateway, and what else stands on the way.
struct Way<'a> {
    name: &'static str,
    gateway: &'a Role,
    on_the_way: BTreeMap<&'static str, Vec<u32>>,
}

/// One round of one way.
struct Round {
    requests: u64,
    /// In microseconds of CPU for each request, by who used them.
    cpu_us: BTreeMap<&'static str, f64>,
    /// With one connection, in microseconds.
    p50_us: f64,
    p99_us: f64,
    /// TCP connections that the node took while requests ran.
    accepted: u64,
}

pub fn run(options: &Options) -> Result<()> {
    let (rounds, span) = (options.rounds(ROUNDS), options.span(SPAN));
    let connections = options.connections().unwrap_or(CONNECTIONS);
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 1, gateways: 1 })?;
    let source = folder::with(&[("index.html", "hello\n")])?;
    let url = story::url(&fleet.deploy(source.path(), APP)?)?;
    let host = host_of(&url)?;
    beside(&mut fleet)?;
    let (far, near) = (&fleet.gateways[0], &fleet.gateways[1]);
    let node = &fleet.nodes[0];
    wait_for("both gateways answer", MOMENT, || {
        let answers = |role: &Role| {
            role.place.inside(|| Ok(crate::http::get(super::edge(), &host, "/")?.status == 200))
        };
        Ok(answers(far).unwrap_or(false) && answers(near).unwrap_or(false))
    })?;
    let pid = |role: &Role| role.pid().context("it runs");
    let life = lives_on(node);
    let instance: Vec<u32> =
        life.iter().flat_map(|life| life.processes.iter().map(|(pid, _)| *pid)).collect();
    ensure!(!instance.is_empty(), "the app runs on the node");
    let way = |name, gateway| -> Result<Way<'_>> {
        let on_the_way = BTreeMap::from([
            ("gateway", vec![pid(gateway)?]),
            ("agent", vec![pid(node)?]),
            ("instance", instance.clone()),
        ]);
        Ok(Way { name, gateway, on_the_way })
    };
    let ways = [way("direct", near)?, way("relay", far)?];
    let mut rounds_of: [Vec<Round>; 2] = Default::default();
    for round in 0..rounds {
        // Turn about, so that what warms up favours neither.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for at in order {
            let told = ways[at].round(&host, connections, span, pid(node)?)?;
            rounds_of[at].push(told);
        }
    }
    for (way, rounds) in ways.iter().zip(&rounds_of) {
        way.tell(rounds);
    }
    compare(&rounds_of);
    fleet.finish()
}

/// A gateway that shares the node's network and data folder, and so reaches it directly.
fn beside(fleet: &mut Fleet) -> Result<()> {
    let token = fleet.token(&["--for", "gateway"])?;
    let servers = fleet.fleet_addresses();
    let node = fleet.nodes.first().context("a node")?;
    let edge = super::edge().to_string();
    let args = ["gateway", "--server", &servers, "--token", &token, "--listen", &edge];
    let mut role = Role::new(node.place.clone(), fleet.folder(), &program()?, &args);
    role.start()?;
    role.forget_argument("--token");
    fleet.gateways.push(role);
    fleet.wait_until_ready(1)
}

impl Way<'_> {
    fn round(&self, host: &str, connections: usize, span: Duration, node: u32) -> Result<Round> {
        self.gateway.place.inside(|| {
            let alone = requests(host, 1, span / 4, || Ok(()))?;
            let mut begun = None;
            let all = requests(host, connections, span, || {
                begun = Some((self.cpu_ms()?, accepted(node)?));
                Ok(())
            })?;
            let (cpu, accepted_before) = begun.context("it began")?;
            let used = self.cpu_ms()?.into_iter().map(|(who, ms)| {
                let before = cpu.get(who).copied().unwrap_or(0);
                (who, (ms - before) as f64 * 1_000.0 / all.measured as f64)
            });
            Ok(Round {
                requests: all.measured,
                cpu_us: used.collect(),
                p50_us: alone.percentile(0.50),
                p99_us: alone.percentile(0.99),
                accepted: accepted(node)? - accepted_before,
            })
        })
    }

    fn cpu_ms(&self) -> Result<BTreeMap<&'static str, u64>> {
        let of = |pids: &[u32]| -> Result<u64> {
            let each = pids.iter().map(|pid| process::cpu_ms(*pid).context("it ended"));
            each.sum()
        };
        self.on_the_way.iter().map(|(who, pids)| Ok((*who, of(pids)?))).collect()
    }

    fn tell(&self, rounds: &[Round]) {
        let all = |of: &dyn Fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
        println!("{:<8} CPU per request           {}", self.name, spread::of(all(&total), "µs"));
        for who in self.on_the_way.keys() {
            let of = all(&|round| round.cpu_us.get(who).copied().unwrap_or(0.0));
            println!("{:<8}   {who:<23} {}", "", spread::of(of, "µs"));
        }
        println!("{:<8} latency, one at a time, p50 {}", "", spread::of(all(&|r| r.p50_us), "µs"));
        println!("{:<8}                          p99 {}", "", spread::of(all(&|r| r.p99_us), "µs"));
        let requests: u64 = rounds.iter().map(|round| round.requests).sum();
        let accepted: u64 = rounds.iter().map(|round| round.accepted).sum();
        println!(
            "{:<8} requests, and connections that the node took meanwhile: {requests}, {accepted}",
            ""
        );
    }
}

fn total(round: &Round) -> f64 {
    round.cpu_us.values().sum()
}

fn compare([direct, relay]: &[Vec<Round>; 2]) {
    let pairs = |of: fn(&Round) -> f64| direct.iter().zip(relay).map(move |(d, r)| (of(d), of(r)));
    let ratio = pairs(total).map(|(direct, relay)| relay / direct).collect();
    println!("relay / direct, CPU per request    {}", spread::of(ratio, "×"));
    let added = pairs(|round| round.p50_us).map(|(direct, relay)| relay - direct).collect();
    println!("added latency, median              {}", spread::of(added, "µs"));
}

struct Answered {
    /// After the warm-up.
    measured: u64,
    latencies_us: Vec<f64>,
}

impl Answered {
    fn percentile(&self, share: f64) -> f64 {
        let at = (self.latencies_us.len() as f64 * share) as usize;
        self.latencies_us.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// As many requests as so many connections get answered; `begin` is called once they are warm.
fn requests(
    host: &str,
    connections: usize,
    span: Duration,
    begin: impl FnOnce() -> Result<()>,
) -> Result<Answered> {
    let (counts, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let edge = super::edge();
    let work = || -> Result<Vec<f64>> {
        let mut connection = Connection::open(edge)?;
        let mut latencies = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let answer = connection.get(host, "/")?;
            ensure!(answer.status == 200, "status {}", answer.status);
            if counts.load(Ordering::Relaxed) {
                latencies.push(asked.elapsed().as_secs_f64() * 1e6);
            }
        }
        Ok(latencies)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        std::thread::sleep(WARM);
        let begun = begin();
        counts.store(true, Ordering::Relaxed);
        std::thread::sleep(span);
        counts.store(false, Ordering::Relaxed);
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        begun?;
        all.sort_unstable_by(f64::total_cmp);
        Ok(Answered { measured: all.len() as u64, latencies_us: all })
    })
}

/// TCP connections that were taken in the network of a process since it was made.
fn accepted(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/snmp"))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let found = pairs.find(|(name, _)| *name == "PassiveOpens").context("PassiveOpens")?;
    Ok(found.1.parse()?)
}
