//! Plants one bug after the other into a copy of the real code, and looks how soon it is found.
//!
//! The copy lies in a scratch folder, so that nobody's work is touched. Its third-party crates
//! come from the shared target folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use insula_sim::bugs::{BUGS, Bug};

/// What the simulation is linked from, and nothing else of the workspace.
const CRATES: [&str; 10] = [
    "insula-model",
    "insula-plan",
    "insula-wire",
    "insula-kit",
    "insula-store",
    "insula-blobs",
    "insula-vault",
    "insula-link",
    "insula-control",
    "insula-sim",
];
/// Of what the compiler says when a bug was planted badly.
const COMPLAINT_LINES_MAX: usize = 20;
/// Made to be built again and again.
const PROFILE: &str = "\
[profile.release]
incremental = true
codegen-units = 16
debug = false
strip = \"debuginfo\"
overflow-checks = false
panic = \"abort\"
[profile.release.package.insula-plan]
opt-level = 1
[profile.release.package.insula-control]
opt-level = 1
[profile.release.package.insula-sim]
opt-level = 1
";

struct Found {
    property: String,
    seeds: u64,
}

/// Whether every bug was found, as what it is.
pub fn run(root: &Path, only: Option<&str>) -> Result<bool> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let scratch = target.join("teeth");
    copy(root, &scratch)?;
    println!("| bug | file | found by | seeds | build and run |");
    println!("|---|---|---|---|---|");
    let mut all = true;
    for bug in BUGS.iter().filter(|bug| only.is_none_or(|only| bug.name.contains(only))) {
        let began = Instant::now();
        let file = scratch.join(bug.file);
        let sound = std::fs::read_to_string(root.join(bug.file))?;
        std::fs::write(&file, planted(bug, &sound)?)?;
        let found = build(&scratch, &target).and_then(|()| search(&target, bug));
        std::fs::write(&file, sound)?;
        let found = found.with_context(|| format!("the bug `{}`", bug.name))?;
        let (word, seeds) = match &found {
            Some(found) => (found.property.as_str(), found.seeds.to_string()),
            None => ("NOT FOUND", format!("> {}", bug.budget)),
        };
        let said = if found.is_none() || word == bug.property {
            word.to_owned()
        } else {
            format!("{word} (expected {})", bug.property)
        };
        all &= word == bug.property;
        let file = bug.file.trim_start_matches("crates/").replacen("src/", "", 1);
        let took = began.elapsed().as_secs();
        println!("| {} | {file} | {said} | {seeds} | {took} s |", bug.name);
    }
    Ok(all)
}

/// The source with the bug in it.
fn planted(bug: &Bug, sound: &str) -> Result<String> {
    let times = sound.matches(bug.text).count();
    ensure!(times == 1, "`{}` is stale: its text stands {times} times in {}", bug.name, bug.file);
    Ok(sound.replacen(bug.text, bug.planted, 1))
}

fn copy(root: &Path, scratch: &Path) -> Result<()> {
    for name in CRATES {
        let (from, to) = (root.join("crates").join(name), scratch.join("crates").join(name));
        if to.exists() {
            std::fs::remove_dir_all(&to)?;
        }
        copy_folder(&from, &to)?;
    }
    // Every error's page is part of the words on the wire.
    copy_folder(&root.join("docs/errors"), &scratch.join("docs/errors"))?;
    let manifest = std::fs::read_to_string(root.join("Cargo.toml"))?;
    let (head, _) =
        manifest.split_once("[profile.dev]").context("the profiles of the workspace")?;
    let members = "members = [\"crates/*\", \"xtask\"]";
    ensure!(head.contains(members), "the members of the workspace are written otherwise now");
    let head = head.replace(members, "members = [\"crates/*\"]");
    let kept = head.lines().filter(|line| !line.starts_with("default-members"));
    let manifest = kept.collect::<Vec<_>>().join("\n") + "\n" + PROFILE;
    std::fs::write(scratch.join("Cargo.toml"), manifest)?;
    std::fs::copy(root.join("Cargo.lock"), scratch.join("Cargo.lock"))?;
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let path = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &path)?;
        } else {
            std::fs::copy(entry.path(), path)?;
        }
    }
    Ok(())
}

fn build(scratch: &Path, target: &Path) -> Result<()> {
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(scratch)
        .env("CARGO_TARGET_DIR", target.join("teeth-target"))
        .env_remove("CARGO_INCREMENTAL")
        .args(["build", "--release", "--quiet", "--offline", "--package", "insula-sim"])
        .output()
        .context("run cargo")?;
    if !built.status.success() {
        let said = String::from_utf8_lossy(&built.stderr);
        let said: Vec<&str> = said.lines().take(COMPLAINT_LINES_MAX).collect();
        bail!("it does not compile:\n{}", said.join("\n"));
    }
    Ok(())
}

fn search(target: &Path, bug: &Bug) -> Result<Option<Found>> {
    let ran = Command::new(target.join("teeth-target/release/insula-sim"))
        .args(["--seed", "1", "--threads", "1", "--seeds", &bug.budget.to_string()])
        .output()
        .context("run the simulation")?;
    let said = String::from_utf8_lossy(&ran.stdout);
    let broken = said.lines().find_map(|line| {
        let (seed, property) = line.strip_prefix("seed ")?.split_once(" breaks ")?;
        let property = property.trim_matches('`').to_owned();
        Some(Found { property, seeds: seed.parse().ok()? })
    });
    if broken.is_none() && !ran.status.success() {
        bail!("the simulation broke: {}", String::from_utf8_lossy(&ran.stderr));
    }
    Ok(broken)
}
