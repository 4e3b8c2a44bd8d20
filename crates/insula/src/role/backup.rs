//! `insula backup`: the platform's own state in one file, and back.
//!
//! An archive holds the database, whichever it is, as a file of SQLite, and the blobs, wherever they
//! are. It is restored into a folder; `insula migrate` is the way from there to elsewhere. It holds
//! no key: without the master key, secrets in it stay sealed.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use insula_blobs::{BlobConfig, Blobs, Kind, Listed, Shelf};
use insula_model::Digest;
use insula_store::{Store, StoreConfig};
use serde_json::{Value, json};
use tar::{Builder, Header};

use super::blobs::{BlobArgs, config};
use super::migrate::all_orgs;
use super::server::DATABASE as DATABASE_VARIABLE;
use crate::data::Data;
use crate::kept::{Kept, KeptBlobs};

/// The first entry of an archive: says what it is before anything is unpacked.
const MARK: &str = "insula-backup";
const MARK_TEXT: &str = "1\n";
const DATABASE: &str = "insula.db";
const BLOBS: &str = "blobs";
/// What a directory of blobs keeps of them; the rest is uploads that are not whole yet.
const OBJECTS: &str = "objects";

/// Most blobs are small, and the way to an S3 is long; each is a file while it waits.
const FETCHED_AT_ONCE: usize = 16;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write a consistent copy of the platform's state, while it runs
    Create(Create),
    /// Make a new data folder from a backup
    Restore(Restore),
}

#[derive(Debug, clap::Args)]
pub struct Create {
    /// The file to write; it must not exist
    file: PathBuf,
    /// The data folder
    #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The database, if the server is started with `--database`
    #[arg(long, env = DATABASE_VARIABLE, hide_env_values = true, value_name = "URL")]
    database: Option<String>,
    #[command(flatten)]
    place: BlobArgs,
    /// Leave out sources and artifacts, where something else keeps copies of them
    #[arg(long)]
    no_blobs: bool,
}

#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The file to read
    file: PathBuf,
    /// The data folder to make; it must be empty
    #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

pub fn run(command: Command, json: bool) -> anyhow::Result<ExitCode> {
    let told = match command {
        Command::Create(args) => create(args),
        Command::Restore(args) => restore(args),
    }?;
    if json {
        println!("{told}");
    }
    Ok(ExitCode::SUCCESS)
}

fn create(args: Create) -> anyhow::Result<Value> {
    let data = Data::choose(args.data)?;
    let kept = Kept::of_chore(&data, args.database, args.place.asked()?)?;
    let database = kept.store(&data)?.place;
    let shown =
        kept.blobs.as_ref().map_or(data.blobs().display().to_string(), KeptBlobs::to_string);
    let parent = args.file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = tempfile::Builder::new().prefix(".insula-backup").tempdir_in(parent)?;
    let copy = scratch.path().join(DATABASE);
    insula_store::backup(&database, &copy).context("copy the database")?;
    let unfinished = scratch.path().join("archive");
    let file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let mut archive = Builder::new(file);
    archive.follow_symlinks(false);
    let mut header = Header::new_gnu();
    header.set_size(MARK_TEXT.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, MARK, MARK_TEXT.as_bytes())?;
    archive.append_path_with_name(&copy, DATABASE)?;
    // After the database: whatever the copy refers to was there before, and stays for a day.
    let blobs = if args.no_blobs {
        None
    } else {
        let packed = pack_blobs(&mut archive, config(&data, kept.blobs), scratch.path());
        Some(packed.with_context(|| format!("pack the blobs of {shown}"))?)
    };
    let mut file = archive.into_inner()?;
    file.flush()?;
    file.sync_all()?;
    // Never over somebody's file.
    std::fs::hard_link(&unfinished, &args.file)
        .with_context(|| format!("put the backup at {}", args.file.display()))?;
    insula_kit::files::sync_folder(parent)?;
    let file = args.file.display();
    match blobs {
        Some(count) => {
            eprintln!("{file} holds the state of {database} and {count} blobs of {shown}.")
        }
        None => eprintln!(
            "{file} holds the state of {database} and none of the blobs, which are in {shown}: copy \
             them now, after the database, by what copies that place. Apps need them after a restore."
        ),
    }
    eprintln!(
        "It does not hold {}: keep a copy of that elsewhere, or the secrets in the backup stay sealed.",
        data.master_key().display()
    );
    let (database, count) = (database.to_string(), blobs.unwrap_or(0));
    let at = blobs.map(|_| shown);
    Ok(json!({"file": args.file, "database": database, "blobs": count, "blobs_of": at}))
}

