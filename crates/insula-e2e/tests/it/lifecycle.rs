//! Starting, ending, upgrading and mending: of the platform, and of what runs on it.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use insula_e2e::app::{App, good};
use insula_e2e::machine::{Machine, program, wait_for};
use insula_e2e::story::MOMENT;
use insula_e2e::{explorer, folder, process, story};
use rustix::process::Signal;
use serde_json::json;

fn remembers() -> Result<tempfile::TempDir> {
    folder::with(&[("main.py", story::REMEMBERS), ("Procfile", "web: exec python3 main.py\n")])
}

/// What the app drew when it began; waits while it is not there.
fn drawn(machine: &Machine, url: &str) -> Result<String> {
    let mut text = String::new();
    wait_for("the app answers", MOMENT, || {
        let answer = machine.visit(url, "/");
        text = answer.as_ref().map_or(String::new(), insula_e2e::http::Answer::text);
        Ok(answer.is_ok_and(|a| a.status == 200))
    })?;
    Ok(text)
}

#[test]
fn apps_outlive_a_restart_end_with_ctrl_c_and_leave_nothing_when_taken_down() -> Result<()> {
    let mut machine = Machine::start()?;
    let data = machine.data();
    let operator = std::fs::metadata(data.join("operator.json"))?.permissions().mode();
    ensure!(operator & 0o777 == 0o600, "operator.json has mode {operator:o}");
    let source = remembers()?;
    let url = story::url(&machine.deploy(source.path(), "app")?)?;
    let first = drawn(&machine, &url)?;

    machine.end(Signal::TERM)?;
    ensure!(machine.log().contains("go on running"), "it says what becomes of the apps");
    machine.up()?;
    ensure!(drawn(&machine, &url)? == first, "SIGTERM and up: the same process");

    // Whoever comes second is told so, and harms nothing.
    let second = Command::new(program()?)
        .args(["up", "--api", "127.0.0.1:0", "--edge", "127.0.0.1:0", "--data"])
        .arg(&data)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(!second.status.success() && said.contains("is run already"), "{said}");
    ensure!(drawn(&machine, &url)? == first);

    machine.end(Signal::INT)?;
    ensure!(machine.log().contains("Stopping the apps"), "it says that the apps are stopped");
    ensure!(machine.processes().is_empty(), "{:?}", machine.processes());
    machine.up()?;
    let again = drawn(&machine, &url)?;
    ensure!(again != first, "Ctrl-C ended the process, and up brought the app back");

    let traces = machine.traces()?;
    ensure!(!traces.is_empty(), "an app leaves traces while it runs");
    let tag = machine.tag()?;
    let down = machine.down()?;
    ensure!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    machine.end(Signal::TERM).ok();
    let left = machine.traces()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(machine.processes().is_empty(), "{:?}", machine.processes());
    let tables = std::fs::read_dir("/sys/class/net")?.flatten();
    let named = tables.filter(|e| e.file_name().to_string_lossy().contains(&tag));
    ensure!(named.count() == 0, "a link of ours is left");
    ensure!(data.join("server/insula.db").exists(), "the data stays");
    // Down a second time is no mistake.
    ensure!(machine.down()?.status.success());
    Ok(())
}

