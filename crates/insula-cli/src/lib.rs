//! The user's commands: what is typed, sent and shown.
//!
//! One file per command under `command/`: its arguments, what it asks the API, how the answer is
//! shown. `failure` alone turns what went wrong into words and an exit code. Nothing here decides
//! anything about an app: the same HTTP API is open to every program.

mod app_name;
mod client;
mod command;
mod context;
mod credentials;
mod failure;
mod place;
mod project_file;
mod settings;
mod show;
mod when;

use std::path::PathBuf;
use std::process::ExitCode;

pub use command::Command;
pub use place::default_data_folder;

/// Flags that every command takes, and their variables.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Address of the server's API, as in https://cloud.example.com
    #[arg(long, global = true, env = "INSULA_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Credential; better in the variable than on the command line, where others can see it
    #[arg(long, global = true, env = "INSULA_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Org, by name or id [default: default]
    #[arg(long, global = true, env = "INSULA_ORG", value_name = "ORG")]
    pub org: Option<String>,
    /// Project [default: default]
    #[arg(long, global = true, env = "INSULA_PROJECT", value_name = "PROJECT")]
    pub project: Option<String>,
    /// Environment [default: production]
    #[arg(long, global = true, env = "INSULA_ENV", value_name = "ENV")]
    pub env: Option<String>,
    /// App, by name or id [default: what the folder says]
    #[arg(long, global = true, env = "INSULA_APP", value_name = "APP")]
    pub app: Option<String>,
    /// Data folder of an installation on this machine, for the operator's credential
    #[arg(long, global = true, env = "INSULA_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true, env = "INSULA_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    pub json: bool,
    /// Talk plain HTTP to a server that is not on this machine: anybody in between reads along
    #[arg(long, global = true, env = "INSULA_INSECURE_HTTP", value_parser = clap::builder::FalseyValueParser::new())]
    pub insecure_http: bool,
}

/// Runs one command to its end.
pub fn run(global: Global, command: Command) -> ExitCode {
    command::run(global, command)
}
