//! Instances: from a Target to an answer, and all the ways in which apps misbehave.

use insula_model::deployment::CauseCode;
use insula_model::observed::{Exit, InstancePhase, InstanceReport};
use insula_model::spec::LivenessSpec;
use insula_model::target::{Command, InstanceIntent};
use insula_model::{Bytes, Millis, RunId, Timestamp};

use insula_wire::node as wire;

use super::world::{World, alone, get};

/// A server on `$PORT` that shows its environment, and can be told to end.
const APP: &str = r#"
import http.server, os, sys, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/exit/"):
            print("asked to end")
            os._exit(int(self.path.rsplit("/", 1)[1]))
        body = json.dumps({"env": dict(os.environ), "pid": os.getpid(), "cwd": os.getcwd()})
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *args):
        pass
host = os.environ.get("BIND", "0.0.0.0")
port = int(os.environ.get("LISTEN") or os.environ["PORT"])
print("listening on", port)
http.server.ThreadingHTTPServer((host, port), Handler).serve_forever()
"#;

pub const RUN: &str = "exec python3 app.py";

pub fn app(world: &World) -> insula_model::Digest {
    world.source(&[("app.py", APP), ("index.html", "hello")])
}

#[test]
fn a_service_starts_answers_and_stops() {
    alone("agent::instance::a_service_starts_answers_and_stops", async || {
        let mut world = World::new().await;
        let source = app(&world);
        let mut target = world.instance(1, source, RUN);
        target.variables.insert("GREETING".parse().unwrap(), "ave".into());
        target.secrets.push("API_KEY".parse().unwrap());
        world.secret(target.id, "API_KEY", "hunter2-hunter2");
        world.instances.push(target);
        world.send();
        let endpoint = world.until_ready(0).await;
        let seen: serde_json::Value =
            serde_json::from_str(&get(endpoint, "/").await.unwrap()).unwrap();
        let env = &seen["env"];
        for (name, value) in [
            ("PORT", "8080"),
            ("HOME", "/app"),
            ("GREETING", "ave"),
            ("API_KEY", "hunter2-hunter2"),
            ("INSULA_APP", "shop"),
            ("INSULA_RELEASE", "v1"),
        ] {
            assert_eq!(env[name], value, "{name}");
        }
        assert_eq!(seen["cwd"], "/app");
        assert!(world.log(world.app_log()).await.contains(&"listening on 8080".to_owned()));

        world.instances[0].intent = InstanceIntent::Stop;
        world.send();
        let report = world.until("nothing", |it| it.instances.is_empty()).await;
        assert!(report.instances.is_empty());
        assert!(get(endpoint, "/").await.is_err());
        assert_eq!(world.sandboxes(), Vec::<String>::new());
        // The secret is nowhere on the disk in the open.
        let found = std::process::Command::new("grep")
            .args(["-r", "-l", "hunter2"])
            .arg(world.data())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    });
}

#[test]
fn a_static_component_is_served_by_our_own_binary() {
    alone("agent::instance::a_static_component_is_served_by_our_own_binary", async || {
        let mut world = World::new().await;
        let source = world.source(&[("public/index.html", "salve")]);
        let mut target = world.instance(1, source, "");
        target.kind = insula_model::spec::ComponentKind::Static;
        target.command = Command::Serve;
        target.root = "public".into();
        world.instances.push(target);
        world.send();
        let endpoint = world.until_ready(0).await;
        assert_eq!(get(endpoint, "/").await.unwrap(), "salve");
    });
}

#[test]
fn a_crash_is_restarted_at_once_and_a_loop_backs_off() {
    alone("agent::instance::a_crash_is_restarted_at_once_and_a_loop_backs_off", async || {
        let mut world = World::new().await;
        let source = app(&world);
        world.instances.push(world.instance(1, source, RUN));
        world.instances.push(world.instance(2, source, "echo broken >&2; exit 3"));
        world.send();
        let endpoint = world.until_ready(0).await;
        let _ = get(endpoint, "/exit/7").await;
        let id = world.instances[0].id;
        let report = world
            .until("restart", |it| {
                it.instances
                    .iter()
                    .any(|i| i.id == id && i.restarts == 1 && i.phase == InstancePhase::Ready)
            })
            .await;
        let crashed = report.instances.iter().find(|it| it.id == id).unwrap();
        let exit = crashed.last_exit.clone().unwrap();
        assert_eq!(exit.exit, Exit::Code { code: 7 });
        assert_eq!(exit.tail, ["listening on 8080", "asked to end"]);
        // Gateways find it where it was, even if no server can tell them where it is.
        assert_eq!(crashed.endpoint, Some(endpoint));

        // What takes its place is somebody else, and gets another address.
        world.instances[0] = world.instance(3, source, RUN);
        world.send();
        assert_ne!(world.until_ready(0).await, endpoint, "an address is not used again early");

        let broken = world.until_phase(1, "backing off").await;
        assert!(broken.exits_before_ready >= 2, "{broken:?}");
        assert_eq!(broken.last_exit.as_ref().unwrap().exit, Exit::Code { code: 3 });
        assert!(broken.last_exit.unwrap().tail.contains(&"broken".to_owned()));
    });
}

