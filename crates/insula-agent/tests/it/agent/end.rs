//! Ends: Ctrl-C takes the apps along, and `down` leaves nothing.

use rustix::process::Signal;

use super::instance::{RUN, app};
use super::world::{World, alone, get};

#[test]
fn ctrl_c_stops_the_apps_and_down_leaves_nothing() {
    alone("agent::end::ctrl_c_stops_the_apps_and_down_leaves_nothing", async || {
        let mut world = World::new().await;
        let source = app(&world);
        world.instances.push(world.instance(1, source, RUN));
        world.send();
        let endpoint = world.until_ready(0).await;
        world.end_agent(Signal::INT).await;
        assert!(get(endpoint, "/").await.is_err());
        assert_eq!(world.sandboxes(), Vec::<String>::new());

        // The next start brings them back.
        world.state.report.send_replace(None);
        world.start_agent();
        world.until_ready(0).await;
        world.kill_agent();
        let report = insula_agent::down(world.data()).await.unwrap();
        assert_eq!((report.stopped, report.keeper), (1, true));
        world.assert_nothing_is_left().await;
        assert_eq!(insula_agent::down(world.data()).await.unwrap().stopped, 0);
    });
}
