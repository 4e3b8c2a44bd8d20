//! The commands, one file each: arguments, what is asked of the API, how the answer is shown.

mod apps;
mod cancel;
mod config;
mod deploy;
mod deployments;
mod domains;
mod envs;
mod events;
mod explain;
mod gateways;
mod init;
mod invitations;
mod login;
mod logout;
mod logs;
mod members;
mod nodes;
mod open;
mod orgs;
mod password;
mod power;
mod projects;
mod ps;
mod releases;
mod restart;
mod rollback;
mod routes;
mod run;
mod runs;
mod runtimes;
mod scale;
mod secrets;
mod status;
mod tokens;
mod unrouted;
mod vars;
mod whoami;
mod why;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use insula_model::release::ReleaseNumber;

use crate::Global;
use crate::context::{Cx, Local};
use crate::failure::{Exit, Failure, Outcome, words};
use crate::settings;
use crate::show::Terminal;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Sign in to a server, and remember it
    Login(login::Args),
    /// Sign out, and forget it
    Logout(logout::Args),
    /// Show whom the credential stands for
    Whoami(whoami::Args),
    /// Change one's password
    Password(password::Args),
    /// Write down which org, project, environment and app a folder belongs to
    Init(init::Args),
    /// Deploy a folder; ends with the URL, or with the cause and exit code 1
    Deploy(deploy::Args),
    /// Print where the app answers, and open it in a browser
    Open(open::Args),
    /// List, make, show and delete apps
    Apps(apps::Args),
    /// List, make, show and delete projects
    Projects(projects::Args),
    /// List, make, show and delete environments of a project
    Envs(envs::Args),
    /// List, make, show and delete orgs; their usage, quota and key
    Orgs(orgs::Args),
    /// List members of the org, change their roles, take them out
    Members(members::Args),
    /// Invite people to the org, and accept an invitation
    Invitations(invitations::Args),
    /// List, make, show and revoke tokens of the org
    Tokens(tokens::Args),
    /// Show the app's releases, or one of them
    Releases(releases::Args),
    /// Show the app's deployments, or one of them
    Deployments(deployments::Args),
    /// Go back to an earlier release
    Rollback(rollback::Args),
    /// End a deployment that is under way
    Cancel(cancel::Args),
    /// Show the app's instances
    Ps(ps::Args),
    /// Set how many instances of each component run
    Scale(scale::Args),
    /// Replace all instances with new ones, new ones first
    Restart(restart::Args),
    /// Stop the app until it is started again
    Stop(power::Args),
    /// Start what was stopped
    Start(power::Args),
    /// Show what the app's instances, or a build, wrote
    Logs(logs::Args),
    /// Run a job, or a command in a copy of a component; returns its exit code
    Run(run::Args),
    /// Show the app's runs, or one of them
    Runs(runs::Args),
    /// List, set and unset variables
    Vars(vars::Args),
    /// List, set and unset secrets
    Secrets(secrets::Args),
    /// List, add and remove host names of the app
    Domains(domains::Args),
    /// Show which hosts and paths lead to which components
    Routes(routes::Args),
    /// List nodes, let them join, cordon, drain and remove them (the operator)
    Nodes(nodes::Args),
    /// List and remove gateways that joined from elsewhere (the operator)
    Gateways(gateways::Args),
    /// Show what happened
    Events(events::Args),
    /// Explain why an app, a deployment, an instance, a run or a node is as it is
    Why(why::Args),
    /// Show how the installation is, and what the org uses
    Status(status::Args),
    /// List what apps can be written in
    Runtimes(runtimes::Args),
    /// Show the page of an error code
    Explain(explain::Args),
}

/// Runs a command to its end and says how it went.
pub fn run(global: Global, command: Command) -> ExitCode {
    let json = global.json;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(dispatch(global, command));
            // A thread that reads a large file must not hold up the end.
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
    let folder = match &command {
        Command::Deploy(args) => args.path.clone(),
        _ => PathBuf::from("."),
    };
    match perform(global.clone(), command, folder.clone()).await {
        // It was looked for in an org that nobody has named.
        Err(failure) if failure.exit == Exit::NOT_FOUND && failure.hint.is_none() => {
            Err(with_orgs(failure, &global, &folder))
        }
        outcome => outcome,
    }
}

