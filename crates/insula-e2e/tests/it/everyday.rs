//! What happens on a good day.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use insula_e2e::app::{App, good};
use insula_e2e::machine::{Machine, wait_for};
use insula_e2e::story::MOMENT;
use insula_e2e::{archive, explorer, folder, story};
use serde_json::{Value, json};

#[test]
fn a_static_folder_becomes_a_url_and_a_change_becomes_live() -> Result<()> {
    let machine = Machine::start()?;
    let site =
        folder::with(&[("index.html", "<h1>one</h1>"), ("css/a.css", "h1{}"), (".env", "no")])?;
    let deployed = machine.deploy(site.path(), "site")?;
    ensure!(deployed["state"] == "live", "{deployed}");
    let url = story::url(&deployed)?;
    ensure!(machine.visit(&url, "/")?.text() == "<h1>one</h1>");
    ensure!(
        machine.visit(&url, "/css/a.css")?.header("content-type")
            == Some("text/css; charset=utf-8")
            || machine.visit(&url, "/css/a.css")?.header("content-type") == Some("text/css")
    );
    ensure!(machine.visit(&url, "/.env")?.status == 404, "dotfiles are never served");
    ensure!(machine.visit(&url, "/../../etc/passwd")?.status != 200);
    folder::write(site.path(), "index.html", "<h1>two</h1>")?;
    machine.deploy(site.path(), "site")?;
    ensure!(machine.visit(&url, "/")?.text() == "<h1>two</h1>");
    machine.json(&["rollback", "v1", "--app", "site"])?;
    ensure!(machine.visit(&url, "/")?.text() == "<h1>one</h1>");
    let stranger =
        machine.visit(&format!("http://nobody.localhost:{}/", machine.edge.port()), "/")?;
    ensure!(stranger.status == 404 && stranger.header("x-request-id").is_some(), "{stranger:?}");
    Ok(())
}

/// What `deploy --json` promises to programs.
fn is_a_report(report: &Value) -> Result<()> {
    for key in ["url", "release", "state", "cause", "phases"] {
        ensure!(report.get(key).is_some(), "no {key} in {report}");
    }
    ensure!(report["state"] == "live" && report["cause"].is_null(), "{report}");
    let phases = report["phases"].as_array().context("phases")?;
    for phase in ["start", "shift"] {
        let found = phases.iter().find(|p| p["phase"] == phase);
        let took = found.and_then(|p| p["took_ms"].as_u64());
        ensure!(took.is_some(), "no time of {phase} in {report}");
    }
    Ok(())
}

#[test]
fn the_examples_go_live() -> Result<()> {
    let machine = Machine::start()?;
    for (name, says) in [("static", "<"), ("python", "Hello from Python"), ("node", "Hello")] {
        let report = machine.deploy(&folder::example(name), name)?;
        is_a_report(&report)?;
        ensure!(report["release"] == "v1", "{report}");
        let answer = machine.visit(&story::url(&report)?, "/")?;
        ensure!(answer.status == 200 && answer.text().contains(says), "{name}: {}", answer.text());
    }

    machine.deploy(&folder::example("worker"), "worker")?;
    let worker = App::find(&machine, "worker")?;
    worker.wait_log("tick 2")?;
    ensure!(worker.list("routes")?.is_empty(), "a worker has no port");

    machine.deploy(&folder::example("job"), "job")?;
    let job = App::find(&machine, "job")?;
    ensure!(job.list("instances")?.is_empty(), "a job runs when it is asked to");
    let run = job.run("report", None)?;
    ensure!(run["state"] == "ended" && run["exit"]["code"] == 0, "{run}");
    job.wait_log("total")?;
    let failed = job.run("report", Some(&["sh", "-c", "echo gone wrong >&2; exit 7"]))?;
    ensure!(failed["exit"]["code"] == 7, "{failed}");
    job.wait_log("gone wrong")?;
    let kept = job.list("runs")?;
    ensure!(kept.len() == 2 && kept[0]["id"] == failed["id"], "{kept:?}");

    let report = machine.deploy(&folder::example("multi"), "multi")?;
    let multi = App::find(&machine, "multi")?;
    // The worker finds the service by name, and calls it.
    multi.wait_answer("/", "beats")?;
    multi.wait_log("beat 1")?;
    let style = machine.visit(&story::url(&report)?, "/assets/style.css")?;
    ensure!(style.status == 200, "{style:?}");
    Ok(())
}