#[test]
fn another_port_is_found_and_loopback_is_named() {
    alone("agent::instance::another_port_is_found_and_loopback_is_named", async || {
        let mut world = World::new().await;
        let source = app(&world);
        let mut elsewhere = world.instance(1, source, RUN);
        elsewhere.variables.insert("LISTEN".parse().unwrap(), "5000".into());
        let mut loopback = world.instance(2, source, RUN);
        loopback.variables.insert("BIND".parse().unwrap(), "127.0.0.1".into());
        let mut silent = world.instance(3, source, "exec sleep 1000");
        silent.health.startup = Millis::secs(1);
        let mut sick = world.instance(4, source, RUN);
        sick.health.path = Some("/missing".into());
        sick.health.startup = Millis::secs(2);
        world.instances.extend([elsewhere, loopback, silent, sick]);
        world.send();
        let report = world.until_phase(0, "ready").await;
        assert_eq!(report.endpoint.unwrap().port(), 5000);
        assert!(report.warnings[0].contains("5000"), "{:?}", report.warnings);
        get(report.endpoint.unwrap(), "/").await.unwrap();
        for (number, code) in [
            (1, CauseCode::ListensOnLoopback),
            (2, CauseCode::NotListening),
            (3, CauseCode::ProbeFailed),
        ] {
            let report = world.until_phase(number, "stuck").await;
            let InstancePhase::Stuck { cause } = report.phase else { unreachable!() };
            assert_eq!(cause.code, code, "{cause:?}");
        }
    });
}

#[test]
fn a_run_is_over_when_it_ends_and_a_worker_is_ready_when_it_lives() {
    alone(
        "agent::instance::a_run_is_over_when_it_ends_and_a_worker_is_ready_when_it_lives",
        async || {
            let mut world = World::new().await;
            let source = app(&world);
            let mut run = world.instance(1, source, "echo out; echo err >&2; exit 4");
            run.run = Some(RunId::from_parts(Timestamp::from_millis(1), [1; 10]));
            let mut worker = world.instance(2, source, "exec sleep 1000");
            worker.kind = insula_model::spec::ComponentKind::Worker;
            worker.port = None;
            world.instances.extend([run, worker]);
            world.send();
            let over = world.until_phase(0, "finished").await;
            assert_eq!(over.last_exit.unwrap().exit, Exit::Code { code: 4 });
            assert_eq!(over.restarts, 0);
            assert_eq!(world.until_phase(1, "ready").await.endpoint, None);
            let lines = world.log(world.app_log()).await;
            assert!(
                lines.contains(&"out".to_owned()) && lines.contains(&"err".to_owned()),
                "{lines:?}"
            );

            // Not again, whatever happens to the agent.
            world.kill_agent();
            world.start_agent();
            let over = world.until_phase(0, "finished").await;
            assert_eq!((over.restarts, over.last_exit.unwrap().exit), (0, Exit::Code { code: 4 }));
        },
    );
}

#[test]
fn what_ignores_its_signal_is_killed_and_what_eats_memory_is_told_so() {
    alone(
        "agent::instance::what_ignores_its_signal_is_killed_and_what_eats_memory_is_told_so",
        async || {
            let mut world = World::new().await;
            let source = app(&world);
            let mut deaf = world.instance(1, source, "trap '' TERM; while :; do sleep 1; done");
            deaf.kind = insula_model::spec::ComponentKind::Worker;
            deaf.port = None;
            deaf.stop.grace = Millis(300);
            let mut hungry =
                world.instance(2, source, "exec python3 -c 'x = bytearray(512 << 20)'");
            hungry.memory = Bytes::mib(64);
            world.instances.extend([deaf, hungry]);
            world.send();
            world.until_phase(0, "ready").await;
            let id = world.instances[1].id;
            let report = world
                .until("death", |it| {
                    it.instances.iter().any(|i| i.id == id && i.last_exit.is_some())
                })
                .await;
            let hungry = report.instances.iter().find(|it| it.id == id).unwrap();
            assert_eq!(hungry.last_exit.as_ref().unwrap().exit, Exit::OutOfMemory);

            world.instances.clear();
            world.send();
            world.until("nothing", |it| it.instances.is_empty()).await;
            assert_eq!(world.sandboxes(), Vec::<String>::new());
        },
    );
}

