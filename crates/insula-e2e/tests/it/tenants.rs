//! Tenants who try to reach each other, the host and the platform, from inside real apps.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use insula_e2e::app::{App, good, refusal};
use insula_e2e::explorer;
use insula_e2e::explorer::attempt;
use insula_e2e::machine::Machine;
use serde_json::{Value, json};

/// What is refused is refused at once, not after a wait.
const AT_ONCE: Duration = Duration::from_secs(2);

/// An org with a project and an environment, and a token that may do everything in it.
fn org(machine: &Machine, name: &str) -> Result<String> {
    good(&machine.api("POST", "/v1/orgs", Some(&json!({"name": name})))?)?;
    let at = |rest: &str| format!("/v1/orgs/{name}/{rest}");
    // Each is there already if an org comes with it.
    machine.api("POST", &at("projects"), Some(&json!({"name": "default"})))?;
    let all = at("projects/default/environments");
    machine.api("POST", &all, Some(&json!({"name": "production"})))?;
    token(machine, name)
}

fn token(machine: &Machine, org: &str) -> Result<String> {
    let asked = json!({"name": "test", "role": "owner"});
    let made = good(&machine.api("POST", &format!("/v1/orgs/{org}/tokens"), Some(&asked))?)?;
    Ok(made["secret"].as_str().context("the secret of a token")?.to_owned())
}

fn endpoint(app: &App<'_>) -> Result<String> {
    let listed = app.list("instances")?;
    let found = listed.iter().find_map(|i| i["endpoint"].as_str());
    Ok(found.with_context(|| format!("no endpoint in {listed:?}"))?.to_owned())
}

/// Addresses of this host that are not loopback's.
fn host_addresses() -> Result<Vec<String>> {
    let output = Command::new("hostname").arg("-I").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().filter(|a| a.contains('.')).map(str::to_owned).collect())
}

/// The address that a sandbox's default route leads to.
fn way_out(app: &App<'_>) -> Result<String> {
    let routes = attempt(app, "read", "/proc/net/route")?;
    let fields = routes.text().split("\\n").map(|l| l.split("\\t").collect::<Vec<_>>());
    let by_default = fields.into_iter().find(|f| f.get(1) == Some(&"00000000"));
    let hex = by_default.with_context(|| format!("no default route: {routes:?}"))?[2].to_owned();
    let [a, b, c, d] = u32::from_str_radix(&hex, 16)?.to_le_bytes();
    Ok(format!("{a}.{b}.{c}.{d}"))
}

#[test]
fn an_app_reaches_its_own_environment_and_nothing_else_of_ours() -> Result<()> {
    let machine = Machine::start()?;
    org(&machine, "acme")?;
    let staging = json!({"name": "staging"});
    let all = "/v1/orgs/default/projects/default/environments";
    good(&machine.api("POST", all, Some(&staging))?)?;
    let source = explorer::folder()?;
    let path = source.path().to_str().context("path")?;
    machine.deploy(source.path(), "victim")?;
    machine.deploy(source.path(), "friend")?;
    machine.json(&["deploy", path, "--app", "stage", "--env", "staging"])?;
    machine.json(&["deploy", path, "--app", "rival", "--org", "acme"])?;
    let victim = App::find(&machine, "victim")?;
    let friend = App::find(&machine, "friend")?;
    let attackers = [App::find(&machine, "stage")?, App::find_in(&machine, "acme", "rival")?];
    let target = endpoint(&victim)?;

    // The way is open where it should be, or the rest would prove nothing.
    ensure!(!attempt(&friend, "tcp", &target)?.failed(), "by address");
    ensure!(!attempt(&friend, "fetch", "http://victim:8080/")?.failed(), "by name");
    for attacker in &attackers {
        let own = endpoint(attacker)?;
        ensure!(!attempt(attacker, "tcp", &own)?.failed(), "itself");
        for name in ["victim", "victim.internal", "web.victim", "friend"] {
            let found = attempt(attacker, "name", name)?;
            ensure!(found.failed(), "{name} is known to a stranger: {found:?}");
        }
        let began = Instant::now();
        let reached = attempt(attacker, "tcp", &target)?;
        ensure!(reached.failed(), "another environment was reached: {reached:?}");
        ensure!(began.elapsed() < AT_ONCE, "refused only after {:?}", began.elapsed());
    }

    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    let mut closed = host_addresses()?;
    ensure!(!closed.is_empty(), "a host without an address");
    closed.push(way_out(&victim)?);
    let ours = [port, machine.api.port(), machine.edge.port(), 22, 7070, 8080];
    let hosts = closed.iter().flat_map(|host| ours.map(|port| format!("{host}:{port}")));
    let private = [
        "169.254.169.254:80",
        "10.0.0.1:80",
        "10.255.255.254:443",
        "172.16.0.1:80",
        "192.168.0.1:80",
        "100.64.0.1:80",
        "127.0.0.1:22",
        "0.0.0.0:22",
    ];
    let targets = hosts.chain(private.iter().map(|&t| t.to_owned()));
    for target in targets {
        let began = Instant::now();
        let reached = attempt(&victim, "tcp", &target)?;
        ensure!(reached.failed(), "{target} was reached: {reached:?}");
        ensure!(began.elapsed() < AT_ONCE, "{target}: refused only after {:?}", began.elapsed());
    }
    let resolver = attempt(&victim, "read", "/etc/resolv.conf")?;
    ensure!(resolver.text().contains("nameserver"), "{resolver:?}");
    Ok(())
}

