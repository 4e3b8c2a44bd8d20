//! `insula master-key`: another key for the secrets, while nothing runs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use insula_kit::files;
use insula_kit::random::SystemRandom;
use insula_kit::seal::{Key, Keyring};
use insula_store::Store;

use crate::data::Data;
use crate::kept::Kept;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a new master key and seal everything with it; the old one opens nothing any more
    Rotate(Place),
    /// Make a master key where it was lost; secrets stay sealed and have to be set again
    New(Place),
}

#[derive(Debug, clap::Args)]
pub struct Place {
    /// The data folder
    #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
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
    let random = SystemRandom::new();
    let ring = ring(&data)?;
    // A rotation that was interrupted goes on with the key that it had made.
    let next = Key::load_or_create(&data.next_master_key(), &random)?;
    let ring = Keyring::new(next).with_older(ring);
    let store = Store::open(Kept::read(&data)?.store(&data)?).context("open the store")?;
    let keys = store
        .write_blocking(move |tx| {
            insula_vault::rewrap_all(tx, &ring, &random).map_err(anyhow::Error::from)
        })
        .context("seal the orgs' keys with the new master key")?;
    std::fs::rename(data.next_master_key(), data.master_key())?;
    files::sync_folder(data.root())?;
    eprintln!(
        "{keys} keys of orgs are sealed with the new master key; keep a copy of it elsewhere."
    );
    Ok(keys)
}

fn new(place: Place) -> anyhow::Result<usize> {
    let data = Data::choose(place.data)?;
    let _lock = data.hold()?;
    if data.master_key().exists() {
        bail!("{} is there; `insula master-key rotate` makes another", data.master_key().display());
    }
    Key::load_or_create(&data.master_key(), &SystemRandom::new())?;
    eprintln!(
        "Made {}. Secrets of before stay sealed; set them again.",
        data.master_key().display()
    );
    Ok(0)
}

fn ring(data: &Data) -> anyhow::Result<Key> {
    Key::load(&data.master_key()).context("open the master key")
}