#[test]
fn packages_are_installed_before_an_app_starts() -> Result<()> {
    let machine = Machine::start()?;
    let report = machine.deploy(&folder::example("python-flask"), "flask")?;
    is_a_report(&report)?;
    let phases = report["phases"].to_string();
    ensure!(phases.contains("\"build\""), "no build in {report}");
    let flask = App::find(&machine, "flask")?;
    ensure!(flask.visit("/")?.text().contains("Hello from Flask"));
    let builds = flask.list("builds")?;
    let build = builds.first().and_then(|b| b["id"].as_str()).context("a build")?;
    let log = good(&flask.of_org("GET", &format!("builds/{build}/log"), None)?)?;
    ensure!(log.to_string().to_lowercase().contains("flask"), "{log}");

    let report = machine.deploy(&folder::example("node-express"), "express")?;
    let answer = machine.visit(&story::url(&report)?, "/")?;
    ensure!(answer.status == 200, "{answer:?}");

    // The same packages again are not installed again.
    let copy = tempfile::tempdir()?;
    for name in ["app.py", "requirements.txt", "Procfile"] {
        std::fs::copy(folder::example("python-flask").join(name), copy.path().join(name))?;
    }
    let source = std::fs::read_to_string(copy.path().join("app.py"))?;
    folder::write(copy.path(), "app.py", &source.replace("Hello from Flask", "Hello again"))?;
    machine.deploy(copy.path(), "flask")?;
    ensure!(flask.visit("/")?.text().contains("Hello again"));
    Ok(())
}

#[test]
fn procfiles_and_folders_made_for_stratus_run_unchanged() -> Result<()> {
    let machine = Machine::start()?;
    let procfile = folder::python("from a Procfile")?;
    folder::write(
        procfile.path(),
        "Procfile",
        "web: exec python3 main.py\nBig_Worker: echo working; exec sleep 1000\n",
    )?;
    let report = machine.deploy(procfile.path(), "proc")?;
    let proc = App::find(&machine, "proc")?;
    ensure!(proc.visit("/")?.text().contains("from a Procfile"));
    proc.wait_log("working")?;
    let warned = report["warnings"].to_string();
    ensure!(warned.contains("big-worker"), "a changed name is told: {report}");

    let stratus = folder::with(&[
        (
            "stratus_init.sh",
            "#!/bin/bash\ncd \"$(dirname \"$0\")\"\nexec python3 -m http.server \"$PORT\" --directory site\n",
        ),
        ("site/index.html", "stratus"),
    ])?;
    let report = machine.deploy(stratus.path(), "stratus")?;
    ensure!(machine.visit(&story::url(&report)?, "/")?.text() == "stratus");
    Ok(())
}

#[test]
fn an_archive_is_a_source_too() -> Result<()> {
    let machine = Machine::start()?;
    let site = folder::with(&[("index.html", "packed"), ("a/b.txt", "deep")])?;
    let archives = [
        ("tarred", "application/gzip", archive::tar_gz(site.path())?),
        ("zipped", "application/zip", archive::zip(site.path())?),
    ];
    for (name, media_type, bytes) in archives {
        let app = App::create(&machine, name)?;
        let deployment = good(&app.send_archive(media_type, &bytes)?)?;
        let verdict = app.verdict(&deployment)?;
        ensure!(verdict["state"] == "live", "{verdict}");
        ensure!(app.visit("/")?.text() == "packed", "the top folder is taken off");
        ensure!(app.visit("/a/b.txt")?.text() == "deep");
    }
    let runtimes = good(&machine.api("GET", "/v1/runtimes", None)?)?;
    ensure!(runtimes.to_string().contains("python"), "{runtimes}");
    Ok(())
}

