//! Certificates of days ago: what a machine holds that was off for so long.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use insula_kit::clock::{Clock, SystemClock, TestClock};
use insula_kit::pki::{Identity, KeyPair};
use insula_kit::random::SystemRandom;
use insula_kit::seal::{Key, Keyring};
use insula_model::fleet::Member;
use insula_store::{Store, StoreConfig};
use insula_vault::fleet::Registrar;
use serde_json::Value;

use super::process::Role;

/// Gives a node another certificate, that it would have got so long ago. Neither it nor the server,
/// whose state is in its folder, may run meanwhile.
pub fn give_old_certificate(server: &Role, node: &Role, ago: Duration) -> Result<()> {
    let member = Member::Node(node_id(node)?.parse()?);
    let then = SystemClock.now_ms() - i64::try_from(ago.as_millis())?;
    let clock: Arc<dyn Clock> = Arc::new(TestClock::new(then));
    let master = Arc::new(Keyring::new(Key::load(&server.data.join("master.key"))?));
    let store = Store::open(StoreConfig::new(server.data.join("server/insula.db")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let key = KeyPair::generate();
    let given = runtime.block_on(async {
        let random = Arc::new(SystemRandom::new());
        let registrar = Registrar::open(store, master, random, clock).await?;
        anyhow::Ok(registrar.renew(member, key.public_key()).await?)
    })?;
    let (certificate, authorities) = (given.certificate, given.authorities);
    let file = node.data.join("agent/credentials.json");
    Ok(Identity { key, certificate, authorities }.save(&file)?)
}

fn node_id(node: &Role) -> Result<String> {
    let path: &Path = &node.data.join("agent/node.json");
    let said: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    Ok(said["node"].as_str().with_context(|| format!("no node in {}", path.display()))?.to_owned())
}
