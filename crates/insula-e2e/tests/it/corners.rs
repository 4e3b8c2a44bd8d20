//! Where two things meet that each work alone: races, limits, and odd but legal input.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use insula_e2e::app::{App, good, refusal};
use insula_e2e::explorer::attempt;
use insula_e2e::machine::{Machine, host_of, wait_for};
use insula_e2e::story::MOMENT;
use insula_e2e::{explorer, folder, http, story};
use serde_json::{Value, json};

#[test]
fn many_apps_at_once_all_go_live() -> Result<()> {
    const APPS: usize = 8;
    let machine = Machine::start()?;
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let deploying = |n: usize| {
            let machine = &machine;
            move || -> Result<()> {
                let text = format!("this is {n}");
                let source = match n % 2 {
                    0 => folder::with(&[("index.html", &text)])?,
                    _ => folder::python(&text)?,
                };
                let url = story::url(&machine.deploy(source.path(), &format!("app-{n}"))?)?;
                let said = machine.visit(&url, "/")?.text();
                ensure!(said.trim() == text, "{said}");
                Ok(())
            }
        };
        let threads: Vec<_> = (0..APPS).map(|n| scope.spawn(deploying(n))).collect();
        let ended = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended.map(|e| e.unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))).collect()
    });
    outcomes.into_iter().collect::<Result<Vec<()>>>()?;
    Ok(())
}