#[test]
fn what_is_ignored_stays_and_what_is_known_does_not_travel() -> Result<()> {
    let machine = Machine::start()?;
    let site = folder::with(&[
        ("index.html", "one"),
        ("large.txt", &"0123456789".repeat(30_000)),
        ("notes.log", "private"),
        ("secret/key.txt", "private"),
        ("dist/kept.txt", "kept"),
        (".gitignore", "*.log\n/dist/\n"),
        (".insulaignore", "secret/\n!/dist/\n"),
    ])?;
    let report = machine.deploy(site.path(), "site")?;
    let url = story::url(&report)?;
    for (path, status) in
        [("/", 200), ("/notes.log", 404), ("/secret/key.txt", 404), ("/dist/kept.txt", 200)]
    {
        ensure!(machine.visit(&url, path)?.status == status, "{path}");
    }
    folder::write(site.path(), "index.html", "two")?;
    let path = site.path().to_str().context("path")?;
    let plan = machine.json(&["deploy", path, "--app", "site", "--plan"])?;
    ensure!(plan["send_files"] == 1 && plan["send_bytes"] == 3, "{plan}");
    ensure!(machine.visit(&url, "/")?.text() == "one", "a plan changes nothing");
    machine.deploy(site.path(), "site")?;
    let plan = machine.json(&["deploy", path, "--app", "site", "--plan"])?;
    ensure!(plan["send_files"] == 0, "{plan}");
    Ok(())
}

#[test]
fn logs_outlive_their_release_and_everything_can_be_asked_why() -> Result<()> {
    let machine = Machine::start()?;
    let source = explorer::folder()?;
    machine.deploy(source.path(), "app")?;
    let app = App::find(&machine, "app")?;
    explorer::attempt(&app, "log", "said-by-the-first")?;
    app.wait_log("said-by-the-first")?;
    folder::write(source.path(), "more.txt", "changed")?;
    let report = machine.deploy(source.path(), "app")?;
    ensure!(report["release"] == "v2", "{report}");
    explorer::attempt(&app, "log", "said-by-the-second")?;
    app.wait_log("said-by-the-second")?;
    app.wait_log("said-by-the-first")?;
    let one = app.log("&grep=by-the-second")?;
    ensure!(one.len() == 1, "{one:?}");
    let shown = machine.ok(&["logs", "--app", "app"])?;
    ensure!(shown.contains("said-by-the-first") && shown.contains("said-by-the-second"));

    let mut follow = machine.follow(&["logs", "-f", "--app", "app"])?;
    wait_for("what was written is shown", MOMENT, || Ok(follow.shown().contains("by-the-second")))?;
    explorer::attempt(&app, "log", "said-meanwhile")?;
    wait_for("what is written is shown", MOMENT, || Ok(follow.shown().contains("said-meanwhile")))?;
    follow.end()?;

    app.event("deployment.live")?;
    let trace = app.event("deployment.created")?["trace"].clone();
    ensure!(trace.as_str().is_some_and(|t| !t.is_empty()), "an event has its trace");
    let instance = story::instances(&machine, "app")?;
    let instance = instance.iter().find(|i| i["intent"] == "run");
    let instance = instance.and_then(|i| i["id"].as_str()).context("an instance")?;
    ensure!(app.why(instance)?.contains("ready"), "{}", app.why(instance)?);
    app.why(&app.id)?;
    let deployment = report["deployment"].as_str().context("deployment")?;
    ensure!(app.why(deployment)?.contains("live"), "{}", app.why(deployment)?);
    Ok(())
}

