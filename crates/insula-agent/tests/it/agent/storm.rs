//! `kill -9` of the agent at moments of chance, while instances and builds come and go.

use insula_kit::random::{Random, SeededRandom};
use insula_model::target::InstanceIntent;

use super::instance::{RUN, app};
use super::world::{World, alone};

/// Enough to hit every step of a start and of a stop more than once.
const KILLS: u64 = 25;

#[test]
fn an_agent_killed_at_any_moment_converges_and_leaves_nothing() {
    alone("agent::storm::an_agent_killed_at_any_moment_converges_and_leaves_nothing", async || {
        let seed = std::env::var("INSULA_TEST_SEED").ok().and_then(|it| it.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        eprintln!("INSULA_TEST_SEED={seed}");
        let random = SeededRandom::new(seed);
        let mut world = World::new().await;
        let source = app(&world);
        // One that is there all the time, and must not notice anything.
        world.instances.push(world.instance(1, source, RUN));
        world.send();
        let steady = world.until_ready(0).await;
        for round in 0..KILLS {
            let number = u8::try_from(round + 3).unwrap();
            world.instances.truncate(1);
            world.instances.push(world.instance(number, source, RUN));
            if random.next_u64().is_multiple_of(2) {
                let mut stopped = world.instance(number - 1, source, RUN);
                stopped.intent = InstanceIntent::Stop;
                world.instances.push(stopped);
            }
            let line = "echo made > made";
            world.builds = vec![world.build(number, source, &[line, line])];
            world.send();
            let moment = std::time::Duration::from_micros(random.next_u64() % 200_000);
            tokio::time::sleep(moment).await;
            world.kill_agent();
            world.start_agent();
        }
        world.state.report.send_replace(None);
        assert_eq!(world.until_ready(0).await, steady);
        let report = world.until_phase(0, "ready").await;
        assert_eq!((report.restarts, report.last_exit), (0, None));
        world.until_ready(1).await;
        world.until_built(0).await;
        let (id, number) = (world.instances[0].id.to_string(), world.instances[1].id.to_string());
        let strangers: Vec<String> = world
            .sandboxes()
            .into_iter()
            .filter(|name| !name.starts_with(&id) && !name.starts_with(&number))
            .collect();
        assert_eq!(strangers, Vec::<String>::new());

        world.instances.clear();
        world.builds.clear();
        world.send();
        world.until("nothing", |it| it.instances.is_empty() && it.builds.is_empty()).await;
        world.kill_agent();
        insula_agent::down(world.data()).await.unwrap();
        world.assert_nothing_is_left().await;
    });
}
