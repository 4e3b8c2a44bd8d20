//! `insula backup`: the platform's own state in one file, and back.
//!
//! An archive holds the database and, when they are kept in the data folder, the blobs. It holds no
//! key: without the master key, secrets in it stay sealed.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::data::Data;

/// The first entry of an archive: says what it is before anything is unpacked.
const MARK: &str = "insula-backup";
const MARK_TEXT: &str = "1\n";
const DATABASE: &str = "insula.db";
const BLOBS: &str = "blobs";
/// What a directory of blobs keeps of them; the rest is uploads that are not whole yet.
const OBJECTS: &str = "objects";

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
    /// Leave out sources and artifacts (when an S3 keeps them, they are not here anyway)
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
        Command::Create(args) => create(&args),
        Command::Restore(args) => restore(&args),
    }?;
    if json {
        println!("{told}");
    }
    Ok(ExitCode::SUCCESS)
}

fn create(args: &Create) -> anyhow::Result<Value> {
    let data = Data::choose(args.data.clone())?;
    if !data.database().exists() {
        bail!("{} holds no state of Insula", data.root().display());
    }
    let parent = args.file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = tempfile::Builder::new().prefix(".insula-backup").tempdir_in(parent)?;
    let copy = scratch.path().join(DATABASE);
    insula_store::backup(&data.database(), &copy).context("copy the database")?;
    let unfinished = scratch.path().join("archive");
    let file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let mut archive = tar::Builder::new(file);
    archive.follow_symlinks(false);
    let mut header = tar::Header::new_gnu();
    header.set_size(MARK_TEXT.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, MARK, MARK_TEXT.as_bytes())?;
    archive.append_path_with_name(&copy, DATABASE)?;
    let mut blobs = 0;
    let kept = data.blobs().join(OBJECTS);
    if !args.no_blobs && kept.exists() {
        // After the database: whatever the copy refers to was there before, and stays for a day.
        blobs = append_blobs(&mut archive, &kept, &Path::new(BLOBS).join(OBJECTS))?;
    }
    let mut file = archive.into_inner()?;
    file.flush()?;
    file.sync_all()?;
    // Never over somebody's file.
    std::fs::hard_link(&unfinished, &args.file)
        .with_context(|| format!("put the backup at {}", args.file.display()))?;
    insula_kit::files::sync_folder(parent)?;
    eprintln!(
        "{} holds the database and {blobs} blobs. It does not hold {}: keep a copy of that \
         elsewhere, or the secrets in the backup stay sealed.",
        args.file.display(),
        data.master_key().display()
    );
    Ok(json!({"file": args.file, "blobs": blobs}))
}

fn append_blobs(
    archive: &mut tar::Builder<File>,
    from: &Path,
    under: &Path,
) -> anyhow::Result<usize> {
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

fn restore(args: &Restore) -> anyhow::Result<Value> {
    let data = Data::choose(args.data.clone())?;
    let file = File::open(&args.file).with_context(|| format!("read {}", args.file.display()))?;
    if data.database().exists() {
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
    eprintln!(
        "Restored into {}. Put the master key of the old folder at {} before `insula up`; without \
         it the secrets stay sealed: `insula master-key new` makes another then, and they are set again.",
        data.root().display(),
        data.master_key().display()
    );
    Ok(json!({"data": data.root()}))
}