#[test]
fn an_app_sees_nothing_of_the_host_or_of_others() -> Result<()> {
    let machine = Machine::start()?;
    let source = explorer::folder()?;
    machine.deploy(source.path(), "victim")?;
    machine.deploy(source.path(), "spy")?;
    let victim = App::find(&machine, "victim")?;
    let set = victim.ask("PUT", "secrets/KEY", Some(&json!({"value": "of-the-victim"})))?;
    for deployment in good(&set)?["deployments"].as_array().context("deployments")? {
        ensure!(victim.verdict(deployment)?["state"] == "live");
    }
    attempt(&victim, "log", "private-words")?;
    victim.wait_log("private-words")?;
    let spy = App::find(&machine, "spy")?;
    let data = machine.data().display().to_string();
    for path in ["/root", "/home", "/var/lib", "/proc/1/root", "/proc/1/fd", &data] {
        let seen = attempt(&spy, "list", path)?;
        let empty = seen.text() == "[]";
        ensure!(seen.failed() || empty || path.starts_with("/proc/1"), "{path}: {seen:?}");
        ensure!(!seen.text().contains("insula.db") && !seen.text().contains(".ssh"), "{seen:?}");
    }
    for path in [
        "operator.json",
        "master.key",
        "agent/node.key",
        "server/insula.db",
        "run/keeper.sock",
        "sock/server.sock",
        "agent/secrets.sealed",
    ] {
        let seen = attempt(&spy, "read", &format!("{data}/{path}"))?;
        ensure!(seen.failed(), "{path}: {seen:?}");
        let through = attempt(&spy, "read", &format!("/proc/1/root{data}/{path}"))?;
        ensure!(through.failed(), "{path}: {through:?}");
    }
    for path in ["/etc/shadow", "/proc/kcore", "/proc/sysrq-trigger", "/dev/mem", "/dev/vda"] {
        let seen = attempt(&spy, "read", path)?;
        let nothing = matches!(seen.text(), "b''" | "''");
        ensure!(seen.failed() || nothing, "{path}: {seen:?}");
    }
    let listed = attempt(&spy, "list", "/proc")?;
    let listed: Vec<String> = serde_json::from_str(listed.text())?;
    let pids: Vec<u32> = listed.iter().filter_map(|n| n.parse().ok()).collect();
    ensure!(!pids.is_empty() && pids.len() < 10, "processes of others: {pids:?}");
    for pid in pids {
        let env = attempt(&spy, "read", &format!("/proc/{pid}/environ"))?;
        ensure!(!env.text().contains("of-the-victim"), "{env:?}");
    }
    let env = attempt(&spy, "env", "")?;
    let env: Value = serde_json::from_str(env.text())?;
    ensure!(env.get("KEY").is_none(), "{env}");
    let operator = machine.operator_token()?;
    ensure!(!env.to_string().contains(&operator) && env.get("INSULA_DATA").is_none(), "{env}");
    let log = spy.log("")?;
    ensure!(!log.iter().any(|line| line.contains("private-words")), "{log:?}");
    Ok(())
}