fn with_orgs(failure: Failure, global: &Global, folder: &Path) -> Failure {
    let Ok(local) = Local::read(global, folder) else { return failure };
    match settings::which_org(local.sources(global)) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

async fn perform(global: Global, command: Command, folder: PathBuf) -> Outcome {
    let terminal = Terminal::of_this_process(global.json);
    let start = Start { global, terminal, folder };
    match command {
        // These come before there is anybody to ask.
        Command::Login(args) => login::run(args, start.global, start.terminal).await,
        Command::Logout(args) => logout::run(args, start.global, start.terminal).await,
        Command::Init(args) => init::run(&args, &start.global, &start.terminal),
        Command::Explain(args) => explain::run(&args, &start.terminal),
        Command::Invitations(args) => {
            let cx = if args.is_for_strangers() { start.for_strangers()? } else { start.cx()? };
            invitations::run(args, &cx).await
        }
        Command::Whoami(args) => whoami::run(args, &start.cx()?).await,
        Command::Password(args) => password::run(args, &start.cx()?).await,
        Command::Deploy(args) => Box::pin(deploy::run(args, &start.cx()?)).await,
        Command::Open(args) => open::run(args, &start.cx()?).await,
        Command::Apps(args) => apps::run(args, &start.cx()?).await,
        Command::Projects(args) => projects::run(args, &start.cx()?).await,
        Command::Envs(args) => envs::run(args, &start.cx()?).await,
        Command::Orgs(args) => orgs::run(args, &start.cx()?).await,
        Command::Members(args) => members::run(args, &start.cx()?).await,
        Command::Tokens(args) => tokens::run(args, &start.cx()?).await,
        Command::Releases(args) => releases::run(args, &start.cx()?).await,
        Command::Deployments(args) => deployments::run(args, &start.cx()?).await,
        Command::Rollback(args) => Box::pin(rollback::run(args, &start.cx()?)).await,
        Command::Cancel(args) => cancel::run(args, &start.cx()?).await,
        Command::Ps(args) => ps::run(args, &start.cx()?).await,
        Command::Scale(args) => scale::run(args, &start.cx()?).await,
        Command::Restart(args) => Box::pin(restart::run(args, &start.cx()?)).await,
        Command::Stop(args) => power::stop(args, &start.cx()?).await,
        Command::Start(args) => power::start(args, &start.cx()?).await,
        Command::Logs(args) => Box::pin(logs::run(args, &start.cx()?)).await,
        Command::Run(args) => Box::pin(run::run(args, &start.cx()?)).await,
        Command::Runs(args) => runs::run(args, &start.cx()?).await,
        Command::Vars(args) => Box::pin(vars::run(args, &start.cx()?)).await,
        Command::Secrets(args) => Box::pin(secrets::run(args, &start.cx()?)).await,
        Command::Domains(args) => domains::run(args, &start.cx()?).await,
        Command::Routes(args) => routes::run(args, &start.cx()?).await,
        Command::Nodes(args) => Box::pin(nodes::run(args, &start.cx()?)).await,
        Command::Gateways(args) => gateways::run(args, &start.cx()?).await,
        Command::Events(args) => Box::pin(events::run(args, &start.cx()?)).await,
        Command::Why(args) => why::run(args, &start.cx()?).await,
        Command::Status(args) => status::run(args, &start.cx()?).await,
        Command::Runtimes(args) => runtimes::run(args, &start.cx()?).await,
    }
}

/// What every command begins with.
struct Start {
    global: Global,
    terminal: Terminal,
    /// The folder that the command is about.
    folder: PathBuf,
}

impl Start {
    fn cx(self) -> Result<Cx, Failure> {
        Cx::new(self.global, self.terminal, &self.folder)
    }

    fn for_strangers(self) -> Result<Cx, Failure> {
        Cx::for_strangers(self.global, self.terminal, &self.folder)
    }
}

/// Used where a command has nothing to show.
fn done(cx: &Cx, text: &str) -> Outcome {
    if cx.terminal.json {
        // A program that reads an answer finds one.
        cx.terminal.print_json(&serde_json::json!({}))?;
    }
    cx.terminal.say(text);
    Ok(Exit::OK)
}

/// Of nouns that are listed or shown: nothing and `list` list, `NAME` and `show NAME` show.
fn named(words: Vec<String>) -> Result<Option<String>, Failure> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["list"] => Ok(None),
        [name] | ["show", name] if *name != "show" => Ok(Some((*name).to_owned())),
        _ => Err(Failure::usage(format!("`{}` is not understood", words.join(" ")))
            .hint("write `list`, `show NAME`, or the name alone")),
    }
}

/// `v3`, or `3`.
fn release_number(text: &str) -> Result<ReleaseNumber, String> {
    let digits = text.strip_prefix('v').unwrap_or(text);
    match digits.parse() {
        Ok(number) if number > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(ReleaseNumber(number))
        }
        Ok(_) | Err(_) => Err(format!("`{text}` is no release: write it as v3")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noun_is_listed_or_shown() {
        let told = |line: &str| named(line.split_whitespace().map(str::to_owned).collect());
        assert_eq!(told(""), Ok(None));
        assert_eq!(told("list"), Ok(None));
        assert_eq!(told("v3"), Ok(Some("v3".into())));
        assert_eq!(told("show v3"), Ok(Some("v3".into())));
        assert!(told("show").is_err() && told("v3 v4").is_err());
    }

    #[test]
    fn a_release_is_a_number_with_or_without_its_letter() {
        assert_eq!(release_number("v3"), Ok(ReleaseNumber(3)));
        assert_eq!(release_number("12"), Ok(ReleaseNumber(12)));
        for wrong in ["", "v", "v0", "vv1", "+1", "-1", "3.0", "latest"] {
            assert!(release_number(wrong).is_err(), "{wrong}");
        }
    }
}
