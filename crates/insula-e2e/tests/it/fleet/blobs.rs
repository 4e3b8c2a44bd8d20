//! The S3 goes away while everything runs.

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::Fleet;
use insula_e2e::machine::wait_for;
use insula_e2e::story::{self, MOMENT};
use insula_e2e::{folder, process};
use rustix::process::Signal;

use super::{app, can_lay_ground};

const RATE: u32 = 40;
const VISITORS: u64 = 20;

#[test]
fn an_s3_that_is_away_stops_nobody_and_what_waits_for_it_goes_on_when_it_is_back() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::prepare()?;
    fleet.keep_blobs_in_s3()?;
    fleet.add_server()?;
    fleet.add_node(&[])?;
    fleet.add_node(&[])?;
    fleet.add_gateway()?;
    fleet.wait_until_ready(2)?;
    fleet.ok(&["nodes", "cordon", "n1"])?;
    let source = app(2)?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    let before = fleet.lives();
    ensure!(before.iter().all(|life| life.node == "n0") && before.len() == 2, "{before:?}");
    let load = fleet.load(0, &url, RATE)?;

    fleet.s3()?.stop();
    // What has to be sent there is refused with words.
    folder::write(source.path(), "version.txt", "while the S3 was away")?;
    let path = source.path().to_str().context("path")?.to_owned();
    let refused = fleet.cli_at(0, &["deploy", &path, "--app", "app"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "it is live: {said}");
    ensure!(said.contains("the object store does not answer"), "{said}");
    fleet.ensure_kept(&before)?;
    // A node goes on with what it has: an app that dies is started again.
    let life = before.iter().next().context("a life")?;
    let (init, _) = life.processes.first().context("its init")?;
    process::signal(*init, Signal::KILL)?;
    fleet.wait_settled("app", 2, MOMENT).context("without an S3")?;
    // One that has to fetch it first tries again until it is there.
    fleet.ok(&["nodes", "uncordon", "n1"])?;
    fleet.ok(&["scale", "web=3", "--app", "app"])?;
    wait_for("the third is on n1, and not there yet", MOMENT, || {
        let all = fleet.instances("app")?;
        Ok(all.len() == 3 && all.iter().any(|one| one.node == "n1" && !one.serves()))
    })?;
    load.wait_served(VISITORS)?;

    fleet.s3()?.resume()?;
    fleet.wait_settled("app", 3, MOMENT).context("with the S3 back")?;
    fleet.deploy(source.path(), "app").context("with the S3 back")?;

    // A server that starts without it says so and ends, for its manager to start it again.
    fleet.s3()?.stop();
    fleet.servers[0].stop()?;
    fleet.servers[0].start()?;
    let code = fleet.servers[0].ended_within(story::VERDICT_TIME_MAX)?;
    let said = fleet.servers[0].log();
    ensure!(code == Some(1) && said.contains("ask the blob store"), "{code:?} {said}");
    load.wait_served(VISITORS)?;
    fleet.s3()?.resume()?;
    fleet.servers[0].start()?;
    wait_for("the server answers", MOMENT, || Ok(fleet.cli_at(0, &["status"])?.status.success()))?;
    fleet.wait_until_ready(2)?;
    fleet.wait_settled("app", 3, MOMENT)?;
    load.finish_served(2 * VISITORS, "the S3 away, twice")?;
    fleet.finish()
}