/// Answers `/slow` in pieces, for as long as it is asked to.
const SLOW: &str = r#"import http.server, os, signal, threading, time
class Slow(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/":
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            return self.wfile.write(b"@ONE@\n\n")
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(15):
            self.wfile.write(b"5\r\n@ONE@\n\n\r\n")
            self.wfile.flush()
            time.sleep(0.2)
        self.wfile.write(b"0\r\n\r\n")
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
server = Server(("", int(os.environ["PORT"])), Slow)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
"#;

#[test]
fn a_long_answer_outlives_the_release_that_gives_it() -> Result<()> {
    let machine = Machine::start()?;
    let source = folder::with(&[
        ("main.py", &SLOW.replace("@ONE@", "old")),
        ("Procfile", "web: exec python3 main.py\n"),
    ])?;
    let url = story::url(&machine.deploy(source.path(), "app")?)?;
    let (edge, host) = (machine.edge, host_of(&url)?);
    let asking = std::thread::spawn(move || http::get(edge, &host, "/slow"));
    // The answer has begun once its instance is asked twice.
    ensure!(machine.visit(&url, "/")?.text().starts_with("old"));
    folder::write(source.path(), "main.py", &SLOW.replace("@ONE@", "new"))?;
    machine.deploy(source.path(), "app")?;
    ensure!(machine.visit(&url, "/")?.text().starts_with("new"), "the new one answers at once");
    let answer = asking.join().map_err(|_| anyhow::anyhow!("the asking thread"))??;
    let whole = "old\n\n".repeat(15);
    ensure!(answer.status == 200 && answer.text() == whole, "cut short: {:?}", answer.text());
    Ok(())
}

#[test]
fn what_is_odd_but_legal_arrives_unchanged() -> Result<()> {
    let machine = Machine::start()?;
    let source = explorer::folder()?;
    for name in ["with space.txt", "quote'\"$(id).txt", "ünï-çødé.txt", "-rf", "a;b|c&d.txt"] {
        folder::write(source.path(), &format!("odd/{name}"), name)?;
    }
    folder::write(source.path(), "tool.sh", "#!/bin/sh\necho a tool\n")?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(source.path().join("tool.sh"), mode)?;
    std::os::unix::fs::symlink("odd", source.path().join("link"))?;
    std::fs::create_dir(source.path().join("empty"))?;
    machine.deploy(source.path(), "odd")?;
    let app = App::find(&machine, "odd")?;
    let listed = attempt(&app, "list", "/app/link")?;
    let listed: Vec<String> = serde_json::from_str(listed.text())?;
    ensure!(listed.len() == 5 && listed.contains(&"quote'\"$(id).txt".to_owned()), "{listed:?}");
    ensure!(attempt(&app, "list", "/app/empty")?.text() == "[]");

    let odd = "two\nlines 'and' \"quotes\" $(id) `id` \\ ünï ; rm -rf /";
    let set = good(&app.ask("PATCH", "variables", Some(&json!({"set": {"ODD": odd}})))?)?;
    for deployment in set["deployments"].as_array().context("deployments")? {
        ensure!(app.verdict(deployment)?["state"] == "live");
    }
    let env: Value = serde_json::from_str(attempt(&app, "env", "")?.text())?;
    ensure!(env["ODD"] == odd, "{env}");
    for name in ["PORT", "INSULA_APP"] {
        let set = app.ask("PUT", &format!("variables/{name}"), Some(&json!({"value": "1"})))?;
        refusal(&set).with_context(|| name.to_owned())?;
    }

    let run = app.run("web", Some(&["/app/tool.sh"]))?;
    ensure!(run["exit"]["code"] == 0, "{run}");
    app.wait_log("a tool")?;
    let run = app.run("web", Some(&["echo", "$(id)", "`id`", "; id"]))?;
    ensure!(run["exit"]["code"] == 0, "{run}");
    app.wait_log("$(id) `id` ; id")?;
    let gone = app.run("web", Some(&["/no/such/program"]))?;
    ensure!(gone["done"] == true && gone["exit"]["code"] != 0, "{gone}");
    Ok(())
}

#[test]
fn what_takes_too_much_is_stopped_at_its_limit() -> Result<()> {
    const GREEDY: &str = r#"import http.server, os, threading
def fork():
    made = 0
    try:
        while made < 5000:
            if os.fork() == 0:
                os.pause() if hasattr(os, "pause") else __import__("signal").pause()
            made += 1
    except OSError:
        pass
    return made
def fill(path):
    wrote = 0
    try:
        with open(path, "wb", buffering=0) as file:
            while wrote < 1 << 30:
                wrote += file.write(b"x" * (1 << 20))
    except OSError:
        pass
    return wrote
class Greedy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        took = fork() if self.path == "/fork" else fill(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(took).encode())
    def log_message(self, *args):
        pass
http.server.HTTPServer(("", int(os.environ["PORT"])), Greedy).serve_forever()
"#;
    let machine = Machine::start()?;
    let neighbour = folder::python("calm")?;
    let calm = story::url(&machine.deploy(neighbour.path(), "calm")?)?;
    let toml = "[components.web]\nrun = \"exec python3 main.py\"\npids = 50\ndisk = \"16MiB\"\n";
    let source = folder::with(&[("main.py", GREEDY), ("insula.toml", toml)])?;
    machine.deploy(source.path(), "greedy")?;
    let greedy = App::find(&machine, "greedy")?;
    let wrote: u64 = greedy.visit("/app/large")?.text().parse()?;
    ensure!(wrote <= 17 << 20, "{wrote} bytes in a layer of 16 MiB");
    let made: u64 = greedy.visit("/fork")?.text().parse()?;
    ensure!(made < 50, "{made} processes of 50");
    ensure!(machine.visit(&calm, "/")?.text().contains("calm"));
    greedy.post("stop", &json!({}))?;
    wait_for("all of it is gone", MOMENT, || Ok(machine.traces()?.sandboxes.len() == 1))?;
    Ok(())
}

#[test]
fn a_quota_is_refused_with_its_number_and_ends_nothing() -> Result<()> {
    let machine = Machine::start()?;
    let source = folder::python("within")?;
    machine.deploy(source.path(), "app")?;
    let app = App::find(&machine, "app")?;
    let mut quota = good(&app.of_org("GET", "quota", None)?)?;
    quota["instances"] = json!(2);
    quota["disk_bytes"] = json!(1 << 20);
    good(&app.of_org("PUT", "quota", Some(&quota))?)?;
    app.post("scale", &json!({"components": {"web": 2}}))?;
    story::wait_ready(&machine, "app", 2)?;
    let more = app.ask("POST", "scale", Some(&json!({"components": {"web": 3}})))?;
    let (_, code, text) = refusal(&more)?;
    ensure!(code == "quota_exceeded" && text.contains('2'), "{text}");
    let report = machine.deploy_fails(folder::python("one more")?.path(), "other")?;
    ensure!(report["cause"]["code"] == "quota_exceeded", "{report}");
    // The surge of a rollout does not count.
    folder::write(source.path(), "more.txt", "more")?;
    ensure!(machine.deploy(source.path(), "app")?["state"] == "live");
    let mut noise = story::Dice::new(5);
    let large: String = (0..2_000_000).map(|_| char::from(b'a' + noise.below(26) as u8)).collect();
    folder::write(source.path(), "large.txt", &large)?;
    let report = machine.deploy_fails(source.path(), "app")?;
    ensure!(report["cause"]["code"] == "quota_exceeded", "{report}");
    ensure!(app.visit("/")?.text().contains("within"));
    Ok(())
}

#[test]
fn what_is_ended_in_the_middle_leaves_nothing() -> Result<()> {
    let machine = Machine::start()?;
    let slow = folder::with(&[
        (
            "package.json",
            r#"{"scripts": {"build": "echo begun; sleep 1000", "start": "node a.js"}}"#,
        ),
        ("a.js", ""),
    ])?;
    let never = folder::with(&[
        ("main.py", "import time\ntime.sleep(1000)\n"),
        ("Procfile", "web: exec python3 main.py\n"),
    ])?;
    for (name, source, state) in [("builds", &slow, "building"), ("starts", &never, "starting")] {
        let path = source.path().to_str().context("path")?;
        let begun = machine.json(&["deploy", path, "--app", name, "--detach"])?;
        let app = App::find(&machine, name)?;
        let id = begun["deployment"].as_str().context("deployment")?.to_owned();
        wait_for(state, MOMENT, || {
            let shown = good(&app.of_org("GET", &format!("deployments/{id}"), None)?)?;
            Ok(shown["state"] == state && !machine.traces()?.sandboxes.is_empty())
        })?;
        let answer = app.of_org("DELETE", &format!("apps/{}", app.id), None)?;
        ensure!(answer.status < 300, "{}", answer.text());
        let began = Instant::now();
        wait_for("its sandbox is gone", MOMENT, || Ok(machine.traces()?.sandboxes.is_empty()))
            .with_context(|| format!("{name}: {:?}", machine.traces()))?;
        ensure!(began.elapsed() < Duration::from_secs(45));
        ensure!(app.of_org("GET", &format!("apps/{}", app.id), None)?.status == 404);
    }
    // The name is free again, and the host name is another one.
    let site = folder::with(&[("index.html", "again")])?;
    let url = story::url(&machine.deploy(site.path(), "builds")?)?;
    ensure!(machine.visit(&url, "/")?.text() == "again");
    let app = App::find(&machine, "builds")?;
    let wrong = app.ask("POST", "rollback", Some(&json!({"number": 99})))?;
    let (status, ..) = refusal(&wrong)?;
    ensure!(status == 404 || status == 409 || status == 410, "{}", wrong.text());
    Ok(())
}

#[test]
fn probes_decide_who_serves_and_who_is_replaced() -> Result<()> {
    const PROBED: &str = r#"import http.server, os, threading
sick = threading.Event()
class Probed(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/sicken":
            sick.set()
        bad = self.path == "/never" or (sick.is_set() and self.path == "/livez")
        self.send_response(500 if bad else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Probed).serve_forever()
"#;
    let machine = Machine::start()?;
    let toml = "[components.web]\nrun = \"exec python3 main.py\"\nhealth = { path = \"/never\", startup = \"2s\" }\n";
    let source = folder::with(&[("main.py", PROBED), ("insula.toml", toml)])?;
    let report = machine.deploy_fails(source.path(), "app")?;
    ensure!(report["cause"]["code"] == "probe_failed", "{report}");
    ensure!(report["cause"]["tail"].to_string().contains("500"), "a transcript: {report}");

    let toml = "[components.web]\nrun = \"exec python3 main.py\"\nhealth = { path = \"/healthz\" }\n\
                liveness = { path = \"/livez\", interval = \"200ms\", failures = 2 }\n\
                single = true\nstop = { grace = \"1s\" }\n";
    folder::write(source.path(), "insula.toml", toml)?;
    let url = story::url(&machine.deploy(source.path(), "app")?)?;
    ensure!(machine.visit(&url, "/")?.status == 200);
    machine.visit(&url, "/sicken")?;
    wait_for("it is restarted", MOMENT, || {
        let listed = story::instances(&machine, "app")?;
        Ok(listed.iter().any(|i| i["restarts"].as_u64() >= Some(1) && i["state"] == "ready"))
    })
    .with_context(|| format!("{:?}", story::instances(&machine, "app")))?;
    ensure!(machine.visit(&url, "/livez")?.status == 200);
    // Never two at once: the next release takes the place of this one.
    folder::write(source.path(), "more.txt", "more")?;
    ensure!(machine.deploy(source.path(), "app")?["state"] == "live");
    wait_for("one instance", MOMENT, || Ok(story::instances(&machine, "app")?.len() == 1))?;
    Ok(())
}

#[test]
fn what_parses_a_strangers_bytes_inherits_no_credential() -> Result<()> {
    let mut machine = Machine::prepare()?;
    // Without an endpoint no S3 is asked; the keys are inherited all the same.
    machine.environment.push(("INSULA_S3_SECRET_KEY".into(), "very-secret-key".into()));
    machine.up()?;
    for (role, may) in [("server", true), ("agent", false), ("gateway", false)] {
        let pid = machine.role(role).with_context(|| format!("the {role}"))?;
        let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
        let has = String::from_utf8_lossy(&environment).contains("very-secret-key");
        ensure!(has == may, "the {role} {} the key", if has { "has" } else { "lacks" });
    }
    Ok(())
}
