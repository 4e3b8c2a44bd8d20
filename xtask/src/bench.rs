//! Measurements by name. Each prints a table below one line of facts about the machine.

use anyhow::{Result, bail};

use crate::{guest, machine, process};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// How fast, in minutes.
    Bench,
    /// Whether it holds, in hours.
    Soak,
}

struct Entry {
    kind: Kind,
    name: &'static str,
    /// What its table shows, in one line.
    shows: &'static str,
    run: fn() -> Result<()>,
}

const ENTRIES: &[Entry] = &[
    Entry {
        kind: Kind::Bench,
        name: "first-200",
        shows: "from `insula deploy` to the first 200: static and Python, first and changed",
        run: || story("first-200"),
    },
    Entry {
        kind: Kind::Bench,
        name: "idle",
        shows: "memory (PSS) and processor of all our processes, without apps and with ten",
        run: || story("idle"),
    },
    Entry {
        kind: Kind::Bench,
        name: "moves",
        shows: "200 requests a second during 20 deploys, 20 rollbacks and kills behind two",
        run: || story("moves"),
    },
    Entry {
        kind: Kind::Bench,
        name: "fleet",
        shows: "10,000 nodes' heartbeats, a dead node, a dead leader, the relay beside no relay",
        run: || story("fleet"),
    },
    Entry {
        kind: Kind::Bench,
        name: "scheduler",
        shows: "two million durable placements on 6,100 nodes, the curve to 15,000, etcd beside it",
        run: || measure("scheduler"),
    },
    Entry {
        kind: Kind::Soak,
        name: "kills",
        shows: "kill -9 of each role and of all at 100 random moments during deployments",
        run: || story("kills"),
    },
    Entry {
        kind: Kind::Soak,
        name: "cut-off",
        shows: "servers cut off from one node and from all, INSULA_SOAK_MINUTES (60), visitors meanwhile",
        run: || story("cut-off"),
    },
    Entry {
        kind: Kind::Soak,
        name: "database",
        shows: "PostgreSQL killed and frozen for a minute each, with people who write and visitors",
        run: || story("database"),
    },
    Entry {
        kind: Kind::Soak,
        name: "migrate",
        shows: "one box to PostgreSQL and S3 and back, three times, with visitors and a writer",
        run: || story("migrate"),
    },
    Entry {
        kind: Kind::Soak,
        name: "upgrade",
        shows: "from the build before (INSULA_SOAK_FROM=REV names another) to this one, part by part",
        run: || story("upgrade"),
    },
    Entry {
        kind: Kind::Soak,
        name: "sim",
        shows: "simulated fleets for INSULA_SIM_YEARS (0.1) cluster-years, from a fresh seed",
        run: simulate,
    },
    Entry {
        kind: Kind::Soak,
        name: "bugs",
        shows: "mistakes planted into the real plan and control code, and what finds each",
        run: || simulation(&["bugs"]),
    },
    Entry {
        kind: Kind::Soak,
        name: "cgroup-v2",
        shows: "the sandbox in an emulated Debian with systemd and pure cgroup v2, in minutes",
        run: guest::cgroup_v2,
    },
];

/// Told by the end-to-end crate, with the release binary.
fn story(name: &str) -> Result<()> {
    let packages = ["--package", "insula", "--package", "insula-e2e"];
    process::run(process::cargo().args(["build", "--release"]).args(packages))?;
    measure(name)
}

/// The same without the platform's own binary.
fn measure(name: &str) -> Result<()> {
    let program = ["--package", "insula-e2e", "--bin", "insula-measure", "--", name];
    process::run(process::cargo().args(["run", "--release", "--quiet"]).args(program))
}

/// A tenth of a year takes some minutes on two cores.
const SIM_YEARS: &str = "0.1";

fn simulate() -> Result<()> {
    let years = std::env::var("INSULA_SIM_YEARS").unwrap_or_else(|_| SIM_YEARS.to_owned());
    simulation(&["--years", &years])
}

fn simulation(args: &[&str]) -> Result<()> {
    let program = ["run", "--release", "--quiet", "--package", "insula-sim", "--"];
    process::run(process::cargo().args(program).args(args))
}

pub fn run(kind: Kind, name: &str) -> Result<()> {
    let Some(entry) = ENTRIES.iter().find(|entry| entry.kind == kind && entry.name == name) else {
        bail!("unknown {} `{name}`, known: {}", word(kind), known(kind));
    };
    println!("{}: {}", entry.name, entry.shows);
    println!("{}", machine::facts());
    (entry.run)()
}

pub fn list(kind: Kind) -> Result<()> {
    for entry in ENTRIES.iter().filter(|entry| entry.kind == kind) {
        println!("{:<20} {}", entry.name, entry.shows);
    }
    bail!("name a {}, known: {}", word(kind), known(kind))
}

fn known(kind: Kind) -> String {
    let names: Vec<&str> =
        ENTRIES.iter().filter(|entry| entry.kind == kind).map(|entry| entry.name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Bench => "bench",
        Kind::Soak => "soak",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let err = run(Kind::Bench, "no-such").unwrap_err().to_string();
        assert!(err.starts_with("unknown bench `no-such`, known: "), "{err}");
    }

    #[test]
    fn names_are_unique_within_their_kind() {
        for (index, entry) in ENTRIES.iter().enumerate() {
            let twin = |other: &Entry| other.kind == entry.kind && other.name == entry.name;
            assert!(!ENTRIES[..index].iter().any(twin), "{} twice", entry.name);
        }
    }
}
