//! How long: what the environment says, else what the promise says.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

const MINUTES: &str = "INSULA_SOAK_MINUTES";
/// The promise is an hour.
const USUAL_MINUTES: u64 = 60;

pub fn asked() -> Result<Duration> {
    let Some(given) = std::env::var_os(MINUTES) else { return Ok(minutes(USUAL_MINUTES)) };
    let given = given.to_string_lossy().into_owned();
    let number: u64 = given.parse().with_context(|| format!("{MINUTES}={given}"))?;
    ensure!(number > 0, "{MINUTES}=0 is no time");
    Ok(minutes(number))
}

fn minutes(number: u64) -> Duration {
    Duration::from_secs(number * 60)
}
