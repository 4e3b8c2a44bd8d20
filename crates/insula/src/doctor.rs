//! `insula doctor`: what this machine can enforce, line by line, and how to mend what it cannot.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use insula_sandbox::{Capability, Mode, Runtime, RuntimeConfig};

/// Of the group that a probe makes and removes.
const PROBE_GROUP: &str = "insula-doctor";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The data folder
    #[arg(long, env = "INSULA_DATA", value_name = "DIR", hide = true)]
    data: Option<PathBuf>,
    /// Print what the names of a data folder's things in the kernel have in common
    #[arg(long, hide = true)]
    tag: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.tag {
        println!("{}", crate::data::Data::choose(args.data.clone())?.tag());
        return Ok(ExitCode::SUCCESS);
    }
    let found = probe()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        print(&found);
    }
    let usable = found.iter().all(|c| c.enforced || !c.required);
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says why an ordinary user cannot run Insula here, and what to do, if so.
pub fn refuse_without_user_namespaces() -> anyhow::Result<()> {
    let missing: Vec<Capability> =
        probe()?.into_iter().filter(|c| c.required && !c.enforced).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> =
        missing.iter().map(|c| format!("  {}: {}\n    fix: {}", c.name, c.detail, c.fix)).collect();
    bail!("this machine does not let an ordinary user make sandboxes:\n{}", lines.join("\n"));
}

fn probe() -> anyhow::Result<Vec<Capability>> {
    let mode = if rustix::process::geteuid().is_root() { Mode::Root } else { Mode::User };
    let scratch = tempfile::tempdir()?;
    let run: PathBuf = scratch.path().join("run");
    std::fs::create_dir(&run)?;
    let runtime = Runtime::open(RuntimeConfig::new(mode, run, PROBE_GROUP))?;
    Ok(runtime.probe())
}

fn print(found: &[Capability]) {
    let width = found.iter().map(|c| c.name.len()).max().unwrap_or(0);
    for capability in found {
        let word = match (capability.enforced, capability.required) {
            (true, _) => "ok     ",
            (false, false) => "missing",
            (false, true) => "FAILS  ",
        };
        println!("{word}  {:width$}  {}", capability.name, capability.detail);
        if !capability.enforced && !capability.fix.is_empty() {
            println!("         {:width$}  fix: {}", "", capability.fix);
        }
    }
}
