//! What people and programs send by mistake or on purpose: a clear error, and nothing is lost.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use insula_e2e::app::{App, good, refusal};
use insula_e2e::machine::{Machine, wait_for};
use insula_e2e::story::MOMENT;
use insula_e2e::{archive, folder, story};
use serde_json::{Value, json};

/// A refusal that needs nothing but a look.
const QUICKLY: Duration = Duration::from_secs(3);

/// A service of a few lines of Python that is given this long to listen.
fn service(source: &str, startup: &str) -> Result<tempfile::TempDir> {
    let toml = format!(
        "[components.web]\nrun = \"exec python3 main.py\"\nhealth = {{ startup = \"{startup}\" }}\n\
         stop = {{ grace = \"1s\" }}\ndrain = \"0s\"\n"
    );
    folder::with(&[("main.py", source), ("insula.toml", &toml)])
}

/// The code and the whole cause of a deployment that must not become live.
fn cause(machine: &Machine, folder: &Path, app: &str) -> Result<(String, Value)> {
    let report = machine.deploy_fails(folder, app)?;
    let code = report["cause"]["code"].as_str();
    Ok((code.with_context(|| format!("no code in {report}"))?.to_owned(), report))
}

#[test]
fn what_cannot_be_deployed_is_refused_before_it_is_sent() -> Result<()> {
    let machine = Machine::start()?;
    let site = folder::with(&[("index.html", "fine")])?;
    let path = site.path().to_str().context("path")?;
    for name in ["Upper", "a b", "-a", "a-", "a--b", "1a", "", "../x", "a;reboot", "$(reboot)", "ä"]
    {
        let output = machine.cli(&["deploy", path, &format!("--app={name}"), "--json"])?;
        // Nothing after `--app=` is what an unset variable leaves there: the folder's name is taken.
        ensure!(name.is_empty() || !output.status.success(), "{name:?} was taken for a name");
        let body = json!({"name": name, "project": "default", "environment": "production"});
        let answer = machine.api("POST", "/v1/orgs/default/apps", Some(&body))?;
        let (status, ..) = refusal(&answer)?;
        ensure!(status == 400 || status == 422, "{name:?}: {}", answer.text());
    }

    let large = folder::with(&[("index.html", "x")])?;
    File::create(large.path().join("disk.img"))?.set_len(5 << 30)?;
    let began = Instant::now();
    let (code, report) = cause(&machine, large.path(), "large")?;
    ensure!(began.elapsed() < QUICKLY, "it took {:?} to refuse", began.elapsed());
    ensure!(code == "source_too_large" || report.to_string().contains("disk.img"), "{report}");

    let odd = folder::with(&[("index.html", "x")])?;
    std::os::unix::fs::symlink("/etc/passwd", odd.path().join("passwd"))?;
    std::os::unix::fs::symlink("../../outside", odd.path().join("outside"))?;
    let _socket = std::os::unix::net::UnixListener::bind(odd.path().join("socket"))?;
    ensure!(Command::new("mkfifo").arg(odd.path().join("pipe")).status()?.success());
    let device = odd.path().join("device");
    ensure!(Command::new("mknod").arg(device).args(["c", "1", "3"]).status()?.success());
    let began = Instant::now();
    let (_, report) = cause(&machine, odd.path(), "odd")?;
    ensure!(began.elapsed() < QUICKLY, "it took {:?} to refuse", began.elapsed());
    for name in ["passwd", "outside", "socket", "pipe", "device"] {
        ensure!(report.to_string().contains(name), "{name} is not named in {report}");
    }

    let mistaken = folder::with(&[
        ("main.py", ""),
        (
            "insula.toml",
            "schema = 1\nshoe_size = 43\n[components.web]\nport = 99999\nmemory = \"lots\"\n\
             instances = \"two\"\nroutes = [{ path = \"no slash\" }]\nisolation = \"gvisor\"\n\
             [components.Bad_Name]\nkind = \"robot\"\n",
        ),
    ])?;
    let (code, report) = cause(&machine, mistaken.path(), "mistaken")?;
    ensure!(code == "invalid_spec", "{report}");
    let errors = report["cause"]["errors"].as_array().context("errors")?;
    for key in ["shoe_size", "port", "memory", "instances", "path", "isolation", "Bad_Name"] {
        let told = errors.iter().any(|e| e.to_string().contains(key));
        ensure!(told, "{key} is not told of in {report}");
    }
    ensure!(errors.iter().any(|e| e["fix"].as_str().is_some_and(|f| !f.is_empty())), "{report}");

    let nothing = folder::with(&[("README.txt", "words")])?;
    let (_, report) = cause(&machine, nothing.path(), "nothing")?;
    ensure!(report["cause"]["hint"].is_string() || !report["cause"]["errors"].is_null());
    let empty = tempfile::tempdir()?;
    cause(&machine, empty.path(), "empty")?;

    let old = folder::python("anyway")?;
    folder::write(old.path(), ".python-version", "2.6.9\n")?;
    let report = machine.deploy(old.path(), "old")?;
    ensure!(report["warnings"].to_string().contains("2.6.9"), "{report}");
    ensure!(machine.visit(&story::url(&report)?, "/")?.text().contains("anyway"));
    Ok(())
}

