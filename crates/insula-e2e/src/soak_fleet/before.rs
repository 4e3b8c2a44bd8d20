//! A build of before: the platform as a revision of this repository made it.
//!
//! It has a work tree and a target folder of its own beside the present one, so that neither
//! build spoils the other; the tree goes when it is built, the program stays for the next time.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Names the revision.
const FROM: &str = "INSULA_SOAK_FROM";
/// What both sides of a connection have to agree on.
const WIRE: &str = "crates/insula-wire";

#[derive(Debug)]
pub struct Build {
    /// Its whole name.
    pub revision: String,
    pub program: PathBuf,
}

/// In the repository that somebody stands in.
fn git(args: &[&str]) -> Result<String> {
    let output = Command::new("git").args(args).output().context("run git")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git {}: {}", args.join(" "), stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `--from REV`, else what the environment says, else the newest tag, else the commit before the
/// last that changed what crosses the wire.
pub fn asked(mut args: impl Iterator<Item = String>) -> Result<String> {
    let named = match args.next().as_deref() {
        None => std::env::var(FROM).ok(),
        Some("--from") => Some(args.next().context("--from REV")?),
        Some(other) => bail!("{other}? known: --from REV"),
    };
    let chosen = match named {
        Some(named) => named,
        None => match git(&["describe", "--tags", "--abbrev=0"]) {
            Ok(tag) => tag,
            Err(_) => git(&["log", "-1", "--format=%H", "--", WIRE])? + "^",
        },
    };
    git(&["rev-parse", "--verify", &format!("{chosen}^{{commit}}")])
}

impl Build {
    /// Builds it unless that was done before.
    pub fn make(revision: String) -> Result<Self> {
        let measure = std::env::current_exe()?;
        let target = measure.parent().and_then(Path::parent).context("the target folder")?;
        let under = target.join("soak-upgrade");
        let program = under.join(format!("insula-{revision}"));
        if !program.is_file() {
            std::fs::create_dir_all(&under)?;
            let tree = under.join(format!("tree-{revision}"));
            let path = tree.to_str().context("path of the tree")?;
            if tree.exists() {
                git(&["worktree", "remove", "--force", path])?;
            }
            git(&["worktree", "add", "--force", "--detach", path, &revision])?;
            let built = build(&tree, &under.join("target"));
            let removed = git(&["worktree", "remove", "--force", path]);
            // Under its name only once it is whole.
            let whole = program.with_extension("whole");
            std::fs::copy(built?, &whole)?;
            std::fs::rename(&whole, &program)?;
            removed?;
        }
        Ok(Self { revision, program })
    }

    /// Whether it knows of more machines than one.
    pub fn knows_fleets(&self) -> Result<bool> {
        let asked = Command::new(&self.program).args(["nodes", "token", "--help"]).output()?;
        Ok(asked.status.success())
    }
}

fn build(tree: &Path, target: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--locked", "--package", "insula"])
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_INCREMENTAL", "0")
        .status()
        .context("run cargo")?;
    ensure!(built.success(), "build {}: {built}", tree.display());
    Ok(target.join("release/insula"))
}