#[test]
fn a_token_of_one_org_finds_nothing_of_another() -> Result<()> {
    let machine = Machine::start()?;
    let acme = org(&machine, "acme")?;
    let mallory = token(&machine, "default")?;
    let source = explorer::folder()?;
    let path = source.path().to_str().context("path")?;
    let own = ["--org", "acme", "--token", &acme, "--server", &format!("http://{}", machine.api)];
    let report = machine.json(&[&["deploy", path, "--app", "app"], &own[..]].concat())?;
    let app = App::find_in(&machine, "acme", "app")?;
    let deployment = report["deployment"].as_str().context("deployment")?.to_owned();
    let instance = app.list("instances")?[0]["id"].as_str().context("instance")?.to_owned();
    let release = app.list("releases")?[0]["id"].as_str().context("release")?.to_owned();
    let id = &app.id;
    let paths = [
        format!("apps/{id}"),
        format!("apps/{id}/instances"),
        format!("apps/{id}/logs"),
        format!("apps/{id}/secrets"),
        format!("apps/{id}/variables"),
        format!("apps/{id}/deployments"),
        format!("apps/{id}/routes"),
        format!("deployments/{deployment}"),
        format!("instances/{instance}"),
        format!("releases/{release}"),
        format!("why?subject={id}"),
        format!("why?subject={instance}"),
    ];
    for rest in &paths {
        // It is there for its own, in its own org.
        let mine = machine.api_as(&acme, "GET", &format!("/v1/orgs/acme/{rest}"), None)?;
        ensure!(mine.status == 200, "{rest}: {}", mine.text());
        for org in ["default", "acme"] {
            let at = format!("/v1/orgs/{org}/{rest}");
            let theirs = machine.api_as(&mallory, "GET", &at, None)?;
            let (status, code, text) = refusal(&theirs).with_context(|| at.clone())?;
            ensure!(status == 404 && code == "not_found", "{at}: {text}");
        }
    }
    for (method, rest) in [
        ("POST", format!("apps/{id}/stop")),
        ("POST", format!("apps/{id}/restart")),
        ("POST", format!("deployments/{deployment}/cancel")),
        ("DELETE", format!("apps/{id}")),
        ("PUT", format!("apps/{id}/secrets/KEY")),
    ] {
        let body = if method == "PUT" { json!({"value": "x"}) } else { json!({}) };
        for org in ["default", "acme"] {
            let at = format!("/v1/orgs/{org}/{rest}");
            let theirs = machine.api_as(&mallory, method, &at, Some(&body))?;
            ensure!(theirs.status == 404, "{method} {at}: {} {}", theirs.status, theirs.text());
        }
    }
    let events =
        machine.api_as(&mallory, "GET", &format!("/v1/orgs/default/events?app={id}"), None)?;
    ensure!(!events.text().contains("deployment.live"), "{}", events.text());
    for path in ["/v1/nodes", "/v1/events", "/v1/status", "/metrics"] {
        let seen = machine.api_as(&mallory, "GET", path, None)?;
        ensure!(seen.status == 403 || seen.status == 404, "{path}: {}", seen.status);
        let stranger = machine.api_as("nonsense", "GET", path, None)?;
        ensure!(stranger.status == 401, "{path}: {}", stranger.status);
    }
    let server = format!("http://{}", machine.api);
    let output = machine
        .cli(&["ps", "--app", id, "--org", "default", "--token", &mallory, "--server", &server])?;
    ensure!(output.status.code() == Some(4), "{output:?}");
    // Deleted orgs and tokens: nothing was harmed by all of it.
    ensure!(story_is_alive(&app)?, "the app was harmed");
    Ok(())
}

fn story_is_alive(app: &App<'_>) -> Result<bool> {
    Ok(app.visit("/")?.status == 200 && !app.list("instances")?.is_empty())
}