#[test]
fn archives_that_attack_are_refused_whole() -> Result<()> {
    const GZIP: &str = "application/gzip";
    const ZIP: &str = "application/zip";
    let machine = Machine::start()?;
    let app = App::create(&machine, "app")?;
    let fine = ("index.html", "REGTYPE", "fine");
    let evil: Vec<(&str, &str, Vec<u8>)> = vec![
        ("climbs", GZIP, archive::tar_of(&[fine, ("../evil", "REGTYPE", "x")])?),
        ("climbs within", GZIP, archive::tar_of(&[fine, ("a/../../evil", "REGTYPE", "x")])?),
        ("absolute", GZIP, archive::tar_of(&[fine, ("/tmp/evil", "REGTYPE", "x")])?),
        ("link out", GZIP, archive::tar_of(&[fine, ("a", "SYMTYPE", "/etc/passwd")])?),
        (
            "through a link",
            GZIP,
            archive::tar_of(&[fine, ("a", "SYMTYPE", "../.."), ("a/evil", "REGTYPE", "x")])?,
        ),
        ("hard link", GZIP, archive::tar_of(&[fine, ("a", "LNKTYPE", "/etc/shadow")])?),
        ("device", GZIP, archive::tar_of(&[fine, ("a", "CHRTYPE", "")])?),
        ("pipe", GZIP, archive::tar_of(&[fine, ("a", "FIFOTYPE", "")])?),
        ("twice", GZIP, archive::tar_of(&[fine, ("index.html", "REGTYPE", "other")])?),
        (
            "tar bomb",
            GZIP,
            archive::made_by(
                "t = tarfile.open(fileobj=out, mode='w:gz')
i = tarfile.TarInfo('index.html'); i.size = 400 << 20
class Zeros:
    def read(self, n): return bytes(n)
t.addfile(i, Zeros()); t.close()",
                Path::new("/"),
            )?,
        ),
        (
            "zip bomb",
            ZIP,
            archive::made_by(
                "with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
    z.writestr('index.html', bytes(300 << 20))",
                Path::new("/"),
            )?,
        ),
        (
            "zip climbs",
            ZIP,
            archive::made_by(
                "with zipfile.ZipFile(out, 'w') as z:
    z.writestr('index.html', 'x'); z.writestr('../evil', 'x')",
                Path::new("/"),
            )?,
        ),
        ("no archive", GZIP, b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("cut short", GZIP, {
            let mut bytes = archive::tar_of(&[fine, ("b", "REGTYPE", "more")])?;
            bytes.truncate(bytes.len() / 2);
            bytes
        }),
        ("nothing", GZIP, archive::tar_of(&[])?),
    ];
    for (what, media_type, bytes) in evil {
        let answer = app.send_archive(media_type, &bytes).with_context(|| what.to_owned())?;
        let (status, code, text) = refusal(&answer).with_context(|| what.to_owned())?;
        ensure!((400..500).contains(&status), "{what}: {text}");
        ensure!(code != "internal", "{what}: {text}");
    }
    ensure!(app.list("deployments")?.is_empty(), "nothing of it is deployed");
    ensure!(!Path::new("/tmp/evil").exists());
    let spool = std::fs::read_dir(machine.data().join("server/spool"))?.count();
    ensure!(spool == 0, "the spool is empty again");
    let bytes = archive::tar_of(&[fine])?;
    let verdict = app.verdict(&good(&app.send_archive(GZIP, &bytes)?)?)?;
    ensure!(verdict["state"] == "live", "{verdict}");
    Ok(())
}

const LISTENS: &str = r#"import os, socket, time
s = socket.create_server(ADDRESS)
print("listening", flush=True)
while True:
    c, _ = s.accept()
    c.recv(4096)
    c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhere\n")
    c.close()
"#;

#[test]
fn an_app_that_does_not_serve_fails_with_its_cause() -> Result<()> {
    let machine = Machine::start()?;
    let good_one = folder::python("still here")?;
    let url = story::url(&machine.deploy(good_one.path(), "app")?)?;

    let (code, report) = cause(
        &machine,
        service("import time\nprint('thinking', flush=True)\ntime.sleep(1000)", "2s")?.path(),
        "app",
    )?;
    ensure!(code == "not_listening", "{report}");
    ensure!(report["cause"]["tail"].to_string().contains("thinking"), "{report}");
    ensure!(report["state"] == "failed", "{report}");

    let loopback = LISTENS.replace("ADDRESS", "('127.0.0.1', int(os.environ['PORT']))");
    let (code, report) = cause(&machine, service(&loopback, "3s")?.path(), "app")?;
    ensure!(code == "listens_on_loopback", "{report}");
    ensure!(report["cause"]["hint"].is_string(), "{report}");

    let (code, report) =
        cause(&machine, service("print('all done', flush=True)", "5s")?.path(), "app")?;
    ensure!(code == "exited" && report["cause"]["exit"]["code"] == 0, "{report}");
    ensure!(report["cause"]["tail"].to_string().contains("all done"), "{report}");

    let (code, report) =
        cause(&machine, service("raise SystemExit('no such table')", "5s")?.path(), "app")?;
    ensure!(code == "exited" && report["cause"]["exit"]["code"] == 1, "{report}");
    ensure!(report["cause"]["tail"].to_string().contains("no such table"), "{report}");

    let (code, report) = cause(
        &machine,
        service("a = [bytearray(1 << 20) for _ in range(4096)]", "9s")?.path(),
        "app",
    )?;
    ensure!(code == "out_of_memory", "{report}");

    ensure!(machine.visit(&url, "/")?.text().contains("still here"), "what served still does");

    let elsewhere = LISTENS.replace("ADDRESS", "('', 9876)");
    let report = machine.deploy(service(&elsewhere, "20s")?.path(), "elsewhere")?;
    ensure!(report["warnings"].to_string().contains("9876"), "{report}");
    ensure!(machine.visit(&story::url(&report)?, "/")?.text() == "here\n");

    let (code, report) = cause(
        &machine,
        folder::with(&[("Procfile", "web: no-such-program\n"), ("main.py", "")])?.path(),
        "gone",
    )?;
    ensure!(code == "exited" || code == "start_failed", "{report}");
    Ok(())
}

/// Writes about a megabyte again and again, and listens all the while.
const SPAMS: &str = r#"import http.server, os, sys, threading
def spam():
    line = ("x" * 1023 + "\n") * 1024
    while True:
        sys.stdout.write(line)
threading.Thread(target=spam, daemon=True).start()
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), http.server.SimpleHTTPRequestHandler).serve_forever()
"#;

