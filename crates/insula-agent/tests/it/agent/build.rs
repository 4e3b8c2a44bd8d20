//! Builds: real sandboxes, real layers, real failures.

use insula_model::build::Artifact;
use insula_model::deployment::{Cause, CauseCode};
use insula_model::observed::BuildPhase;
use insula_model::{Bytes, Millis, OrgId, Timestamp};
use insula_wire::node as wire;

use super::world::{World, alone, eventually, get};

fn log_of(world: &World) -> wire::LogRequest {
    wire::LogRequest {
        stream: 9,
        build: world.builds[0].id.to_string(),
        follow: true,
        ..Default::default()
    }
}

async fn done(world: &World) -> Artifact {
    match world.until_built(0).await {
        BuildPhase::Done { artifact } => artifact,
        other => panic!("{other:?}"),
    }
}

async fn failed(world: &World, number: usize) -> Cause {
    match world.until_built(number).await {
        BuildPhase::Failed { cause } => cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_build_adds_and_deletes_and_its_result_runs() {
    alone("agent::build::a_build_adds_and_deletes_and_its_result_runs", async || {
        let mut world = World::new().await;
        let source = world.source(&[
            ("old/a", "old"),
            ("gone.txt", "gone"),
            ("serve.sh", "ls -R /app; exec python3 -m http.server $PORT"),
        ]);
        let steps = [
            "install mkdir -p lib && echo made > lib/made && chmod 600 lib/made && rm gone.txt",
            "replace rm -r old && mkdir old && echo new > old/b && touch /cache/kept",
            "show echo token=$TOKEN s3cr3t-token && test -e /cache/kept && id -u",
        ]
        .map(|line| line.split_once(' ').unwrap().1);
        let mut build = world.build(1, source, &steps);
        build.secrets.push("TOKEN".parse().unwrap());
        world.secret(build.id, "TOKEN", "s3cr3t-token");
        world.builds.push(build);
        world.send();
        let artifact = done(&world).await;
        let built = artifact.built.expect("it added something");
        assert!(world.state.blob("artifact", built).is_some(), "the server has it");
        let log = world.log(log_of(&world)).await;
        assert!(log.contains(&"token= [redacted]".to_owned()), "{log:?}");

        world.builds.clear();
        let mut target = world.instance(1, source, "sh serve.sh");
        target.artifact = artifact;
        world.instances.push(target);
        world.send();
        let endpoint = world.until_ready(0).await;
        assert_eq!(get(endpoint, "/lib/made").await.unwrap(), "made\n");
        assert_eq!(get(endpoint, "/old/b").await.unwrap(), "new\n");
        assert!(get(endpoint, "/old/a").await.unwrap().contains("404"));
        assert!(get(endpoint, "/gone.txt").await.unwrap().contains("404"));

        // The same from the server's copy alone.
        world.instances.clear();
        world.send();
        world.until("nothing", |it| it.instances.is_empty() && it.builds.is_empty()).await;
        world.kill_agent();
        std::fs::remove_dir_all(world.data().join("agent/artifacts")).unwrap();
        world.start_agent();
        let mut again = world.instance(2, source, "sh serve.sh");
        again.artifact = artifact;
        world.instances.push(again);
        world.send();
        let endpoint = world.until_ready(0).await;
        assert_eq!(get(endpoint, "/lib/made").await.unwrap(), "made\n");
        assert!(get(endpoint, "/old/a").await.unwrap().contains("404"));
        assert!(get(endpoint, "/gone.txt").await.unwrap().contains("404"));
    });
}

#[test]
fn failures_are_told_apart() {
    alone("agent::build::failures_are_told_apart", async || {
        let mut world = World::new().await;
        let source = world.source(&[("a", "a")]);
        let fails = world.build(1, source, &["echo first", "echo no such package >&2; exit 3"]);
        let mut slow = world.build(2, source, &["exec sleep 1000"]);
        slow.time_limit = Millis(500);
        let mut hungry = world.build(3, source, &["exec python3 -c 'x = bytearray(512 << 20)'"]);
        hungry.memory = Bytes::mib(64);
        let mut large =
            world.build(4, source, &["head -c 50000000 /dev/zero > big; sync; sleep 1000"]);
        large.output_max = Bytes::mib(1);
        let mut packed = world.build(5, source, &["head -c 3000000 /dev/zero > big"]);
        packed.output_max = Bytes::mib(1);
        let empty = world.build(6, source, &["true"]);
        world.builds.extend([fails, slow, hungry, large, packed, empty]);
        world.send();
        let cause = failed(&world, 0).await;
        assert_eq!(cause.code, CauseCode::BuildFailed);
        assert_eq!(cause.tail, ["first", "no such package"]);
        assert!(cause.message.contains("exit code 3"), "{}", cause.message);
        assert_eq!(failed(&world, 1).await.code, CauseCode::BuildTimeout);
        assert_eq!(failed(&world, 2).await.code, CauseCode::OutOfMemory);
        assert_eq!(failed(&world, 3).await.code, CauseCode::DiskFull);
        assert!(matches!(
            failed(&world, 4).await.code,
            CauseCode::BuildFailed | CauseCode::DiskFull
        ));
        let BuildPhase::Done { artifact } = world.until_built(5).await else { panic!() };
        assert_eq!(artifact.built, None);
        assert_eq!(world.sandboxes(), Vec::<String>::new());
    });
}

#[test]
fn a_build_that_was_interrupted_begins_again_and_one_that_nobody_wants_ends() {
    alone(
        "agent::build::a_build_that_was_interrupted_begins_again_and_one_that_nobody_wants_ends",
        async || {
            let mut world = World::new().await;
            let source = world.source(&[("a", "a")]);
            // Waits only the first time.
            let line = "test -e /cache/begun || { touch /cache/begun; exec sleep 1000; }; echo ok > result";
            world.builds.push(world.build(1, source, &[line]));
            world.send();
            let cache = world.data().join(format!("agent/cache/{}/begun", world.place().app));
            eventually("the build begins", || cache.exists()).await;
            world.kill_agent();
            world.start_agent();
            assert!(done(&world).await.built.is_some());

            world.builds = vec![world.build(2, source, &["exec sleep 1000"])];
            world.send();
            eventually("the build runs", || !world.sandboxes().is_empty()).await;
            world.builds.clear();
            world.send();
            world.until("nothing", |it| it.builds.is_empty()).await;
            assert_eq!(world.sandboxes(), Vec::<String>::new());
        },
    );
}

#[test]
fn the_operators_settings_reach_builds_and_only_them() {
    alone("agent::build::the_operators_settings_reach_builds_and_only_them", async || {
        let folder = tempfile::tempdir().unwrap();
        let certificate = folder.path().join("ca.pem");
        std::fs::write(&certificate, "-----BEGIN-----").unwrap();
        let environment = [
            ("BUILD_PIP_CERT".to_owned(), certificate.display().to_string()),
            ("BUILD_HTTPS_PROXY".to_owned(), "http://proxy:3128".to_owned()),
            ("READ_ONLY".to_owned(), certificate.display().to_string()),
        ];
        let mut world = World::with_environment(environment.into()).await;
        let source = world.source(&[("a", "a")]);
        // The test's folder is below `/tmp`, which is the sandbox's own: it is shown elsewhere.
        let line = r#"env > env; cat "$PIP_CERT" > certificate; echo x > "$PIP_CERT""#;
        let line = format!("{line} || python3 -c 'import pathlib; print(pathlib.Path.home())'");
        world.builds.push(world.build(1, source, &[&line]));
        world.send();
        let artifact = done(&world).await;
        assert_eq!(std::fs::read_to_string(&certificate).unwrap(), "-----BEGIN-----");

        let mut target = world.instance(1, source, "exec python3 -m http.server $PORT");
        target.artifact = artifact;
        world.instances.push(target);
        let mut bare = world.instance(2, source, "env > env; exec python3 -m http.server $PORT");
        bare.artifact.source = source;
        world.instances.push(bare);
        world.send();
        let built = world.until_ready(0).await;
        assert_eq!(get(built, "/certificate").await.unwrap(), "-----BEGIN-----");
        let env = get(built, "/env").await.unwrap();
        assert!(env.contains("HTTPS_PROXY=http://proxy:3128\n"), "{env}");
        assert!(env.contains("PIP_CACHE_DIR=/cache/pip\n"), "{env}");
        let env = get(world.until_ready(1).await, "/env").await.unwrap();
        assert!(!env.contains("PROXY") && !env.contains("PIP"), "{env}");
    });
}

#[test]
fn a_build_that_digs_without_end_leaves_nothing() {
    alone("agent::build::a_build_that_digs_without_end_leaves_nothing", async || {
        let mut world = World::new().await;
        let source = world.source(&[("a", "a")]);
        let dig =
            "exec python3 -c \"import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\"";
        world.builds.push(world.build(1, source, &[dig]));
        world.send();
        let cause = failed(&world, 0).await;
        assert!(matches!(cause.code, CauseCode::BuildFailed | CauseCode::DiskFull), "{cause:?}");
        let folder = world.data().join(format!("agent/builds/{}", world.builds[0].id));
        assert!(folder.exists());
        world.builds.clear();
        world.send();
        world.until("nothing", |it| it.builds.is_empty()).await;
        assert!(!folder.exists());
    });
}

#[test]
fn a_build_cannot_hide_what_it_writes() {
    alone("agent::build::a_build_cannot_hide_what_it_writes", async || {
        let mut world = World::new().await;
        let source = world.source(&[("a", "a")]);
        let write = "head -c 50000000 /dev/zero >&3; sync; sleep 1000";
        let in_app = world.build(1, source, &[&format!("exec 3> big; rm big; {write}")]);
        let in_cache =
            world.build(2, source, &[&format!("exec 3> /cache/big; rm /cache/big; {write}")]);
        // Memory is not the disk's: it has a bound of its own.
        let in_memory = world.build(
            3,
            source,
            &["exec 3> /tmp/big; rm /tmp/big; head -c 50000000 /dev/zero >&3; sleep 3; echo > ok"],
        );
        world.builds.extend([in_app, in_cache, in_memory]);
        for build in &mut world.builds {
            build.output_max = Bytes::mib(1);
        }
        world.send();
        for number in [0, 1] {
            let cause = failed(&world, number).await;
            assert_eq!(cause.code, CauseCode::DiskFull);
            assert!(cause.message.contains("in files that it removed"), "{}", cause.message);
        }
        assert!(matches!(world.until_built(2).await, BuildPhase::Done { .. }));
    });
}

#[test]
fn an_org_whose_builds_never_end_does_not_keep_another_from_building() {
    alone(
        "agent::build::an_org_whose_builds_never_end_does_not_keep_another_from_building",
        async || {
            let mut world = World::new().await;
            let source = world.source(&[("a", "a")]);
            world.builds = (1..=3).map(|n| world.build(n, source, &["exec sleep 1000"])).collect();
            world.send();
            eventually("two of them run", || world.sandboxes().len() == 2).await;
            let mut other = world.build(4, source, &["echo made > made"]);
            other.place.org = OrgId::from_parts(Timestamp::from_millis(1), [7; 10]);
            world.builds.push(other);
            world.send();
            assert!(matches!(world.until_built(3).await, BuildPhase::Done { .. }));
            // Its third one is told as what it is, and its time does not run yet.
            let waits = |phase: &BuildPhase| *phase == BuildPhase::Waiting;
            let report = world.until("report", |it| it.builds.len() == 4).await;
            assert_eq!(report.builds.iter().filter(|it| waits(&it.phase)).count(), 1);
            // One that nobody wants any more gives its place to the one that waited.
            let waiting = report.builds.iter().find(|it| waits(&it.phase)).unwrap().id;
            let ended = world.builds.iter().position(|it| it.id != waiting).unwrap();
            world.builds.remove(ended);
            world.send();
            let begun = |it: &insula_model::observed::BuildReport| {
                it.id == waiting && matches!(it.phase, BuildPhase::Running { .. })
            };
            world.until("turn for it", |it| it.builds.iter().any(begun)).await;
        },
    );
}