/// Tries, while it is built, what it will be asked for when it runs.
const PRYING: &str = r#"const fs = require('fs'), net = require('net')
const tcp = (to) => new Promise((done) => {
  const [host, port] = to.split(':')
  const socket = net.connect({ host, port: Number(port), timeout: 1500 })
  const end = (word) => { socket.destroy(); done(word) }
  socket.on('connect', () => end('reached'))
  socket.on('error', (e) => end('no ' + e.code))
  socket.on('timeout', () => end('no TIMEOUT'))
})
const read = (path) => { try { return 'read ' + fs.readFileSync(path, 'latin1').slice(0, 200) } catch (e) { return 'no ' + e.code } }
const list = (path) => { try { return 'read ' + fs.readdirSync(path) } catch (e) { return 'no ' + e.code } }
;(async () => {
  const out = { env: process.env, reads: {}, lists: {}, ways: {} }
  for (const p of @READS@) out.reads[p] = read(p)
  for (const p of @LISTS@) out.lists[p] = list(p)
  for (const t of @WAYS@) out.ways[t] = await tcp(t)
  fs.mkdirSync('dist', { recursive: true })
  fs.writeFileSync('dist/index.html', JSON.stringify(out))
  for (const [name, target] of Object.entries({ absolute: '/etc/passwd', climbs: '../../../../../../etc/passwd', proc: '/proc/self/environ' }))
    try { fs.symlinkSync(target, 'dist/' + name) } catch (e) { console.log(e) }
})()
"#;

#[test]
fn a_build_reaches_no_more_than_an_app() -> Result<()> {
    let machine = Machine::start()?;
    let source = explorer::folder()?;
    let all = "/v1/orgs/default/projects/default/environments";
    good(&machine.api("POST", all, Some(&json!({"name": "staging"})))?)?;
    let path = source.path().to_str().context("path")?;
    machine.json(&["deploy", path, "--app", "victim", "--env", "staging"])?;
    let victim = App::find(&machine, "victim")?;
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    let mut ways = vec![endpoint(&victim)?, "169.254.169.254:80".into(), "10.255.255.1:80".into()];
    let mut hosts = host_addresses()?;
    hosts.push(way_out(&victim)?);
    hosts.push("127.0.0.1".into());
    for host in hosts {
        let ours = [port, machine.api.port(), machine.edge.port(), 22];
        ways.extend(ours.map(|port| format!("{host}:{port}")));
    }
    // The way out may be an address of the host that was listed already.
    ways.sort();
    ways.dedup();
    let data = machine.data().display().to_string();
    let within = |path: &str| format!("{data}/{path}");
    let reads: Vec<String> =
        ["operator.json", "master.key", "server/insula.db", "agent/node.key"].map(within).into();
    let reads = [reads, vec!["/etc/shadow".into(), "/root/.ssh/id_rsa".into()]].concat();
    let lists = ["/root".to_owned(), data.clone(), within("logs"), "/var/lib".into()];
    let script = PRYING
        .replace("@READS@", &json!(reads).to_string())
        .replace("@LISTS@", &json!(lists).to_string())
        .replace("@WAYS@", &json!(ways).to_string());
    let toml =
        "[components.site]\nkind = \"static\"\nroot = \"dist\"\nbuild = { runtime = \"node\" }\n";
    let prying = insula_e2e::folder::with(&[
        ("package.json", r#"{"scripts": {"build": "node pry.js"}}"#),
        ("pry.js", &script),
        ("insula.toml", toml),
    ])?;
    machine.deploy(prying.path(), "prying")?;
    let app = App::find(&machine, "prying")?;
    let found: Value = serde_json::from_str(&app.visit("/")?.text())?;
    let tried = |key: &str| found[key].as_object().cloned().unwrap_or_default();
    ensure!(tried("ways").len() == ways.len() && tried("reads").len() == reads.len(), "{found}");
    for (what, came) in tried("ways").into_iter().chain(tried("reads")) {
        ensure!(came.as_str().is_some_and(|c| c.starts_with("no ")), "{what}: {came}");
    }
    for (what, came) in tried("lists") {
        let came = came.as_str().unwrap_or_default().to_owned();
        ensure!(came.starts_with("no ") || came == "read ", "{what}: {came}");
    }
    let operator = machine.operator_token()?;
    ensure!(!found.to_string().contains(&operator), "the operator's token is in {found}");
    for name in ["absolute", "climbs", "proc"] {
        let answer = app.visit(&format!("/{name}"))?;
        ensure!(answer.status == 404, "/{name}: {} {}", answer.status, answer.text());
    }
    Ok(())
}
