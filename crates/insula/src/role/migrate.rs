//! `insula migrate`: the platform's state from SQLite and a directory to PostgreSQL and S3, and back.
//!
//! Apps and gateways go on meanwhile: they need no server. Blobs are copied first, while everything
//! runs; then the server is asked to end and kept from starting, what is new is copied, the rows
//! are copied and compared, the folder is told where its state is now, and the server may start.
//! Interrupted at any point before that, nothing has changed but a copy that nobody uses.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use insula_blobs::{Blobs, Kind, Shelf};
use insula_kit::clock::{Clock, SystemClock};
use insula_kit::lock::{Lock, LockError};
use insula_model::fleet::Server;
use insula_model::{Millis, OrgId, ServerId, Timestamp};
use insula_store::{Page, Store, StoreError, orgs, servers};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::blobs::{BlobArgs, config};
use crate::data::Data;
use crate::kept::{Kept, parse_url};

/// Servers say every few seconds that they are there.
const COMPANY_FRESH: Millis = Millis::secs(20);
/// The files of one SQLite database.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// For a server to end, with what it has under way.
const SERVER_END_TIME_MAX: Duration = Duration::from_secs(30);
/// Between looks whether it has: less than a process takes to begin.
const SERVER_LOOK: Duration = Duration::from_millis(1);

/// Says what `--to` says, where no list of processes shows it.
pub const TO: &str = "INSULA_MIGRATE_TO";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// postgres://user@host/name, or `sqlite` for the data folder. Everybody on this machine sees the
    /// arguments of a command: a URL with a password belongs into the variable
    #[arg(long, env = TO, hide_env_values = true, value_name = "DATABASE")]
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
    let from = Kept::of_chore(&data, None, None)
        .context("what moves is what the folder remembers, not what a server was told")?;
    let database = destination(&args.to)?;
    let blobs = match (args.blobs.asked()?, &database) {
        (Some(asked), _) => Some(asked),
        // Everything comes back into the folder.
        (None, None) => None,
        // Nobody said anything of them: other servers may read them where they are.
        (None, Some(_)) => from.blobs.clone(),
    };
    let to = Kept { database, blobs };
    let rows_move = from.database != to.database;
    let blobs_move = from.blobs != to.blobs;
    if !rows_move && !blobs_move {
        bail!("the state of {} is there already", data.root().display());
    }
    let old_blobs = Blobs::open(config(&data, from.blobs.clone())).context("open the blobs")?;
    let new_blobs = Blobs::open(config(&data, to.blobs.clone())).context("open the new blobs")?;
    new_blobs.probe().await.context("ask the new place of the blobs")?;
    if rows_move && to.database.is_none() {
        // What an interrupted move left behind: nobody uses it, and it would be in the way.
        set_aside(&data)?;
    }
    // Before anybody is stopped: whether the new database can be had.
    let target = if rows_move { Some(open(&data, &to, "the new database").await?) } else { None };
    // SQLite and PostgreSQL both let others read.
    let reading = open(&data, &from, "the database").await?;
    refuse_company(&data, &reading).await?;
    let mut passed = Passed::default();
    if blobs_move {
        passed = copy_blobs(&reading, &old_blobs, &new_blobs).await?;
        eprintln!("{} of {} blobs copied while everything runs", passed.copied, passed.seen);
    }
    drop(reading);
    let _server = stop_server(&data)?;
    let source = open(&data, &from, "the database").await?;
    refuse_company(&data, &source).await?;
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
    to.note_used(&data)?;
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

/// Other servers would go on with what is being left: they acknowledge writes that nobody finds
/// again, and decide for nodes that another decides for.
async fn refuse_company(data: &Data, source: &Store) -> anyhow::Result<()> {
    let now = Timestamp::from_millis(SystemClock.now_ms());
    let others = others(source, super::server::known_id(data)?, now).await?;
    let Some(first) = others.first() else { return Ok(()) };
    let at = first.fleet.map_or_else(String::new, |fleet| format!(" at {fleet}"));
    bail!(
        "{} more servers use what is to be moved, {}{at} among them: end them first; who was killed \
         counts for {COMPANY_FRESH} more",
        others.len(),
        first.id
    )
}