/// How many there are.
fn pack_blobs(
    archive: &mut Builder<File>,
    from: BlobConfig,
    scratch: &Path,
) -> anyhow::Result<usize> {
    let under = Path::new(BLOBS).join(OBJECTS);
    match from {
        BlobConfig::Directory { path } => {
            // A disk that is not mounted is not a place without blobs.
            let from = path.join(OBJECTS);
            append_blobs(archive, &from, &under).with_context(|| {
                format!("read {} (--no-blobs makes a backup without them)", from.display())
            })
        }
        BlobConfig::S3(mut s3) => {
            // The server of this folder has one of its own.
            s3.spool = scratch.join("spool");
            let blobs = Blobs::open(BlobConfig::S3(s3))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(fetch_blobs(archive, &blobs, &under, scratch))
        }
    }
}

/// Blobs that another machine keeps, as a directory would have them.
async fn fetch_blobs(
    archive: &mut Builder<File>,
    blobs: &Blobs,
    under: &Path,
    scratch: &Path,
) -> anyhow::Result<usize> {
    let store = Store::open(StoreConfig::new(scratch.join(DATABASE)))?;
    let mut count = 0;
    for org in all_orgs(&store).await? {
        for kind in Kind::ALL {
            let shelf = Shelf::new(org, kind);
            let listed = blobs.list(shelf).map_err(anyhow::Error::from);
            let fetched = listed
                .map_ok(|Listed { digest, .. }| fetch(blobs, shelf, digest, scratch))
                .try_buffer_unordered(FETCHED_AT_ONCE);
            let mut fetched = std::pin::pin!(fetched);
            while let Some(blob) = fetched.try_next().await? {
                let Some((digest, mut blob)) = blob else { continue };
                let hex = digest.hex();
                let name = under.join(shelf.to_string()).join(&hex[..2]).join(&hex);
                archive.append_file(name, &mut blob)?;
                count += 1;
            }
        }
    }
    Ok(count)
}

/// An archive tells a file's size before its bytes, so it is here first. Nothing if it was collected
/// meanwhile.
async fn fetch(
    blobs: &Blobs,
    shelf: Shelf,
    digest: Digest,
    scratch: &Path,
) -> anyhow::Result<Option<(Digest, File)>> {
    let mut bytes = match blobs.get_stream(shelf, digest).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut file = tempfile::tempfile_in(scratch)?;
    while let Some(piece) = bytes.try_next().await? {
        file.write_all(&piece)?;
    }
    file.rewind()?;
    Ok(Some((digest, file)))
}

