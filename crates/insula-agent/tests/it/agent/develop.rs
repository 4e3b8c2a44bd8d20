//! Development mode: an agent of an ordinary user, on the host's network.

use std::process::Command;

use rustix::process::Signal;

use super::instance::{RUN, app};
use super::world::{NOBODY, World, alone, get};

#[test]
fn an_ordinary_user_runs_apps_on_ports_of_loopback() {
    alone("agent::develop::an_ordinary_user_runs_apps_on_ports_of_loopback", async || {
        let namespaces = Command::new("setpriv")
            .args([&format!("--reuid={NOBODY}"), "--clear-groups", "unshare", "--user", "true"])
            .status();
        if !namespaces.is_ok_and(|status| status.success()) {
            assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "no user namespaces");
            eprintln!("SKIPPED: this machine has no user namespaces for ordinary users");
            return;
        }
        let mut world = World::of_ordinary_user().await;
        let source = app(&world);
        let mut fixed = world.instance(2, source, RUN);
        // Says nothing of PORT and is found all the same.
        fixed.variables.insert("LISTEN".parse().unwrap(), "5055".into());
        fixed.variables.insert("BIND".parse().unwrap(), "127.0.0.1".into());
        world.instances.extend([world.instance(1, source, RUN), fixed]);
        let built = world.build(1, source, &["mkdir -p x && rm index.html && echo made > x/made"]);
        world.builds.push(built);
        world.send();
        let endpoint = world.until_ready(0).await;
        assert!(endpoint.ip().is_loopback());
        assert!(
            get(endpoint, "/")
                .await
                .unwrap()
                .contains(&format!("\"PORT\": \"{}\"", endpoint.port()))
        );
        assert_eq!(world.until_ready(1).await.port(), 5055);

        let insula_model::observed::BuildPhase::Done { artifact } = world.until_built(0).await
        else {
            panic!("the build failed")
        };
        world.builds.clear();
        let mut third = world.instance(3, source, "ls -R; exec python3 -m http.server $PORT");
        third.artifact = artifact;
        world.instances.push(third);
        world.send();
        let third = world.until_ready(2).await;
        assert_eq!(get(third, "/x/made").await.unwrap(), "made\n");
        assert!(get(third, "/index.html").await.unwrap().contains("404"));

        world.end_agent(Signal::INT).await;
        assert!(get(endpoint, "/").await.is_err());
        assert_eq!(world.sandboxes(), Vec::<String>::new());
    });
}