#[test]
fn an_app_is_scaled_stopped_started_restarted_and_rolled_back() -> Result<()> {
    let machine = Machine::start()?;
    let source = folder::with(&[
        ("main.py", story::REMEMBERS),
        ("Procfile", "web: exec python3 main.py\n"),
    ])?;
    machine.deploy(source.path(), "app")?;
    let app = App::find(&machine, "app")?;
    app.post("scale", &json!({"components": {"web": 3}}))?;
    story::wait_ready(&machine, "app", 3)?;
    app.post("scale", &json!({"components": {"web": 1}}))?;
    story::wait_ready(&machine, "app", 1)?;
    wait_for("the others are gone", MOMENT, || Ok(story::instances(&machine, "app")?.len() == 1))?;

    app.post("stop", &json!({}))?;
    wait_for("nobody answers", MOMENT, || Ok(app.visit("/")?.status == 503))?;
    wait_for("nothing runs", MOMENT, || Ok(story::instances(&machine, "app")?.is_empty()))?;
    app.post("start", &json!({}))?;
    wait_for("it answers again", MOMENT, || Ok(app.visit("/")?.status == 200))?;

    let before = app.visit("/")?.text();
    let deployment = app.post("restart", &json!({}))?;
    ensure!(app.verdict(&deployment)?["state"] == "live");
    ensure!(app.visit("/")?.text() != before, "a restart is a new process");

    folder::write(source.path(), "version.txt", "two")?;
    machine.deploy(source.path(), "app")?;
    let verdict = app.roll_back(1)?;
    ensure!(verdict["state"] == "live", "{verdict}");
    let live = good(&app.of_org("GET", &format!("apps/{}", app.id), None)?)?;
    ensure!(live["live"].is_object(), "{live}");
    let releases = app.list("releases")?;
    ensure!(releases.len() >= 2, "{releases:?}");
    Ok(())
}

/// Files below a folder that hold these bytes in the clear.
fn holding(folder: &Path, text: &str, found: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            // A folder may go while it is read.
            let _ = holding(&entry.path(), text, found);
        } else if kind.is_file()
            && std::fs::read(entry.path())
                .is_ok_and(|bytes| bytes.windows(text.len()).any(|w| w == text.as_bytes()))
        {
            found.push(entry.path().display().to_string());
        }
    }
    Ok(())
}

