//! What connected nodes cost the server that decides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use insula_kit::clock::SystemClock;
use insula_kit::random::{Random, SystemRandom};
use insula_kit::seal::{Key, Keyring};
use insula_kit::tls::{ALPN_H2, Connector, Credentials};
use insula_model::{ID_RANDOM_BYTES, ServerId, Timestamp};
use insula_store::{Store, StoreConfig};
use insula_vault::fleet::Registrar;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Options;
use super::swarm::{self, Door, Seen};
use crate::fleet::process::Role;
use crate::fleet::{Fleet, Shape};
use crate::machine::wait_for;
use crate::process;

/// The fleet of the published figure, and how many connections carry it: those of one server that
/// does not lead, and of eight.
const NODES: usize = 10_000;
const CONNECTIONS: [usize; 2] = [1, 8];
/// Nodes with a connection of their own each.
const NODES_ALONE: usize = 2_000;
const SPAN: Duration = Duration::from_secs(60);
/// Before it is measured: what follows the last greeting is over.
const SETTLE: Duration = Duration::from_secs(10);
const READY_TIME_MAX: Duration = Duration::from_secs(300);

/// Many nodes on few connections.
pub fn together(options: &Options) -> Result<()> {
    let asked = options.connections();
    for connections in asked.map_or(CONNECTIONS.to_vec(), |one| vec![one]) {
        measure(options.nodes(NODES), connections, options.span(SPAN))?;
    }
    Ok(())
}

/// Each node on a connection of its own, as agents dial a server.
pub fn alone(options: &Options) -> Result<()> {
    let nodes = options.nodes(NODES_ALONE);
    measure(nodes, options.connections().unwrap_or(nodes), options.span(SPAN))
}

fn measure(nodes: usize, connections: usize, span: Duration) -> Result<()> {
    ensure!(connections <= nodes, "{connections} connections of {nodes} nodes");
    println!("{nodes} nodes on {connections} connections");
    // Before the server starts, which inherits them.
    raise_descriptors()?;
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 0 })?;
    let role = fleet.servers.first_mut().context("a server")?;
    let connector = identity_of_another(role)?;
    role.start()?;
    wait_for("the server answers again", READY_TIME_MAX, || {
        Ok(fleet.cli_at(0, &["status", "--json"])?.status.success())
    })?;
    let role = fleet.servers.first().context("a server")?;
    let server = role.pid().context("the server runs")?;
    std::thread::sleep(SETTLE);
    let idle = Sample::over(server, span / 2)?;
    println!("server without nodes              {idle}");

    let seen = Arc::new(Seen::default());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let door = Door { address: fleet.fleet_addresses().parse()?, connector };
    let place = role.place.clone();
    std::thread::scope(|scope| {
        let swarm = scope.spawn(|| {
            let stopped = async { drop(stopped.await) };
            let seen = Arc::clone(&seen);
            place.inside(|| {
                // One thread: the other processor is the server's.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(swarm::live(door, nodes, connections, seen, stopped))
            })
        });
        let measured = with_nodes(&fleet, server, nodes, span, &seen, &idle);
        // It may have ended by itself, which it will say.
        let _ = stop.send(());
        swarm.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        measured
    })?;
    fleet.finish()
}

fn with_nodes(
    fleet: &Fleet,
    server: u32,
    nodes: usize,
    span: Duration,
    seen: &Seen,
    idle: &Sample,
) -> Result<()> {
    let (began, cpu) = (Instant::now(), cpu(server)?);
    wait_for("all nodes are ready", READY_TIME_MAX, || {
        ensure!(Seen::read(&seen.ended) == 0, "a session ended");
        std::thread::sleep(Duration::from_millis(500));
        Ok(ready(fleet)? == nodes as u64)
    })
    .with_context(|| fleet.logs())?;
    let took = began.elapsed();
    let arrived = cpu_since(server, cpu)?.as_secs_f64() * 1_000.0 / nodes as f64;
    println!(
        "all {nodes} ready after             {:.1} s, {arrived:.2} ms CPU each",
        took.as_secs_f64()
    );
    std::thread::sleep(SETTLE);
    let before = (Seen::read(&seen.beats), Seen::read(&seen.acks));
    let busy = Sample::over(server, span)?;
    let beats = Seen::read(&seen.beats) - before.0;
    let acks = Seen::read(&seen.acks) - before.1;
    println!("server with {nodes} nodes           {busy}");
    let seconds = busy.span.as_secs_f64();
    println!(
        "heartbeats                        {beats} in {seconds:.0} s ({:.0} a second), {acks} acknowledgements",
        beats as f64 / seconds
    );
    let more = busy.cpu_per_second() - idle.cpu_per_second();
    let each = more * 1e6 * seconds / beats as f64;
    println!("CPU per heartbeat                 {each:.2} µs (goal: 10)");
    let memory = busy.pss_kib.saturating_sub(idle.pss_kib);
    println!(
        "per connected node                {:.1} KiB, {:.4} % of a core",
        memory as f64 / nodes as f64,
        more * 100.0 / nodes as f64
    );
    println!("ready in `insula status`          {} of {nodes}", ready(fleet)?);
    Ok(())
}

fn ready(fleet: &Fleet) -> Result<u64> {
    let status = fleet.json(&["status"])?;
    Ok(status["installation"]["nodes_by_state"]["ready"].as_u64().unwrap_or(0))
}

/// What a process used over some time, and has at its end.
struct Sample {
    span: Duration,
    cpu: Duration,
    pss_kib: u64,
}

impl Sample {
    fn over(pid: u32, span: Duration) -> Result<Self> {
        let (began, before) = (Instant::now(), cpu(pid)?);
        std::thread::sleep(span);
        let cpu = cpu_since(pid, before)?;
        let pss_kib = process::pss_kib(pid).context("the server's memory")?;
        Ok(Self { span: began.elapsed(), cpu, pss_kib })
    }

    fn cpu_per_second(&self) -> f64 {
        self.cpu.as_secs_f64() / self.span.as_secs_f64()
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = self.cpu_per_second() * 100.0;
        write!(f, "{percent:.2} % of a core, {} KiB PSS", self.pss_kib)
    }
}

fn cpu(pid: u32) -> Result<u64> {
    process::cpu_ms(pid).context("the server has ended")
}

fn cpu_since(pid: u32, before: u64) -> Result<Duration> {
    Ok(Duration::from_millis(cpu(pid)?.saturating_sub(before)))
}

fn raise_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, most).context("raise the limit of descriptors")
}

/// Stops the server and makes another its certificate, from the same database and master key: what
/// a second server does when it starts.
fn identity_of_another(role: &mut Role) -> Result<Connector> {
    role.stop()?;
    let clock = Arc::new(SystemClock);
    let random = Arc::new(SystemRandom::new());
    let master = Key::load(&role.data.join("master.key"))?;
    let store = Store::open(StoreConfig::new(role.data.join("server/insula.db")))?;
    let mut bytes = [0; ID_RANDOM_BYTES];
    random.fill(&mut bytes);
    let server = ServerId::from_parts(Timestamp::from_millis(1_700_000_000_000), bytes);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let identity = runtime.block_on(async {
        let keys = Arc::new(Keyring::new(master));
        let registrar = Registrar::open(store, keys, random, clock.clone()).await?;
        registrar.identity_of_server(server).await
    })?;
    let credentials = Credentials::new(&identity, clock)?;
    Ok(Connector::new(&credentials, ALPN_H2))
}
