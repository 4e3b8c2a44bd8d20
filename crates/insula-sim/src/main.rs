//! Runs seeds, and says what broke and how to see it again.

mod teeth;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use insula_sim::Outcome;
use insula_sim::property::Property;

const USAGE: &str = "\
insula-sim [--seed N] [--seeds COUNT | --years Y] [--threads T] [--aloud]
insula-sim bugs [WORDS]   plants known bugs, at the root of the repository, and finds them

  --seed N       the first seed; without it, a fresh one
  --seeds COUNT  so many, one after the other (1)
  --years Y      as many as make so many simulated years of a cluster
  --threads T    seeds at once; each runs in one thread (as many as there are processors)
  --aloud        says every event
";

const YEAR_MS: f64 = 365.25 * 24.0 * 3_600_000.0;

struct Wanted {
    seed: u64,
    seeds: Option<u64>,
    years: Option<f64>,
    threads: usize,
    aloud: bool,
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    lasted: u64,
    steps: u64,
    turns: u64,
    commits: u64,
    terms: u64,
    deployments: u64,
    operations: u64,
    faults: BTreeMap<&'static str, u64>,
    checks: BTreeMap<Property, u64>,
    broken: Vec<Outcome>,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let outcome = match words.next().as_deref() {
        Some("bugs") => teeth::run(std::path::Path::new("."), words.next().as_deref()),
        Some(_) | None => wanted().map(|wanted| run(&wanted)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn wanted() -> Result<Wanted> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut wanted = Wanted { seed: fresh(), seeds: None, years: None, threads, aloud: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} takes a value"));
        match word.as_str() {
            "--seed" => wanted.seed = value()?.parse().context("a seed is a number")?,
            "--seeds" => wanted.seeds = Some(value()?.parse().context("--seeds is a number")?),
            "--years" => wanted.years = Some(value()?.parse().context("--years is a number")?),
            "--threads" => wanted.threads = value()?.parse().context("--threads is a number")?,
            "--aloud" => wanted.aloud = true,
            _ => bail!("unknown argument {word}"),
        }
    }
    Ok(wanted)
}

/// The one number that does not come from a seed.
fn fresh() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64 % 1_000_000_007)
}

/// Whether everything held.
fn run(wanted: &Wanted) -> bool {
    if wanted.aloud {
        return told(&insula_sim::run_aloud(wanted.seed));
    }
    let sum = Mutex::new(Sum::default());
    let (next, end) = (AtomicU64::new(0), AtomicBool::new(false));
    let enough = |sum: &Sum| match wanted.years {
        Some(years) => sum.lasted as f64 >= years * YEAR_MS,
        None => sum.seeds >= wanted.seeds.unwrap_or(1),
    };
    let work = || {
        while !end.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if wanted.years.is_none() && n >= wanted.seeds.unwrap_or(1) {
                return;
            }
            let outcome = insula_sim::run(wanted.seed.wrapping_add(n));
            let Ok(mut sum) = sum.lock() else { return };
            sum.add(outcome);
            if enough(&sum) || !sum.broken.is_empty() {
                end.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..wanted.threads.max(1) {
            scope.spawn(work);
        }
    });
    let Ok(sum) = sum.into_inner() else { return false };
    sum.print(wanted.seed);
    sum.broken.iter().all(told)
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.lasted += outcome.lasted;
        self.steps += outcome.counts.steps;
        self.turns += outcome.counts.turns;
        self.commits += outcome.counts.commits;
        self.terms += outcome.counts.terms;
        self.deployments += outcome.counts.deployments;
        self.operations += outcome.counts.operations;
        for (kind, times) in &outcome.counts.faults {
            *self.faults.entry(kind).or_default() += times;
        }
        for (property, times) in &outcome.counts.checks {
            *self.checks.entry(*property).or_default() += times;
        }
        if outcome.violation.is_some() {
            self.broken.push(outcome);
        }
    }

    fn print(&self, seed: u64) {
        println!(
            "{} seeds from {seed}: {:.3} cluster-years, {} steps, {} turns, {} commits, {} terms, {} operations, {} deployments",
            self.seeds,
            self.lasted as f64 / YEAR_MS,
            self.steps,
            self.turns,
            self.commits,
            self.terms,
            self.operations,
            self.deployments,
        );
        let faults: Vec<String> = self.faults.iter().map(|(k, n)| format!("{k} {n}")).collect();
        println!("faults: {} ({})", self.faults.values().sum::<u64>(), faults.join(", "));
        for property in Property::ALL {
            let times = self.checks.get(&property).copied().unwrap_or(0);
            println!("{:>12} checks of {}: {}", times, property.as_str(), property.sentence());
        }
    }
}

/// Whether everything held; says what did not.
fn told(outcome: &Outcome) -> bool {
    let Some(violation) = &outcome.violation else {
        println!("seed {}: all holds; digest {:016x}", outcome.seed, outcome.digest);
        return true;
    };
    println!("\nseed {} breaks `{}`", outcome.seed, violation.property.as_str());
    println!("  {}", violation.property.sentence());
    println!("  step {}, {} ms: {}", violation.step, violation.at, violation.detail);
    println!("  the last events:");
    outcome.last.iter().for_each(|line| println!("  {line}"));
    println!("  again: cargo run --release -p insula-sim -- --seed {}", outcome.seed);
    false
}
