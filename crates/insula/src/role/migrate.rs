//! `insula migrate`: the platform's state from SQLite and a directory to PostgreSQL and S3, and back.
//!
//! Apps and gateways go on meanwhile: they need no server. Blobs are copied first, while everything
//! runs; then the server is asked to end and kept from starting, what is new is copied, the rows
//! are copied and compared, the folder is told where its state is now, and the server may start.
//! Interrupted at any point before that, nothing has changed but a copy that nobody uses.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use insula_blobs::{Blobs, Kind, Shelf};
use insula_model::OrgId;
use insula_store::{Page, Store, orgs};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::blobs::{BlobArgs, config};
use crate::data::Data;
use crate::kept::{Kept, parse_url};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// postgres://user@host/name, or `sqlite` for the data folder
    #[arg(long, value_name = "DATABASE")]
    to: String,
    /// The data folder
    #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    blobs: BlobArgs,
}

/// Blobs that a pass has copied and looked at.
#[derive(Debug, Default, Clone, Copy)]
struct Passed {
    copied: u64,
    seen: u64,
}

pub fn run(args: Args, json: bool) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(migrate(args, json))?;
    Ok(ExitCode::SUCCESS)
}

async fn migrate(args: Args, json: bool) -> anyhow::Result<()> {
    let data = Data::choose(args.data)?;
    let from = Kept::read(&data)?;
    let to = Kept { database: destination(&args.to)?, blobs: args.blobs.asked()? };
    let rows_move = from.database != to.database;
    let blobs_move = from.blobs != to.blobs;
    if !rows_move && !blobs_move {
        bail!("the state of {} is there already", data.root().display());
    }
    if from.database.is_none() && !data.database().exists() {
        bail!("{} holds no state of Insula", data.root().display());
    }
    let old_blobs = Blobs::open(config(&data, from.blobs.clone())).context("open the blobs")?;
    let new_blobs = Blobs::open(config(&data, to.blobs.clone())).context("open the new blobs")?;
    new_blobs.probe().await.context("ask the new place of the blobs")?;
    // Before anybody is stopped: whether the new database can be had, and is empty.
    let target = if rows_move { Some(open(&data, &to, "the new database").await?) } else { None };
    let mut passed = Passed::default();
    if blobs_move {
        // SQLite and PostgreSQL both let others read.
        let reading = open(&data, &from, "the database").await?;
        passed = copy_blobs(&reading, &old_blobs, &new_blobs).await?;
        eprintln!("{} of {} blobs copied while everything runs", passed.copied, passed.seen);
    }
    let _server = stop_server(&data)?;
    let source = open(&data, &from, "the database").await?;
    if blobs_move {
        let last = copy_blobs(&source, &old_blobs, &new_blobs).await?;
        passed.copied += last.copied;
        passed.seen = last.seen;
    }
    let mut rows = 0;
    if let Some(target) = target {
        let copying = tokio::task::spawn_blocking(move || insula_store::copy(&source, &target));
        let tables = copying.await?.context("copy the rows")?;
        rows = tables.iter().map(|table| table.rows).sum();
    }
    to.write(&data)?;
    if rows_move && from.database.is_none() {
        set_aside(&data)?;
    }
    eprintln!(
        "{rows} rows and {} blobs are in their new place, compared with the old one. The server \
         starts from there; apps did not notice. The old place is as it was: remove it when you are sure.",
        passed.seen
    );
    if json {
        println!("{}", json!({ "rows": rows, "blobs": passed.seen }));
    }
    Ok(())
}

/// The file of before, under another name, so that the way back finds room.
fn set_aside(data: &Data) -> anyhow::Result<()> {
    let database = data.database();
    for suffix in ["", "-wal", "-shm"] {
        let named = |middle: &str| {
            let mut name = database.as_os_str().to_owned();
            name.push(middle);
            name.push(suffix);
            PathBuf::from(name)
        };
        match std::fs::rename(named(""), named(".moved")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("set {} aside", database.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn destination(to: &str) -> anyhow::Result<Option<String>> {
    if to == "sqlite" {
        return Ok(None);
    }
    parse_url(to)?;
    Ok(Some(to.to_owned()))
}

async fn open(data: &Data, kept: &Kept, what: &'static str) -> anyhow::Result<Store> {
    let config = kept.store(data)?;
    let opening = tokio::task::spawn_blocking(move || Store::open(config));
    opening.await?.with_context(|| format!("open {what}"))
}

/// Asks the server to end, and holds its place so that nobody starts it until we are done.
fn stop_server(data: &Data) -> anyhow::Result<insula_kit::lock::Lock> {
    let path = data.role_lock("server");
    if let Some(pid) = insula_kit::lock::holder_pid(&path)? {
        let target = i32::try_from(pid).ok().and_then(Pid::from_raw).context("the server's pid")?;
        kill_process(target, Signal::TERM).context("ask the server to end")?;
    }
    super::hold(data, "server")
}

/// Copies every blob that the new place lacks.
async fn copy_blobs(store: &Store, from: &Blobs, to: &Blobs) -> anyhow::Result<Passed> {
    let mut passed = Passed::default();
    for org in all_orgs(store).await? {
        for kind in Kind::ALL {
            let shelf = Shelf::new(org, kind);
            let mut listed = std::pin::pin!(from.list(shelf));
            while let Some(blob) = listed.try_next().await.context("list the blobs")? {
                passed.seen += 1;
                if to.size_of(shelf, blob.digest).await?.is_some() {
                    continue;
                }
                let bytes = from.get_stream(shelf, blob.digest).await.context("read a blob")?;
                let copied = to.put_stream(shelf, bytes, Some(blob.digest), blob.size).await;
                copied.with_context(|| format!("copy {shelf}/{}", blob.digest))?;
                passed.copied += 1;
            }
        }
    }
    Ok(passed)
}

async fn all_orgs(store: &Store) -> anyhow::Result<Vec<OrgId>> {
    let found = store.read(|tx| {
        let mut all = Vec::new();
        let mut page = Page::first(insula_model::limits::PAGE_MAX);
        loop {
            let read = orgs::list(tx, &page)?;
            all.extend(read.items.iter().map(|org| org.id));
            match read.next {
                Some(next) => page = Page::after(insula_model::limits::PAGE_MAX, next),
                None => return Ok::<_, insula_store::StoreError>(all),
            }
        }
    });
    Ok(found.await?)
}