fn append_blobs(archive: &mut Builder<File>, from: &Path, under: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = under.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            count += append_blobs(archive, &entry.path(), &name)?;
        } else if kind.is_file() {
            match File::open(entry.path()) {
                Ok(mut blob) => {
                    archive.append_file(&name, &mut blob)?;
                    count += 1;
                }
                // A blob that was collected meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(count)
}

fn restore(args: Restore) -> anyhow::Result<Value> {
    let data = Data::choose(args.data)?;
    let file = File::open(&args.file).with_context(|| format!("read {}", args.file.display()))?;
    // State of its own, or word of where it is instead: the server would go on with that.
    if [data.database(), data.kept(), data.used()].iter().any(|path| path.exists()) {
        bail!("{} holds state already; restore into an empty folder", data.root().display());
    }
    data.prepare()?;
    let _lock = data.hold()?;
    let mut archive = tar::Archive::new(file);
    let mut entries = archive.entries()?;
    let first = entries.next().transpose()?;
    if first.is_none_or(|e| e.path().map_or(true, |p| p != Path::new(MARK))) {
        bail!("{} is not a backup of Insula", args.file.display());
    }
    let scratch = tempfile::Builder::new().prefix("restore").tempdir_in(data.root())?;
    let mut count = 0_u64;
    for entry in entries {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || !entry.header().entry_type().is_file() {
            bail!(
                "{} holds `{}`, which no backup of ours does",
                args.file.display(),
                path.display()
            );
        }
        let to = if path == Path::new(DATABASE) {
            scratch.path().join(DATABASE)
        } else if path.starts_with(BLOBS) {
            count += 1;
            scratch.path().join(&path)
        } else {
            bail!(
                "{} holds `{}`, which no backup of ours does",
                args.file.display(),
                path.display()
            );
        };
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut out = File::options().write(true).create_new(true).mode(0o600).open(&to)?;
        io::copy(&mut entry, &mut out).with_context(|| format!("write {}", to.display()))?;
        out.sync_all()?;
    }
    // Blobs first: what the database names must be there. A restore that failed before this point
    // has left nothing, and one that fails here is repeated whole.
    let blobs = scratch.path().join(BLOBS);
    if blobs.exists() {
        match std::fs::remove_dir_all(data.blobs()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        std::fs::rename(&blobs, data.blobs()).context("put the blobs into place")?;
    }
    insula_store::restore(&scratch.path().join(DATABASE), &data.database())
        .context("restore the database")?;
    if count == 0 {
        eprintln!(
            "The backup holds no blobs. If there were any, bring the copy of them to {}, or start the \
             server with --blobs or --s3-bucket where they are: without them no app starts.",
            data.blobs().join(OBJECTS).display()
        );
    }
    eprintln!(
        "Restored into {}. Put the master key of the old folder at {} before `insula up`; without \
         it the secrets stay sealed: `insula master-key new` makes another then, and they are set again.",
        data.root().display(),
        data.master_key().display()
    );
    Ok(json!({"data": data.root(), "blobs": count}))
}

#[cfg(test)]
mod tests {
    use insula_blobs::Stored;
    use insula_model::tenancy::{Org, Quota};
    use insula_model::{OrgId, Timestamp};
    use insula_store::orgs;

    use super::*;

    const ORG: OrgId = OrgId::from_u128(7);

    /// A data folder with one org, and what `args` says of a backup of it.
    fn installation(folder: &Path) -> (Data, Create) {
        let data = Data::at(&folder.join("data")).unwrap();
        data.prepare().unwrap();
        let store = Store::open(StoreConfig::new(data.database())).unwrap();
        let created = Timestamp::from_millis(0);
        let org = Org { id: ORG, name: "acme".parse().unwrap(), quota: Quota::default(), created };
        store.write_blocking(move |tx| orgs::create(tx, &org)).unwrap();
        let create = Create {
            file: folder.join("backup.tar"),
            data: Some(data.root().into()),
            database: None,
            place: BlobArgs::default(),
            no_blobs: false,
        };
        (data, create)
    }

    fn put(config: BlobConfig, text: &'static str) -> Stored {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let shelf = Shelf::new(ORG, Kind::Artifact);
        let blobs = Blobs::open(config).unwrap();
        runtime.block_on(blobs.put_bytes(shelf, text.as_bytes().to_vec().into())).unwrap()
    }

    fn has(data: &Data, stored: Stored) -> bool {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let blobs = Blobs::open(BlobConfig::Directory { path: data.blobs() }).unwrap();
        let verified = blobs.verify(Shelf::new(ORG, Kind::Artifact), stored.digest);
        runtime.block_on(verified).is_ok_and(|size| size == stored.size)
    }

    fn restored(folder: &Path, file: &Path) -> (Data, Value) {
        let data = Data::at(&folder.join("restored")).unwrap();
        let told = restore(Restore { file: file.into(), data: Some(data.root().into()) }).unwrap();
        (data, told)
    }

    #[test]
    fn blobs_are_packed_from_where_they_are_and_not_from_where_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let (data, create_args) = installation(folder.path());
        let file = create_args.file.clone();
        let old = put(BlobConfig::Directory { path: data.blobs() }, "of long ago");
        let path = folder.path().join("elsewhere");
        let new = put(BlobConfig::Directory { path: path.clone() }, "of today");
        let blobs = Some(KeptBlobs::Directory { path });
        Kept { database: None, blobs }.write(&data).unwrap();
        assert_eq!(create(create_args).unwrap()["blobs"], 1);
        let (restored, told) = restored(folder.path(), &file);
        assert_eq!(told["blobs"], 1);
        assert!(has(&restored, new) && !has(&restored, old));
        let store = Store::open(StoreConfig::new(restored.database())).unwrap();
        assert_eq!(store.read_blocking(orgs::count).unwrap(), 1);
    }

    #[test]
    fn a_place_that_is_not_there_makes_no_backup_and_no_blobs_makes_one_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (data, mut args) = installation(folder.path());
        let file = args.file.clone();
        let blobs = Some(KeptBlobs::Directory { path: folder.path().join("not-mounted") });
        Kept { database: None, blobs }.write(&data).unwrap();
        let again = Create {
            data: args.data.clone(),
            file: file.clone(),
            database: None,
            place: BlobArgs::default(),
            no_blobs: true,
        };
        args.no_blobs = false;
        let error = format!("{:#}", create(args).unwrap_err());
        assert!(error.contains("not-mounted") && error.contains("--no-blobs"), "{error}");
        assert!(!file.exists());
        assert_eq!(create(again).unwrap()["blobs_of"], Value::Null);
        assert_eq!(restored(folder.path(), &file).1["blobs"], 0);
    }

    #[test]
    fn nothing_is_restored_beside_state_that_is_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let (data, args) = installation(folder.path());
        put(BlobConfig::Directory { path: data.blobs() }, "a blob");
        let file = args.file.clone();
        create(args).unwrap();
        let other = Data::at(&folder.path().join("other")).unwrap();
        other.prepare().unwrap();
        let database = Some("postgres://db/insula".to_owned());
        Kept { database, blobs: None }.write(&other).unwrap();
        let refused = restore(Restore { file, data: Some(other.root().into()) });
        assert!(refused.unwrap_err().to_string().contains("holds state already"));
        assert!(!other.database().exists());
    }
}