/// What a folder holds on the disk.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size_of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(size_of).sum()
}

#[test]
fn who_shouts_or_will_not_leave_troubles_nobody() -> Result<()> {
    /// What the logs of a machine with one shouting app may grow by in ten seconds.
    const LOGS_MAX: u64 = 128 << 20;
    let machine = Machine::start()?;
    let neighbour = folder::python("quiet")?;
    let url = story::url(&machine.deploy(neighbour.path(), "neighbour")?)?;
    machine.deploy(service(SPAMS, "30s")?.path(), "loud")?;
    let host = insula_e2e::machine::host_of(&url)?;
    let load = insula_e2e::load::Load::start(machine.edge, &host, "/", 20);
    wait_for("two hundred requests", MOMENT, || {
        let seen = load.seen();
        Ok(seen.good + seen.failed.len() as u64 >= 200)
    })?;
    let seen = load.finish();
    ensure!(seen.failed.is_empty(), "{:?}", seen.failed);
    ensure!(seen.percentile_us(990) < 2_000_000, "p99 {} us", seen.percentile_us(990));
    let logs = size(&machine.data().join("logs"));
    ensure!(logs < LOGS_MAX, "{logs} bytes of logs");
    let loud = App::find(&machine, "loud")?;
    let lines = loud.log("&component=web")?;
    ensure!(!lines.is_empty(), "the last lines can be read");

    let stubborn = format!(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{}",
        LISTENS.replace("ADDRESS", "('', int(os.environ['PORT']))")
    );
    machine.deploy(service(&stubborn, "30s")?.path(), "stubborn")?;
    let stubborn = App::find(&machine, "stubborn")?;
    let began = Instant::now();
    stubborn.post("stop", &json!({}))?;
    wait_for("it is gone", MOMENT, || Ok(story::instances(&machine, "stubborn")?.is_empty()))?;
    // Its grace is a second; the default would have been thirty.
    ensure!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    Ok(())
}

