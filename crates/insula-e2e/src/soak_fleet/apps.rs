//! The apps of a long story, one for each promise that differs.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::fleet::{EDGE_PORT, Fleet};
use crate::machine::{host_of, wait_for};
use crate::story::{self, MOMENT};
use crate::{explorer, folder};

/// Three instances, and a rollout by turns.
pub const ROLLING: &str = "rolling";
/// Never two at once, whoever is not heard of.
pub const NEVER: &str = "single-never";
/// Stops by itself when nobody is heard of.
pub const LEASE: &str = "single-lease";
/// Two components on two sides of the fleet, one of which asks the other by name.
pub const TALK: &str = "talk";

#[derive(Debug, Clone)]
pub struct App {
    pub name: String,
    pub edge: SocketAddr,
    pub host: String,
    pub path: String,
    /// What a good answer begins with.
    opening: &'static str,
    /// So many instances when all is well.
    pub instances: usize,
}

impl App {
    pub fn is_good(&self, answer: &str) -> bool {
        answer.starts_with(self.opening)
    }

    pub fn named(name: &str, url: &str, instances: usize) -> Result<Self> {
        let edge = (Ipv4Addr::LOCALHOST, EDGE_PORT).into();
        let (host, path) = (host_of(url)?, "/".to_owned());
        Ok(Self { name: name.to_owned(), edge, host, path, opening: "", instances })
    }
}

const WEB: &str =
    "[components.web]\nkind = \"service\"\nrun = \"exec python3 main.py\"\nmemory = \"64MiB\"\n";

/// A service that answers with what it drew when it began.
pub fn service(more: &str) -> Result<TempDir> {
    folder::with(&[("main.py", story::REMEMBERS), ("insula.toml", &format!("{WEB}{more}"))])
}

/// The side that a node of `fleet` stands on: the first alone, the others opposite.
pub fn side(node: usize) -> &'static str {
    if node == 0 { "side=a" } else { "side=b" }
}

/// Deploys all of them: both singles on the first node.
pub fn deploy_all(fleet: &Fleet) -> Result<Vec<App>> {
    let others: Vec<&str> = fleet.nodes.iter().skip(1).map(|node| node.name()).collect();
    for node in &others {
        fleet.ok(&["nodes", "cordon", node])?;
    }
    let mut apps = Vec::new();
    let singles = [(NEVER, "failover = \"never\"\n"), (LEASE, "failover = \"lease\"\n")];
    for (name, failover) in singles {
        let source = service(&format!("single = true\n{failover}stop = {{ grace = \"1s\" }}\n"))?;
        apps.push(App::named(name, &story::url(&fleet.deploy(source.path(), name)?)?, 1)?);
    }
    for node in &others {
        fleet.ok(&["nodes", "uncordon", node])?;
    }
    let source = service("instances = 3\nrollout = { strategy = \"rolling\", surge = 1 }\n")?;
    apps.push(App::named(ROLLING, &story::url(&fleet.deploy(source.path(), ROLLING)?)?, 3)?);
    apps.push(talk(fleet)?);
    Ok(apps)
}

fn talk(fleet: &Fleet) -> Result<App> {
    let source = explorer::folder()?;
    let placed = |side: &str| format!("placement = {{ labels = {{ side = \"{side}\" }} }}\n");
    let api = WEB.replace("web", "api");
    let toml = format!("{WEB}{}{api}routes = []\n{}", placed("a"), placed("b"));
    folder::write(source.path(), "insula.toml", &toml)?;
    let url = story::url(&fleet.deploy(source.path(), TALK)?)?;
    let mut app = App::named(TALK, &url, 2)?;
    (app.path, app.opening) = ("/fetch?http://api:8080/".to_owned(), "ok ok");
    wait_for("web finds api", MOMENT, || {
        let answer = fleet.visit(0, &url, &app.path)?;
        Ok(answer.status == 200 && app.is_good(&answer.text()))
    })
    .context(TALK)?;
    Ok(app)
}