#[test]
fn a_secret_reaches_the_app_and_nobody_else() -> Result<()> {
    const FIRST: &str = "s3cr3t-of-the-first-day";
    const SECOND: &str = "s3cr3t-of-the-second-day";
    let machine = Machine::start()?;
    let source = explorer::folder()?;
    machine.deploy(source.path(), "app")?;
    let app = App::find(&machine, "app")?;
    let started = good(&app.ask("PUT", "variables/GREETING", Some(&json!({"value": "hello"})))?)?;
    for deployment in started["deployments"].as_array().context("deployments")? {
        ensure!(app.verdict(deployment)?["state"] == "live");
    }
    for value in [FIRST, SECOND] {
        let set = app.ask("PUT", "secrets/API_KEY", Some(&json!({"value": value})))?;
        for deployment in good(&set)?["deployments"].as_array().context("deployments")? {
            ensure!(app.verdict(deployment)?["state"] == "live");
        }
        ensure!(!set.text().contains(value));
        let env = explorer::attempt(&app, "env", "")?;
        let env: Value = serde_json::from_str(env.text())?;
        ensure!(env["API_KEY"] == value && env["GREETING"] == "hello", "{env}");
        for name in ["ORG", "PROJECT", "ENVIRONMENT", "APP", "COMPONENT", "RELEASE", "INSTANCE"] {
            let key = format!("INSULA_{name}");
            ensure!(env[&key].as_str().is_some_and(|v| !v.is_empty()), "{key} in {env}");
        }
        ensure!(env["HOME"] == "/app", "{env}");
    }
    // What runs gets a secret's newest value, also after a rollback to the release of the first.
    ensure!(app.roll_back(3)?["state"] == "live");
    ensure!(explorer::attempt(&app, "env", "")?.text().contains(SECOND));

    // A build that prints what it was trusted with prints it to nobody.
    let leaky = folder::with(&[
        ("package.json", r#"{"scripts": {"build": "node leak.js", "start": "node main.js"}}"#),
        ("leak.js", "console.log('the key is ' + process.env.API_KEY + '!')"),
        (
            "main.js",
            "require('http').createServer((q, a) => a.end('leaky')).listen(process.env.PORT)",
        ),
    ])?;
    let leak = App::create(&machine, "leaky")?;
    good(&leak.ask("PUT", "secrets/API_KEY", Some(&json!({"value": SECOND})))?)?;
    machine.deploy(leaky.path(), "leaky")?;
    let builds = leak.list("builds")?;
    let build = builds.first().and_then(|b| b["id"].as_str()).context("a build")?;
    let log = good(&leak.of_org("GET", &format!("builds/{build}/log"), None)?)?.to_string();
    ensure!(log.contains("the key is ") && !log.contains(SECOND), "{log}");

    let mut shown = vec![machine.log()];
    for rest in ["secrets", "variables", "releases", "deployments", "instances", "logs"] {
        shown.push(app.ask("GET", rest, None)?.text());
    }
    shown.push(app.of_org("GET", "events", None)?.text());
    shown.push(machine.api("GET", "/v1/events", None)?.text());
    for text in &shown {
        for value in [FIRST, SECOND] {
            ensure!(!text.contains(value), "{value} in {text}");
        }
    }
    let mut found = Vec::new();
    for value in [FIRST, SECOND] {
        holding(&machine.data(), value, &mut found)?;
    }
    ensure!(found.is_empty(), "in the clear in {found:?}");
    Ok(())
}

/// Answers with the request line, the headers and the body as it got them.
const MIRROR: &str = r#"import http.server, os
class Mirror(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        length = int(self.headers.get("Content-Length", 0))
        body = f"{self.requestline}\n{self.headers}\n".encode() + self.rfile.read(length)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = answer
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Mirror).serve_forever()
"#;

#[test]
fn a_request_arrives_as_it_was_sent_and_says_where_it_came_from() -> Result<()> {
    let machine = Machine::start()?;
    let source = folder::with(&[("main.py", MIRROR), ("Procfile", "web: exec python3 main.py\n")])?;
    let url = story::url(&machine.deploy(source.path(), "mirror")?)?;
    let host = insula_e2e::machine::host_of(&url)?;
    let mut connection = insula_e2e::http::Connection::open(machine.edge)?;
    let body = vec![b'z'; 3 << 20];
    let asked = [("X-Forwarded-For", "6.6.6.6"), ("X-Own", "kept")];
    let answer = connection.send("POST", &host, "/a%20b//c?d=e", &asked, &body)?;
    let text = answer.text();
    ensure!(text.starts_with("POST /a%20b//c?d=e HTTP/1.1\n"), "{}", &text[..200]);
    ensure!(text.len() > body.len() && text.ends_with("zzz"), "the body came whole");
    let head = text.split("\n\n").next().unwrap_or_default().to_lowercase();
    for wanted in [
        format!("host: {host}"),
        "x-own: kept".into(),
        "x-forwarded-proto: http".into(),
        format!("x-forwarded-host: {host}"),
        "x-forwarded-for: 127.0.0.1".into(),
        "x-request-id: ".into(),
        "traceparent: ".into(),
    ] {
        ensure!(head.contains(&wanted), "{wanted} is not in {head}");
    }
    ensure!(!head.contains("6.6.6.6"), "a visitor does not choose his address: {head}");
    // The same connection goes on.
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let answer = connection.send(method, &host, "/", &[], b"")?;
        ensure!(answer.status == 200, "{method}: {answer:?}");
    }
    Ok(())
}

#[test]
fn a_domain_leads_to_an_app_and_to_no_other() -> Result<()> {
    let machine = Machine::start()?;
    for (name, text) in [("one", "first"), ("two", "second")] {
        let site = folder::with(&[("index.html", text)])?;
        machine.deploy(site.path(), name)?;
    }
    let (one, two) = (App::find(&machine, "one")?, App::find(&machine, "two")?);
    one.post("domains", &json!({"host": "www.example.org"}))?;
    let at = "http://www.example.org/";
    wait_for("the domain answers", MOMENT, || Ok(machine.visit(at, "/")?.text() == "first"))?;
    let taken = two.ask("POST", "domains", Some(&json!({"host": "www.example.org"})))?;
    ensure!(taken.status == 409, "{}", taken.text());
    let wrong = two.ask("POST", "domains", Some(&json!({"host": "not a host/"})))?;
    ensure!(wrong.status == 422 || wrong.status == 400, "{}", wrong.text());
    let domains = one.list("domains")?;
    let id = domains.first().and_then(|d| d["id"].as_str()).context("a domain")?;
    good(&one.of_org("DELETE", &format!("domains/{id}"), None)?)?;
    wait_for("the domain is gone", MOMENT, || Ok(machine.visit(at, "/")?.status == 404))?;
    Ok(())
}

