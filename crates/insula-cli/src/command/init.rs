//! `insula init`: writes down which app a folder is.

use std::path::PathBuf;

use crate::Global;
use crate::app_name;
use crate::context::Local;
use crate::credentials::SignIn;
use crate::failure::{Exit, Failure, Outcome};
use crate::project_file::{self, ProjectFile};
use crate::settings;
use crate::show::Terminal;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Replace what is written there without asking
    #[arg(long, short)]
    yes: bool,
}

pub fn run(args: &Args, global: &Global, terminal: &Terminal) -> Outcome {
    if !args.path.is_dir() {
        return Err(Failure::usage(format!("{} is not a folder", args.path.display())));
    }
    let folder = std::path::absolute(&args.path)
        .map_err(|error| Failure::because("find the folder", &error))?;
    let local = Local::read(global, &folder)?;
    let server = settings::server_to_sign_in(settings::Sources {
        project: &ProjectFile::default(),
        ..local.sources(global)
    })?;
    let org = local.saved.of(&server).and_then(SignIn::only_org);
    let place = settings::place(global, &ProjectFile::default(), org);
    let file = ProjectFile {
        // This machine is another one for everybody else who has the folder.
        server: (!server.is_loopback()).then(|| server.to_string()),
        org: Some(place.org),
        project: Some(place.project),
        env: Some(place.env),
        app: Some(place.app.unwrap_or_else(|| app_name::of_folder(&folder).to_string())),
    };
    let path = project_file::path_in(&folder);
    if path.exists() && project_file::find(&folder).ok().flatten().as_ref() != Some(&file) {
        terminal.confirm(&format!("this replaces {}", path.display()), args.yes)?;
    }
    project_file::store(&folder, &file)?;
    if terminal.json {
        terminal.print_json(&file)?;
    } else {
        terminal.print(&format!("{}\n", path.display()))?;
    }
    terminal.say("next: insula deploy");
    Ok(Exit::OK)
}