#[test]
fn up_refuses_what_would_do_harm() -> Result<()> {
    let machine = Machine::prepare()?;
    let up = |args: &[&str]| -> Result<(bool, String)> {
        let mut command = Command::new(program()?);
        command.arg("up").args(args).arg("--data").arg(machine.data()).stdin(Stdio::null());
        let output = command.output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (fine, said) = up(&["--api", "0.0.0.0:0"])?;
    ensure!(!fine && said.contains("loopback"), "{said}");
    let (fine, said) = up(&["--domain", "not a domain"])?;
    ensure!(!fine && !said.is_empty(), "{said}");
    let (fine, said) = up(&["--pool", "10.0.0.0/99"])?;
    ensure!(!fine && !said.is_empty(), "{said}");

    std::fs::create_dir_all(machine.data())?;
    std::fs::write(machine.data().join("letters.txt"), "mine")?;
    let (fine, said) = up(&[])?;
    ensure!(!fine && said.contains("not empty"), "{said}");
    std::fs::remove_file(machine.data().join("letters.txt"))?;
    std::fs::write(machine.data().join("format"), "2\n")?;
    let (fine, said) = up(&[])?;
    ensure!(!fine && said.contains("format 2"), "{said}");
    std::fs::remove_file(machine.data().join("format"))?;
    Ok(())
}

#[test]
fn apps_go_on_without_the_server_and_crashes_are_mended_and_told() -> Result<()> {
    let machine = Machine::start()?;
    let source = explorer::folder()?;
    let toml = "[components.web]\nrun = \"exec python3 main.py\"\nmemory = \"96MiB\"\n";
    folder::write(source.path(), "insula.toml", toml)?;
    machine.deploy(source.path(), "app")?;
    let app = App::find(&machine, "app")?;

    let server = machine.role("server").context("the server")?;
    process::signal(server, Signal::STOP)?;
    let outcome = without_a_server(&machine, &app);
    process::signal(server, Signal::CONT)?;
    outcome?;

    // What happened meanwhile is told afterwards.
    let exited = app.event("instance.exited")?;
    ensure!(exited["message"].as_str().is_some_and(|m| m.contains('3')), "{exited}");
    app.event("instance.restarted")?;
    wait_for("ps shows it", MOMENT, || {
        let listed = story::instances(&machine, "app")?;
        Ok(listed.iter().any(|i| {
            i["restarts"] == 1 && i["last_exit"]["exit"]["code"] == 3 && i["state"] == "ready"
        }))
    })?;

    let _ = app.visit("/eat?512");
    wait_for("ps shows that memory ran out", MOMENT, || {
        let listed = story::instances(&machine, "app")?;
        Ok(listed.iter().any(|i| i["last_exit"]["exit"]["kind"] == "out_of_memory"))
    })
    .with_context(|| format!("{:?}", story::instances(&machine, "app")))?;
    app.wait_answer("/", "here")?;
    let mut told = app.events()?.into_iter().filter(|e| e["type"] == "instance.exited");
    ensure!(told.any(|e| e["message"].as_str().is_some_and(|m| m.contains("memory"))));

    wait_for("it backs off", MOMENT, || {
        let _ = app.visit("/exit?4");
        let listed = story::instances(&machine, "app")?;
        Ok(listed.iter().any(|i| i["state"] == "backing off" && i["reason"].is_string()))
    })
    .with_context(|| format!("{:?}", story::instances(&machine, "app")))?;
    app.event("instance.backing_off")?;
    let listed = story::instances(&machine, "app")?;
    let id = listed[0]["id"].as_str().context("id")?;
    ensure!(app.why(id)?.contains('4'), "{}", app.why(id)?);
    app.wait_answer("/", "here")?;
    Ok(())
}

/// Everything that has to go on while the server does not answer.
fn without_a_server(machine: &Machine, app: &App<'_>) -> Result<()> {
    let host = insula_e2e::machine::host_of(&app.url)?;
    let load = insula_e2e::load::Load::start(machine.edge, &host, "/", 50);
    let outcome = wait_for("a hundred requests", MOMENT, || Ok(load.seen().good >= 100));
    let seen = load.finish();
    outcome?;
    ensure!(seen.failed.is_empty(), "{:?}", seen.failed);

    // The gateway and the agent come back with what they wrote down.
    for role in ["gateway", "agent"] {
        let pid = machine.role(role).with_context(|| role.to_owned())?;
        process::signal(pid, Signal::KILL)?;
        wait_for(&format!("another {role}"), MOMENT, || {
            Ok(machine.role(role).is_some_and(|now| now != pid))
        })?;
        app.wait_answer("/", "here")?;
    }
    // It ends as nothing answers; the request is lost with it.
    let _ = app.visit("/exit?3");
    app.wait_answer("/", "here")
}

#[test]
fn what_a_power_cut_ends_is_brought_back() -> Result<()> {
    let mut machine = Machine::start()?;
    let source = remembers()?;
    let url = story::url(&machine.deploy(source.path(), "app")?)?;
    let site = folder::with(&[("index.html", "files")])?;
    let site = story::url(&machine.deploy(site.path(), "site")?)?;
    let first = drawn(&machine, &url)?;

    let mut pids = story::instance_pids(&machine, "app")?;
    pids.extend(story::instance_pids(&machine, "site")?);
    ensure!(pids.len() == 2, "{pids:?}");
    let ours = machine.processes();
    machine.cut_power()?;
    for pid in ours.into_iter().map(|(_, pid)| pid).chain(pids) {
        // Some end with those before them.
        let _ = process::signal(pid, Signal::KILL);
    }
    wait_for("everything has ended", MOMENT, || Ok(machine.processes().is_empty()))?;

    machine.up()?;
    let second = drawn(&machine, &url)?;
    ensure!(second != first, "a new process");
    ensure!(drawn(&machine, &site)? == "files");
    wait_for("nothing is left but what runs", MOMENT, || {
        let traces = machine.traces()?;
        Ok(traces.sandboxes.len() == 2 && traces.links.len() <= 3 && traces.cgroups.len() <= 2 * 12)
    })
    .with_context(|| format!("{:?}", machine.traces()))?;
    Ok(())
}

#[test]
fn two_installations_on_one_machine_do_not_meet() -> Result<()> {
    let (mut one, two) = (Machine::start()?, Machine::start()?);
    let source = remembers()?;
    let first = story::url(&one.deploy(source.path(), "app")?)?;
    let second = story::url(&two.deploy(source.path(), "app")?)?;
    let before = drawn(&two, &second)?;
    ensure!(drawn(&one, &first)? != before);
    one.end(Signal::TERM)?;
    ensure!(one.down()?.status.success());
    ensure!(one.traces()?.is_empty(), "{:?}", one.traces());
    ensure!(drawn(&two, &second)? == before, "the other one's app was harmed");
    ensure!(two.deploy(source.path(), "other")?["state"] == "live");
    Ok(())
}

#[test]
fn a_backup_brings_everything_back_elsewhere() -> Result<()> {
    let machine = Machine::start()?;
    let site = folder::with(&[("index.html", "kept safe")])?;
    machine.deploy(site.path(), "site")?;
    let source = explorer::folder()?;
    machine.deploy(source.path(), "app")?;
    let app = App::find(&machine, "app")?;
    let set = app.ask("PUT", "secrets/KEY", Some(&json!({"value": "of-old"})))?;
    for deployment in good(&set)?["deployments"].as_array().context("deployments")? {
        ensure!(app.verdict(deployment)?["state"] == "live");
    }

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("backup.tar");
    let path = file.to_str().context("path")?;
    machine.ok(&["backup", "create", path])?;
    ensure!(std::fs::metadata(&file)?.permissions().mode() & 0o077 == 0, "for its owner alone");
    let mut other = Machine::prepare()?;
    other.ok(&["backup", "restore", path])?;
    ensure!(!other.data().join("operator.json").exists(), "no credential is in a backup");
    std::fs::copy(machine.data().join("master.key"), other.data().join("master.key"))?;
    let again = other.cli(&["backup", "restore", path])?;
    ensure!(!again.status.success(), "never over a folder that holds state");
    other.up()?;
    App::find(&other, "site")?.wait_answer("/", "kept safe")?;
    App::find(&other, "app")?.wait_answer("/env", "of-old")?;
    Ok(())
}

/// An ordinary user of this machine: in `/etc/passwd` for nobody.
const ORDINARY: u32 = 23_517;

#[test]
fn an_ordinary_user_gets_a_development_mode_that_says_what_it_lacks() -> Result<()> {
    let mut machine = Machine::prepare()?;
    machine.run_as(ORDINARY)?;
    if let Some(reason) = machine.cannot_sandbox_as_user()? {
        if std::env::var("INSULA_TEST_ALL").is_ok_and(|v| v == "1") {
            anyhow::bail!("{reason}");
        }
        eprintln!("SKIPPED: development mode as an ordinary user: {reason}");
        return Ok(());
    }
    machine.up()?;
    ensure!(machine.greeting().contains("Development mode"), "{}", machine.greeting());
    let doctor = machine.cli(&["doctor"])?;
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    ensure!(said.contains("missing") && said.contains("fix:"), "{said}");
    let source = folder::python("as anybody")?;
    std::fs::set_permissions(source.path(), std::fs::Permissions::from_mode(0o755))?;
    let url = story::url(&machine.deploy(source.path(), "app")?)?;
    ensure!(machine.visit(&url, "/")?.text().contains("as anybody"));
    let second = machine.api("POST", "/v1/orgs", Some(&json!({"name": "acme"})))?;
    let (_, code, text) = insula_e2e::app::refusal(&second)?;
    ensure!(code == "second_org", "{text}");
    machine.end(Signal::INT)?;
    wait_for("nothing of it runs", Duration::from_secs(10), || Ok(machine.processes().is_empty()))?;
    Ok(())
}