#[test]
fn the_command_line_walks_the_daily_path() -> Result<()> {
    let machine = Machine::start()?;
    machine.deploy(&folder::example("job"), "job")?;
    let run = machine.cli(&["run", "report", "--app", "job"])?;
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    ensure!(run.status.code() == Some(0) && said.contains("total"), "{run:?}");
    let run = machine.cli(&["run", "--app", "job", "--", "sh", "-c", "echo out; exit 9"])?;
    ensure!(run.status.code() == Some(9), "the command's own code: {run:?}");
    let runs = machine.json(&["runs", "--app", "job"])?;
    ensure!(runs.to_string().contains("\"code\":9"), "{runs}");

    let source = explorer::folder()?;
    machine.deploy(source.path(), "app")?;
    let app = App::find(&machine, "app")?;
    let of_app = |args: &[&str]| machine.ok(&[args, &["--app", "app"]].concat());
    of_app(&["vars", "set", "GREETING=hello there"])?;
    let set = ["secrets", "set", "API_KEY=-", "--app", "app"];
    let set = machine.cli_fed(&set, "s3cr3t-from-stdin\n")?;
    ensure!(set.status.success(), "{set:?}");
    app.wait_answer("/env", "\"s3cr3t-from-stdin\"")?;
    app.wait_answer("/env", "hello there")?;
    ensure!(of_app(&["vars"])?.contains("hello there"));
    let secrets = of_app(&["secrets"])?;
    ensure!(secrets.contains("API_KEY") && !secrets.contains("s3cr3t"), "{secrets}");
    of_app(&["secrets", "unset", "API_KEY", "--yes"])?;
    wait_for("the secret is gone", MOMENT, || Ok(!app.visit("/env")?.text().contains("s3cr3t")))?;

    of_app(&["scale", "web=2"])?;
    story::wait_ready(&machine, "app", 2)?;
    of_app(&["stop"])?;
    wait_for("nobody answers", MOMENT, || Ok(app.visit("/")?.status == 503))?;
    of_app(&["start"])?;
    app.wait_answer("/", "here")?;
    of_app(&["restart"])?;
    of_app(&["domains", "add", "app.example.org"])?;
    ensure!(of_app(&["domains"])?.contains("app.example.org"));
    ensure!(of_app(&["routes"])?.contains("app.example.org"));
    of_app(&["domains", "remove", "app.example.org", "--yes"])?;
    of_app(&["rollback", "v1"])?;
    ensure!(!app.visit("/env")?.text().contains("hello there"), "v1 had no greeting");
    for (args, word) in [
        (&["releases"][..], "v1"),
        (&["deployments"], "live"),
        (&["events"], "live"),
        (&["why"], "live"),
        (&["ps"], "ready"),
        (&["logs"], "exploring"),
    ] {
        let said = of_app(args)?;
        ensure!(said.contains(word), "{args:?}: {said}");
        let json = machine.ok(&[args, &["--app", "app", "--json"]].concat())?;
        // What can go on for ever is an object to a line; the rest is one.
        let lines = args == ["logs"] || args == ["events"];
        let texts = if lines { json.lines().collect() } else { vec![json.as_str()] };
        for text in texts {
            serde_json::from_str::<Value>(text).with_context(|| format!("{args:?}: {text}"))?;
        }
    }
    for args in [["status"], ["nodes"], ["runtimes"], ["apps"], ["orgs"], ["whoami"]] {
        machine.json(&args)?;
    }
    let nobody = machine.cli(&["ps", "--app", "nobody"])?;
    ensure!(nobody.status.code() == Some(4), "{nobody:?}");
    ensure!(machine.cli(&["scale", "web=many", "--app", "app"])?.status.code() == Some(2));
    ensure!(machine.cli(&["scale", "web=240", "--app", "app"])?.status.code() == Some(5));
    machine.ok(&["apps", "delete", "app", "--yes"])?;
    wait_for(
        "nothing of it is routed",
        MOMENT,
        || Ok(machine.visit(&app.url, "/")?.status == 404),
    )?;
    Ok(())
}