#[test]
fn the_later_deployment_wins_and_a_cancelled_one_changes_nothing() -> Result<()> {
    let machine = Machine::start()?;
    let slow = service("import time\ntime.sleep(1000)", "120s")?;
    let slow_path = slow.path().to_str().context("path")?;
    let quick = folder::python("first")?;
    let url = story::url(&machine.deploy(quick.path(), "app")?)?;
    let app = App::find(&machine, "app")?;
    let begun = machine.json(&["deploy", slow_path, "--app", "app", "--detach"])?;
    folder::write(
        quick.path(),
        "main.py",
        &std::fs::read_to_string(quick.path().join("main.py"))?.replace("first", "later"),
    )?;
    machine.deploy(quick.path(), "app")?;
    let verdict = app.verdict(&begun)?;
    ensure!(verdict["state"] == "superseded" && verdict["superseded_by"].is_string(), "{verdict}");
    ensure!(machine.visit(&url, "/")?.text() == "later\n");

    let begun = machine.json(&["deploy", slow_path, "--app", "app", "--detach"])?;
    let id = begun["deployment"].as_str().context("deployment")?;
    wait_for("it starts", MOMENT, || {
        let shown = good(&app.of_org("GET", &format!("deployments/{id}"), None)?)?;
        Ok(shown["state"] == "starting")
    })?;
    good(&app.of_org("POST", &format!("deployments/{id}/cancel"), Some(&json!({})))?)?;
    let verdict = app.verdict(&begun)?;
    ensure!(verdict["state"] == "cancelled" && verdict["cancelled_by"].is_string(), "{verdict}");
    ensure!(machine.visit(&url, "/")?.text() == "later\n");
    wait_for("what was begun is gone", MOMENT, || {
        Ok(story::instances(&machine, "app")?.len() == 1)
    })?;

    let endless = folder::with(&[
        (
            "package.json",
            r#"{"scripts": {"build": "echo begun; sleep 1000", "start": "node a.js"}}"#,
        ),
        ("a.js", ""),
    ])?;
    let path = endless.path().to_str().context("path")?;
    let begun = machine.json(&["deploy", path, "--app", "endless", "--detach"])?;
    let endless = App::find(&machine, "endless")?;
    wait_for("the build runs", MOMENT, || {
        let builds = endless.list("builds")?;
        let Some(id) = builds.first().and_then(|b| b["id"].as_str()) else { return Ok(false) };
        let log = endless.of_org("GET", &format!("builds/{id}/log"), None)?;
        Ok(log.status == 200 && log.text().contains("begun"))
    })?;
    let id = begun["deployment"].as_str().context("deployment")?;
    good(&endless.of_org("POST", &format!("deployments/{id}/cancel"), Some(&json!({})))?)?;
    ensure!(endless.verdict(&begun)?["state"] == "cancelled");
    wait_for("the build is cancelled", MOMENT, || {
        Ok(endless.list("builds")?[0]["state"] == "cancelled")
    })?;
    wait_for("its sandbox is gone", MOMENT, || Ok(machine.traces()?.sandboxes.len() == 1))
        .with_context(|| format!("{:?}", machine.traces()))?;
    Ok(())
}
