//! Certificates fall due while nobody is there who could renew them, and everybody is started
//! again meanwhile.
//!
//! A certificate is for three days and due after one, so what an hour cannot show is brought about:
//! the members get certificates that were given out some days ago, and begin again with them while
//! they are cut off. They go on with what they have, and renew it once they are heard.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use insula_kit::clock::{Clock, SystemClock, TestClock};
use insula_kit::pki::{Identity, KeyPair, MEMBER_LIFE_MS};
use insula_kit::random::SystemRandom;
use insula_kit::seal::{Key, Keyring};
use insula_kit::tls::Credentials;
use insula_model::fleet::Member;
use insula_store::{Store, StoreConfig};
use insula_vault::fleet::Registrar;
use serde_json::Value;

use super::apps::{self, LEASE};
use super::table;
use super::visitors::{EACH_SECOND, Visitors};
use crate::fleet::impostor::identity;
use crate::fleet::process::Role;
use crate::fleet::{Fleet, Shape};
use crate::machine::wait_for;
use crate::story::MOMENT;

const NODES: usize = 2;
/// What they hold is good for so long after the story.
const LEFT: Duration = Duration::from_secs(3_600);
/// Who could not renew tries again with pauses that grow to minutes.
const RENEWED_TIME_MAX: Duration = Duration::from_secs(600);

pub fn run(length: Duration) -> Result<()> {
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 1 })?;
    for node in 0..NODES {
        fleet.add_node(&["--label", apps::side(node)])?;
    }
    fleet.wait_until_ready(NODES)?;
    let apps: Vec<_> =
        apps::deploy_all(&fleet)?.into_iter().filter(|app| app.name != LEASE).collect();
    fleet.ok(&["stop", "--app", LEASE])?;
    fleet.wait_settled(LEASE, 0, MOMENT)?;
    let lives = fleet.lives();

    fleet.ground.cut_off("s0")?;
    for role in fleet.servers.iter_mut().chain(&mut fleet.nodes).chain(&mut fleet.gateways) {
        role.stop()?;
    }
    let members = make_due(&fleet, length + LEFT)?;
    for role in fleet.servers.iter_mut().chain(&mut fleet.nodes).chain(&mut fleet.gateways) {
        role.start()?;
    }
    for app in &apps {
        wait_for("the gateway serves without a server", MOMENT, || {
            let url = format!("http://{}/", app.host);
            let answer = fleet.visit(0, &url, &app.path);
            Ok(answer.is_ok_and(|answer| answer.status == 200 && app.is_good(&answer.text())))
        })
        .with_context(|| app.name.clone())?;
    }
    let visitors = Visitors::start(&fleet.gateways, &apps, EACH_SECOND)?;
    let began = Instant::now();
    while began.elapsed() < length {
        fleet.ensure_kept(&lives)?;
        std::thread::sleep(EACH_SECOND);
    }
    for member in &members {
        ensure!(member.is_due()?, "{} was renewed by nobody", member.file.display());
    }
    fleet.ground.heal()?;
    let healed = Instant::now();
    fleet.wait_until_ready(NODES)?;
    let ready = healed.elapsed();
    for member in &members {
        wait_for("the certificate is renewed", RENEWED_TIME_MAX, || Ok(!member.is_due()?))
            .with_context(|| member.file.display().to_string())?;
    }
    let renewed = healed.elapsed();
    // The new ones are used: by the gateway to the relays, and from node to node.
    std::thread::sleep(Duration::from_secs(10));
    let met = visitors.finish();
    println!(
        "\n-- {} certificates due for {} s without a server --",
        members.len(),
        length.as_secs()
    );
    table::visits(&met, began);
    table::row("healed → all nodes ready", &table::seconds(ready));
    table::row("healed → the last certificate renewed", &table::seconds(renewed));
    fleet.ensure_kept(&lives)?;
    table::row("apps stopped or started", "none");
    for met in &met {
        ensure!(met.failed == 0, "{}: {}", met.app, met.excuse(began));
    }
    fleet.finish()
}

/// Where somebody keeps its certificate.
struct Held {
    file: PathBuf,
}

impl Held {
    fn is_due(&self) -> Result<bool> {
        let identity = identity(&self.file)?;
        Ok(Credentials::new(&identity, Arc::new(SystemClock))?.renewal_is_due())
    }
}

/// Gives all nodes and gateways certificates that end after `left`.
fn make_due(fleet: &Fleet, left: Duration) -> Result<Vec<Held>> {
    let server = fleet.servers.first().context("a server")?;
    let issued = SystemClock.now_ms() - MEMBER_LIFE_MS + i64::try_from(left.as_millis())?;
    let clock: Arc<dyn Clock> = Arc::new(TestClock::new(issued));
    let master = Arc::new(Keyring::new(Key::load(&server.data.join("master.key"))?));
    let store = Store::open(StoreConfig::new(server.data.join("server/insula.db")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let random = Arc::new(SystemRandom::new());
    let registrar = runtime.block_on(Registrar::open(store, master, random, clock))?;
    let mut all = Vec::new();
    for node in &fleet.nodes {
        let member = Member::Node(id(node, "agent/node.json", "node")?.parse()?);
        all.push((member, node.data.join("agent/credentials.json")));
    }
    for gateway in &fleet.gateways {
        let member = Member::Gateway(id(gateway, "gateway/gateway.json", "gateway")?.parse()?);
        all.push((member, gateway.data.join("gateway/credentials.json")));
    }
    let mut held = Vec::new();
    for (member, file) in all {
        let key = KeyPair::generate();
        let given = runtime.block_on(registrar.renew(member, key.public_key()))?;
        let (certificate, authorities) = (given.certificate, given.authorities);
        Identity { key, certificate, authorities }.save(&file)?;
        held.push(Held { file });
        ensure!(held.last().map(Held::is_due).transpose()? == Some(true), "{member} is not due");
    }
    Ok(held)
}

fn id(role: &Role, file: &str, key: &str) -> Result<String> {
    let path: &Path = &role.data.join(file);
    let said: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    Ok(said[key].as_str().with_context(|| format!("no {key} in {}", path.display()))?.to_owned())
}