/// Those that said lately that they share this store.
async fn others(
    store: &Store,
    own: Option<ServerId>,
    now: Timestamp,
) -> Result<Vec<Server>, StoreError> {
    let mut fresh = store.read(move |tx| servers::fresh(tx, now, COMPANY_FRESH)).await?;
    fresh.retain(|server| Some(server.id) != own);
    Ok(fresh)
}

/// The file of before, under another name, so that the way back finds room. What was set aside
/// earlier stays.
fn set_aside(data: &Data) -> anyhow::Result<()> {
    let database = data.database();
    let named = |middle: &str, suffix: &str| {
        let mut name = database.as_os_str().to_owned();
        name.push(middle);
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut middles = (1_u32..).map(|n| match n {
        1 => ".moved".to_owned(),
        n => format!(".moved-{n}"),
    });
    let is_free = |middle: &String| SUFFIXES.iter().all(|suffix| !named(middle, suffix).exists());
    // The numbers do not end before the disk does.
    let middle = middles.find(is_free).unwrap_or_default();
    for suffix in SUFFIXES {
        match std::fs::rename(named("", suffix), named(&middle, suffix)) {
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

/// Asks the server to end, and holds its place so that nobody starts it until we are done. A
/// supervisor starts it again at once: the place is looked at more often than a process can begin,
/// and a server that was faster all the same is asked again.
fn stop_server(data: &Data) -> anyhow::Result<Lock> {
    data.prepare()?;
    let path = data.role_lock("server");
    let began = Instant::now();
    let mut asked = None;
    loop {
        match Lock::acquire(&path) {
            Err(LockError::Held { pid, .. }) if began.elapsed() < SERVER_END_TIME_MAX => {
                if let Some(pid) = pid.filter(|_| asked != pid) {
                    ask_to_end(pid)?;
                    asked = Some(pid);
                }
                std::thread::sleep(SERVER_LOOK);
            }
            other => return other.context("wait for the end of the server"),
        }
    }
}

fn ask_to_end(pid: u32) -> anyhow::Result<()> {
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw).context("the server's pid")?;
    match kill_process(target, Signal::TERM) {
        // It has ended meanwhile.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("ask the server to end"),
    }
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

pub(super) async fn all_orgs(store: &Store) -> anyhow::Result<Vec<OrgId>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_shares_the_store_is_company_and_we_and_the_dead_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let config = insula_store::StoreConfig::new(folder.path().join("insula.db"));
        let store = Store::open(config).unwrap();
        let now = Timestamp::from_millis(1_790_000_000_000);
        let (own, other, dead) =
            (ServerId::from_u128(1), ServerId::from_u128(2), ServerId::from_u128(3));
        let long_ago = Timestamp::from_millis(now.as_millis() - COMPANY_FRESH.0 as i64 - 1);
        for (id, seen) in [(own, now), (other, now), (dead, long_ago)] {
            let server = Server { id, fleet: None, version: "0".into(), seen };
            store.write(move |tx| servers::say_here(tx, &server)).await.unwrap();
        }
        let ids = |found: Vec<Server>| found.iter().map(|server| server.id).collect::<Vec<_>>();
        assert_eq!(ids(others(&store, Some(own), now).await.unwrap()), [other]);
        assert_eq!(ids(others(&store, None, now).await.unwrap()), [own, other]);
    }

    #[test]
    fn what_is_set_aside_twice_is_there_twice() {
        let folder = tempfile::tempdir().unwrap();
        let data = Data::at(folder.path()).unwrap();
        std::fs::create_dir_all(data.database().parent().unwrap()).unwrap();
        let beside = |suffix: &str| {
            let mut name = data.database().into_os_string();
            name.push(suffix);
            std::fs::read_to_string(PathBuf::from(name)).ok()
        };
        set_aside(&data).unwrap();
        std::fs::write(data.database(), "first").unwrap();
        set_aside(&data).unwrap();
        std::fs::write(data.database(), "second").unwrap();
        set_aside(&data).unwrap();
        assert_eq!(beside(""), None);
        assert_eq!(beside(".moved").as_deref(), Some("first"));
        assert_eq!(beside(".moved-2").as_deref(), Some("second"));
    }
}
