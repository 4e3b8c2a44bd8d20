//! `insula master-key`: another key for the secrets, while nothing runs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use insula_kit::clock::{Clock, SystemClock};
use insula_kit::files;
use insula_kit::random::SystemRandom;
use insula_kit::seal::{Key, Keyring};
use insula_model::{Millis, Timestamp};
use insula_store::{Store, servers};

use crate::data::Data;
use crate::kept::Kept;
use crate::role::server::DATABASE;

/// A server says every five seconds that it is there.
const COMPANY_FRESH: Millis = Millis::secs(20);

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a new master key and seal everything with it; the old one opens nothing any more
    Rotate(Place),
    /// Make a master key where it was lost; secrets stay sealed and have to be set again
    New(New),
}

#[derive(Debug, clap::Args)]
pub struct New {
    #[command(flatten)]
    place: Place,
    /// Nodes and gateways that joined have to join again: what proves who they are is lost, too
    #[arg(long)]
    forget_fleet: bool,
}

#[derive(Debug, clap::Args)]
pub struct Place {
    /// The data folder
    #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The database, if the server is started with `--database`
    #[arg(long, env = DATABASE, hide_env_values = true, value_name = "URL")]
    database: Option<String>,
}

pub fn run(command: Command, json: bool) -> anyhow::Result<ExitCode> {
    let keys = match command {
        Command::Rotate(place) => rotate(place),
        Command::New(place) => new(place),
    }?;
    if json {
        println!("{}", serde_json::json!({ "sealed_keys": keys }));
    }
    Ok(ExitCode::SUCCESS)
}

/// How many keys of orgs are sealed with the new one.
fn rotate(place: Place) -> anyhow::Result<usize> {
    let data = Data::choose(place.data)?;
    let _lock = data.hold()?;
    let _server = super::hold(&data, "server")?;
    // Before a key is made: a store of long ago, or an empty one, has nothing that it would seal, and
    // the key that everything is sealed with would be gone.
    let config = Kept::of_chore(&data, place.database, None)?.store(&data)?;
    let random = SystemRandom::new();
    let ring = ring(&data)?;
    // A rotation that was interrupted goes on with the key that it had made.
    let next = Key::load_or_create(&data.next_master_key(), &random)?;
    let ring = Keyring::new(next).with_older(ring);
    let store = Store::open(config).context("open the store")?;
    refuse_company(&store, &data)?;
    let keys = store
        .write_blocking(move |tx| {
            insula_vault::rewrap_all(tx, &ring, &random).map_err(anyhow::Error::from)
        })
        .context("seal what the master key seals with the new one")?;
    std::fs::rename(data.next_master_key(), data.master_key())?;
    files::sync_folder(data.root())?;
    eprintln!(
        "{keys} keys of orgs are sealed with the new master key; keep a copy of it elsewhere, and \
         give one to each server that shares the database."
    );
    Ok(keys)
}

fn new(New { place, forget_fleet }: New) -> anyhow::Result<usize> {
    let data = Data::choose(place.data)?;
    let _lock = data.hold()?;
    let _server = super::hold(&data, "server")?;
    if data.master_key().exists() {
        bail!("{} is there; `insula master-key rotate` makes another", data.master_key().display());
    }
    let config = Kept::of_chore(&data, place.database, None)?.store(&data)?;
    let store = Store::open(config).context("open the store")?;
    refuse_company(&store, &data)?;
    // Whoever has a certificate of it; one machine alone has made it for nobody.
    let members = store.read_blocking(insula_store::enrolments::list)?;
    let members = members.iter().filter(|member| member.revoked.is_none()).count();
    if members > 0 && !forget_fleet {
        bail!(
            "{members} members have joined this fleet, and what proves who they are is sealed with \
             the lost key: put it back (each server has the same one), or give `--forget-fleet` \
             and let every node and gateway join again"
        );
    }
    store.write_blocking(insula_store::authority::forget)?;
    Key::load_or_create(&data.master_key(), &SystemRandom::new())?;
    eprintln!(
        "Made {}. Secrets of before stay sealed; set them again.",
        data.master_key().display()
    );
    Ok(0)
}

/// Another server would go on with the key of before, which then opens nothing.
fn refuse_company(store: &Store, data: &Data) -> anyhow::Result<()> {
    let own = super::server::known_id(data)?;
    let now = Timestamp::from_millis(SystemClock.now_ms());
    let fresh = store.read_blocking(move |tx| servers::fresh(tx, now, COMPANY_FRESH))?;
    if let Some(other) = fresh.iter().find(|server| Some(server.id) != own) {
        bail!(
            "{} shares this database and was here {} s ago at most: stop every server first; they \
             all have the same master.key afterwards",
            other.id,
            COMPANY_FRESH.0 / 1_000
        );
    }
    Ok(())
}

fn ring(data: &Data) -> anyhow::Result<Key> {
    Key::load(&data.master_key()).context("open the master key")
}
