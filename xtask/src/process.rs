//! Starting other programs, cargo above all.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The folder of the root manifest.
pub fn root() -> PathBuf {
    // Asked at run time: clones that share a target folder share this binary's path too.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = here.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    here.parent().map_or_else(|| here.clone(), PathBuf::from)
}

/// A command that starts in the root of the repository and reads no standard input.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// The cargo that runs us, without what it told us about ourselves.
///
/// Build scripts that watch `CARGO_PKG_…` (ring's does) would otherwise see our name in place
/// of none, and everything above them would be compiled again, each time.
pub fn cargo() -> Command {
    let mut command = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if is_about_us(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
}

fn is_about_us(variable: &str) -> bool {
    const NAMES: [&str; 6] = [
        "CARGO_BIN_NAME",
        "CARGO_CRATE_NAME",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_PRIMARY_PACKAGE",
        "OUT_DIR",
    ];
    NAMES.contains(&variable) || variable.starts_with("CARGO_PKG_")
}

/// Runs it with our own output; anything but success is an error that shows the command.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Runs it and returns what it wrote to standard output; its errors stay on ours.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let shown = show(command);
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` ended with {}", output.status);
    }
    Ok(output.stdout)
}

/// Whether it starts and succeeds; for asking what a machine has.
pub fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn show(command: &Command) -> String {
    let mut words = vec![command.get_program()];
    words.extend(command.get_args());
    let mut shown = String::new();
    for (index, word) in words.into_iter().enumerate() {
        if index > 0 {
            shown.push(' ');
        }
        // The whole path of cargo says nothing that its name does not.
        let name = std::path::Path::new(word).file_name().filter(|_| index == 0).unwrap_or(word);
        shown.push_str(&name.to_string_lossy());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_tells_us_about_ourselves_is_not_passed_on() {
        assert!(is_about_us("CARGO_PKG_VERSION_MAJOR"));
        assert!(is_about_us("CARGO_MANIFEST_DIR"));
        for ours in ["CARGO_TARGET_DIR", "CARGO_HOME", "CARGO_NET_OFFLINE", "RUSTFLAGS"] {
            assert!(!is_about_us(ours), "{ours} is the caller's wish");
        }
    }

    #[test]
    fn a_failure_names_the_command() {
        let err = run(command("/bin/false").arg("now")).unwrap_err();
        assert!(err.to_string().starts_with("`false now` ended with"), "{err}");
    }
}