#[test]
fn what_the_server_does_not_have_is_said() {
    alone("agent::instance::what_the_server_does_not_have_is_said", async || {
        let mut world = World::new().await;
        let lost = insula_model::Digest::from_sha256([7; 32]);
        world.instances.push(world.instance(1, lost, RUN));
        world.send();
        let report = world.until_phase(0, "stuck").await;
        let InstancePhase::Stuck { cause } = report.phase else { unreachable!() };
        assert_eq!(cause.code, CauseCode::SourceLost);
        world.instances.clear();
        world.send();
        world.until("nothing", |it| it.instances.is_empty()).await;
    });
}

#[test]
fn liveness_restarts_what_hangs_and_readiness_does_not() {
    alone("agent::instance::liveness_restarts_what_hangs_and_readiness_does_not", async || {
        let mut world = World::new().await;
        // Answers well three times and then never again.
        let hangs = r#"
import http.server, os, time
seen = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global seen
        seen += 1
        self.send_response(200 if seen <= 3 else 500)
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"#;
        let source = world.source(&[("app.py", hangs)]);
        let mut restarted = world.instance(1, source, RUN);
        restarted.health.path = Some("/ready".into());
        restarted.health.interval = Millis(50);
        let mut left = restarted.clone();
        left.id = world.instance(2, source, RUN).id;
        restarted.liveness = Some(LivenessSpec {
            path: "/live".into(),
            interval: Millis(50),
            timeout: Millis::secs(5),
            failures: 3,
        });
        let (first, second) = (restarted.id, left.id);
        world.instances.extend([restarted, left]);
        world.send();
        world
            .until("restart", |report| {
                let has = |id, is_so: &dyn Fn(&InstanceReport) -> bool| {
                    report.instances.iter().any(|it| it.id == id && is_so(it))
                };
                has(first, &|it| it.restarts >= 1)
                    && has(second, &|it| it.phase.as_str() == "unready" && it.restarts == 0)
            })
            .await;
    });
}

#[test]
fn what_spams_serves_all_the_same_and_its_log_is_bounded() {
    alone("agent::instance::what_spams_serves_all_the_same_and_its_log_is_bounded", async || {
        let mut world = World::new().await;
        let source = app(&world);
        let spam = "head -c 50000000 /dev/zero | tr '\\0' 'x' | fold -w 99; exec python3 app.py";
        let mut target = world.instance(1, source, spam);
        target.log_rate = Bytes::kib(64);
        world.instances.push(target);
        world.send();
        let endpoint = world.until_ready(0).await;
        get(endpoint, "/").await.unwrap();
        let kept = std::process::Command::new("du")
            .args(["-sb", "--"])
            .arg(world.data().join("logs"))
            .output()
            .unwrap();
        let kept = String::from_utf8_lossy(&kept.stdout).into_owned();
        let bytes: u64 = kept.split_whitespace().next().unwrap().parse().unwrap();
        assert!(bytes < 5_000_000, "{kept}");
        // It says what it left out, once a moment has passed without more.
        let follow = wire::LogRequest { follow: true, ..world.app_log() };
        world.log_until(follow, |line| line.contains("dropped")).await;
    });
}

#[test]
fn isolation_that_this_node_does_not_have_is_refused() {
    alone("agent::instance::isolation_that_this_node_does_not_have_is_refused", async || {
        let mut world = World::new().await;
        let source = app(&world);
        let mut target = world.instance(1, source, RUN);
        target.isolation = insula_model::spec::Isolation::Gvisor;
        world.instances.push(target);
        world.send();
        let report = world.until_phase(0, "stuck").await;
        let InstancePhase::Stuck { cause } = report.phase else { unreachable!() };
        assert_eq!(cause.code, CauseCode::StartFailed);
        assert_eq!(world.sandboxes(), Vec::<String>::new());
    });
}
