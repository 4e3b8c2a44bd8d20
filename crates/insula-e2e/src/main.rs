//! The stories at full length, for `cargo xtask bench NAME` and `cargo xtask soak NAME`.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use insula_e2e::machine::Machine;
use insula_e2e::{folder, story};

/// Rounds of everything that is a median.
const ROUNDS: usize = 10;

fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap_or_default();
    match name.as_str() {
        "first-200" => first_200(),
        "idle" => idle(),
        "moves" => moves(),
        "kills" => kills(),
        "fleet" => insula_e2e::bench_fleet::run(std::env::args().skip(2)),
        "scheduler" => insula_e2e::scheduler::run(),
        "cut-off" => insula_e2e::soak_fleet::cut_off(std::env::args().skip(2)),
        "database" => insula_e2e::soak_fleet::database(),
        "migrate" => insula_e2e::soak_fleet::migrate(),
        "upgrade" => insula_e2e::soak_fleet::upgrade(std::env::args().skip(2)),
        other => {
            bail!(
                "unknown story `{other}`; known: first-200, idle, moves, kills, fleet, scheduler, \
                   cut-off, database, migrate, upgrade"
            )
        }
    }
}

fn median(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let ms = |at: usize| times.get(at).map_or(0, Duration::as_millis);
    format!("{} ms ({}–{})", ms(times.len() / 2), ms(0), ms(times.len().saturating_sub(1)))
}

/// From `insula deploy` to the first 200: the first deploy of an app, and a change of one line.
fn first_200() -> Result<()> {
    let machine = Machine::start()?;
    println!("{:<22} {:<24} {:<24}", "", "first deploy", "one line changed");
    for (name, entry) in [("static", "index.html"), ("python", "main.py")] {
        let mut first = Vec::new();
        let mut again = Vec::new();
        for round in 0..ROUNDS {
            let copy = tempfile::tempdir()?;
            copy_folder(&folder::example(name), copy.path())?;
            let app = format!("{name}-{round}");
            first.push(story::first_200(&machine, copy.path(), &app)?);
            let changed = copy.path().join(entry);
            let mut text = std::fs::read_to_string(&changed)?;
            text.push('\n');
            std::fs::write(&changed, text)?;
            again.push(story::first_200(&machine, copy.path(), &app)?);
            machine.ok(&["apps", "delete", &app, "--yes"])?;
        }
        println!("{name:<22} {:<24} {:<24}", median(first), median(again));
    }
    Ok(())
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&target)?;
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn idle() -> Result<()> {
    let machine = Machine::start()?;
    println!("{:<28} {:>10} {:>14}", "", "PSS KiB", "core thousandths");
    for apps in [0, 10] {
        for n in 0..apps {
            machine.deploy(&folder::example("static"), &format!("static-{n}"))?;
        }
        let idle = story::idle(&machine, Duration::from_secs(20), Duration::from_secs(30))?;
        for (role, kib, mcores) in &idle.roles {
            println!("{:<28} {kib:>10} {mcores:>14.2}", format!("{apps} apps, {role}"));
        }
        let (kib, mcores) = (idle.pss_kib(), idle.cpu_mcores());
        println!("{:<28} {kib:>10} {mcores:>14.2}", format!("{apps} apps, together"));
    }
    Ok(())
}

fn moves() -> Result<()> {
    let machine = Machine::start()?;
    let report = story::moves_under_load(&machine, 20, 20, 200)?;
    println!("requests answered           {}", report.seen.good);
    println!("failed in 20 + 20 moves     {}", report.failed_in_moves);
    println!("failed in kills behind two  {}", report.failed_in_kills);
    println!(
        "latency p50, p99, worst     {} / {} / {} µs",
        report.seen.percentile_us(500),
        report.seen.percentile_us(990),
        report.seen.percentile_us(1_000)
    );
    println!("deploy                      {}", median(report.deploys));
    println!("rollback                    {}", median(report.rollbacks));
    ensure!(report.failed_in_moves == 0, "{:?}", report.seen.failed);
    Ok(())
}

fn kills() -> Result<()> {
    let seed = match std::env::args().nth(2) {
        Some(given) => given.parse()?,
        None => std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs(),
    };
    println!("seed {seed}");
    let mut machine = Machine::start()?;
    let kills = story::kill_everything(&mut machine, 100, seed)?;
    println!("{kills:#?}");
    Ok(())
}
