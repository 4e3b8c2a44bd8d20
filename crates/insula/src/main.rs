//! One binary: parse, start roles, supervise. No logic lives here.

mod data;
mod doctor;
mod down;
mod hidden;
mod kept;
mod own_node;
mod parse;
mod role;
mod supervise;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set for a role that `up` started: the supervisor's pid, so that the role ends with it.
pub const SUPERVISOR: &str = "INSULA_SUPERVISOR";
/// And where to leave what it ended of, for the supervisor to tell.
pub const LAST_WORDS: &str = "INSULA_LAST_WORDS";

#[derive(Debug, Parser)]
#[command(
    name = "insula",
    version,
    about = "Push a folder, get a URL: a cloud on your own machines."
)]
#[command(arg_required_else_help = true, propagate_version = true)]
struct Insula {
    #[command(flatten)]
    global: insula_cli::Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every role on this machine: server, agent and gateway
    Up(up::Args),
    /// Stop whatever a data folder still runs, and leave nothing behind
    Down(down::Args),
    /// Say, line by line, what this machine can enforce and how to mend what it cannot
    Doctor(doctor::Args),
    /// Run the API and the control plane
    Server(role::server::Args),
    /// Run a node: builds, sandboxes, probes, logs
    Agent(role::agent::Args),
    /// Run the edge: routes and balancing
    Gateway(role::gateway::Args),
    /// Back up and restore the platform's own state
    #[command(subcommand)]
    Backup(role::backup::Command),
    /// Make another key for the secrets, while nothing runs
    #[command(subcommand)]
    MasterKey(role::master_key::Command),
    /// Move the platform's state to PostgreSQL and S3, or back, while apps run
    Migrate(role::migrate::Args),
    #[command(flatten)]
    User(insula_cli::Command),
}

fn main() -> ExitCode {
    // Before anything that allocates threads or reads configuration: the sandbox's launcher.
    if let Some(code) = hidden::dispatch() {
        return code;
    }
    let parsed = match parse::parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            let _ = error.print();
            // 0 for help and version, 2 for a mistake.
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match parsed.command {
        Command::Up(args) => up::run(args),
        Command::Down(args) => down::run(&args, parsed.global.json),
        Command::Doctor(args) => doctor::run(&args),
        Command::Server(args) => role::server::run(args),
        Command::Agent(args) => role::agent::run(args),
        Command::Gateway(args) => role::gateway::run(args),
        Command::Backup(command) => role::backup::run(command, parsed.global.json),
        Command::Migrate(args) => role::migrate::run(args, parsed.global.json),
        Command::MasterKey(command) => role::master_key::run(command, parsed.global.json),
        Command::User(command) => return insula_cli::run(parsed.global, command),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("insula: {error:#}");
            if let Some(path) = std::env::var_os(LAST_WORDS) {
                // It stands on stderr as well.
                let _ = std::fs::write(path, format!("{error:#}"));
            }
            ExitCode::FAILURE
        }
    }
}
