//! The commands, one file each: arguments, what is asked of the API, how the answer is shown.

mod apps;
mod deploy;
mod logs;
mod ps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::Global;
use crate::context::Cx;
use crate::failure::{Exit, Failure, Outcome, words};
use crate::show::Terminal;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Deploy a folder; ends with the URL, or with the cause and exit code 1
    Deploy(deploy::Args),
    /// List, make, show and delete apps
    Apps(apps::Args),
    /// Show an app's instances
    Ps(ps::Args),
    /// Show what an app's instances wrote
    Logs(logs::Args),
}

/// Runs a command to its end and says how it went.
pub fn run(global: Global, command: Command) -> ExitCode {
    let json = global.json;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(dispatch(global, command));
            // Somebody may sit at a read of stdin that never ends.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::because("start", &error)),
    };
    let exit = match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            let terminal = Terminal::of_this_process(json);
            if !failure.silent {
                terminal.say(words(&failure, terminal.err_paint()).trim_end());
            }
            failure.exit
        }
    };
    ExitCode::from(exit.0)
}

async fn dispatch(global: Global, command: Command) -> Outcome {
    let terminal = Terminal::of_this_process(global.json);
    let folder = match &command {
        Command::Deploy(args) => args.path.clone(),
        _ => PathBuf::from("."),
    };
    let cx = |global| Cx::new(global, terminal, Path::new(&folder));
    match command {
        Command::Deploy(args) => deploy::run(args, &cx(global)?).await,
        Command::Apps(args) => apps::run(args, &cx(global)?).await,
        Command::Ps(args) => ps::run(args, &cx(global)?).await,
        Command::Logs(args) => logs::run(args, &cx(global)?).await,
    }
}

/// Used where a command has nothing more to say.
fn done(cx: &Cx, text: &str) -> Outcome {
    cx.terminal.say(text);
    Ok(Exit::OK)
}
