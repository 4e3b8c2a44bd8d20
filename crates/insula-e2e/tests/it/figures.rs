//! The figures that we publish, in bounds that even an unoptimised build on a busy machine keeps.
//! What they really are is measured by `cargo xtask bench first-200` and `cargo xtask bench idle`.

use std::time::Duration;

use anyhow::{Result, ensure};
use insula_e2e::machine::Machine;
use insula_e2e::{folder, story};

/// Ten times the aims for a release build.
const STATIC_TIME_MAX: Duration = Duration::from_secs(10);
const PYTHON_TIME_MAX: Duration = Duration::from_secs(20);
/// Four times the aim: an unoptimised binary is five times as large.
const IDLE_KIB_MAX: u64 = 128 * 1024;
/// A fiftieth of a core. Something that spins takes a whole one.
const IDLE_MCORES_MAX: f64 = 20.0;

#[test]
fn a_folder_is_a_url_in_a_moment_and_an_idle_platform_is_small() -> Result<()> {
    let machine = Machine::start()?;
    let files = story::first_200(&machine, &folder::example("static"), "files")?;
    ensure!(files < STATIC_TIME_MAX, "static: {files:?}");
    let python = story::first_200(&machine, &folder::example("python"), "python")?;
    ensure!(python < PYTHON_TIME_MAX, "Python: {python:?}");
    let idle = story::idle(&machine, Duration::from_secs(2), Duration::from_secs(3))?;
    ensure!(idle.roles.len() >= 5, "every process is counted: {idle:?}");
    ensure!(idle.pss_kib() < IDLE_KIB_MAX, "{idle:?}");
    ensure!(idle.cpu_mcores() < IDLE_MCORES_MAX, "{idle:?}");
    Ok(())
}
