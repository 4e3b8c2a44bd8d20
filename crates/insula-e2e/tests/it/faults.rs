//! What happens on a bad day.

use anyhow::Result;
use insula_e2e::machine::Machine;
use insula_e2e::story;

#[test]
fn kill_nine_of_anything_loses_nothing_and_restarts_nobody() -> Result<()> {
    let mut machine = Machine::start()?;
    let kills = story::kill_everything(&mut machine, 8, 42)?;
    assert!(kills.acknowledged > 0, "{kills:?}");
    Ok(())
}
