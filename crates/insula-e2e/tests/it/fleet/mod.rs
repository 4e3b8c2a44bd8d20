//! Several machines: real processes in network namespaces, hurt in every way we could think of.

mod ailments;
mod beats;
mod blobs;
mod boxes;
mod gateways;
mod joining;
mod keys;
mod late;
mod loss;
mod names;
mod operator;
mod partition;
mod servers;
mod unfinished;
mod upgrade;
mod wire;
mod zones;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use insula_e2e::fleet::{Fleet, Shape, ground};
use insula_e2e::machine::wait_for;
use insula_e2e::{folder, story};

pub use servers::can_share_a_database;

/// Whether fleets can be tested on this machine; says so loudly if not.
pub fn can_lay_ground() -> bool {
    match ground::missing() {
        None => true,
        Some(why) => {
            assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "cannot run: {why}");
            eprintln!("SKIPPED: {why}");
            false
        }
    }
}

/// Says which node it is on, in its own words: a number that it drew when it began.
const REMEMBERS: &str = insula_e2e::story::REMEMBERS;

fn app(instances: usize) -> Result<tempfile::TempDir> {
    let toml = format!(
        "[components.web]\nkind = \"service\"\nrun = \"exec python3 main.py\"\ninstances = {instances}\nmemory = \"64MiB\"\n"
    );
    folder::with(&[("main.py", REMEMBERS), ("insula.toml", &toml)])
}

#[test]
fn an_app_of_three_runs_on_three_nodes_and_all_of_them_answer() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let fleet = Fleet::start(Shape { servers: 1, nodes: 3, gateways: 1 })?;
    let source = app(3)?;
    let deployed = fleet.deploy(source.path(), "app")?;
    let url = story::url(&deployed)?;
    let mut seen = BTreeSet::new();
    wait_for("each instance has answered", Duration::from_secs(20), || {
        seen.insert(fleet.visit(0, &url, "/")?.text());
        Ok(seen.len() == 3)
    })?;
    Ok(())
}
