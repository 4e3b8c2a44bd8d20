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
mod local;
mod place;
mod project_file;
mod settings;
mod show;
mod when;

use std::path::PathBuf;
use std::process::ExitCode;

pub use command::Command;
pub use local::{Local, LocalError};
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
    /// Org, by name or id [default: the only one of the sign-in, else default]
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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser, Subcommand};

    use super::*;

    /// As the binary does it: our commands beside its own, which have a --data and a --json, too.
    #[derive(Debug, Parser)]
    #[command(name = "insula")]
    struct Binary {
        #[command(flatten)]
        global: Global,
        #[command(subcommand)]
        command: All,
    }

    #[derive(Debug, clap::Subcommand)]
    enum All {
        Up(Up),
        #[command(flatten)]
        User(Command),
    }

    #[derive(Debug, clap::Args)]
    struct Up {
        #[arg(long, env = "INSULA_DATA", value_name = "DIR")]
        data: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    }

    fn parse(line: &str) -> Result<Binary, clap::Error> {
        Binary::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_holds_together() {
        Binary::command().debug_assert();
    }

    /// clap gives a flag that every command takes to whatever has its name: a NAME that is called
    /// `token` would become the credential.
    #[test]
    fn no_argument_takes_the_place_of_a_global_flag() {
        fn check(command: &clap::Command, global: &clap::Command, looked_at: &mut usize) {
            for argument in command.get_arguments() {
                *looked_at += 1;
                let taken = global.get_arguments().find(|flag| flag.get_id() == argument.get_id());
                let same = taken.is_none_or(|flag| flag.get_long() == argument.get_long());
                assert!(same, "{} of `{}`", argument.get_id(), command.get_name());
            }
            for below in command.get_subcommands() {
                check(below, global, looked_at);
            }
        }
        let global = <Global as clap::Args>::augment_args(clap::Command::new("insula"));
        let ours = Command::augment_subcommands(clap::Command::new("insula"));
        let mut looked_at = 0;
        check(&ours, &global, &mut looked_at);
        assert!(looked_at > 50, "{looked_at} were looked at");
    }

    #[test]
    fn every_command_and_every_argument_of_it_is_explained() {
        fn check(command: &clap::Command, lacks: &mut Vec<String>) {
            if command.get_about().is_none() {
                lacks.push(command.get_name().to_owned());
            }
            for argument in command.get_arguments().filter(|one| one.get_help().is_none()) {
                lacks.push(format!("{} of {}", argument.get_id(), command.get_name()));
            }
            command.get_subcommands().for_each(|below| check(below, lacks));
        }
        let ours = Command::augment_subcommands(clap::Command::new("insula"));
        let mut lacks = Vec::new();
        ours.get_subcommands().for_each(|command| check(command, &mut lacks));
        assert!(lacks.is_empty(), "without a word: {}", lacks.join(", "));
    }

    #[test]
    fn a_name_is_no_flag() {
        for line in [
            "insula tokens show x",
            "insula tokens delete x --yes",
            "insula orgs delete x",
            "insula projects show x",
            "insula apps delete x",
        ] {
            let told = format!("{:?}", parse(line).unwrap().global);
            assert_eq!(told, format!("{:?}", parse("insula whoami").unwrap().global), "{line}");
        }
    }

    #[test]
    fn flags_of_the_binary_s_own_commands_do_not_clash_with_ours() {
        for line in ["insula up --data /x --json", "insula --data /x --json up"] {
            let parsed = parse(line).unwrap();
            assert!(
                matches!(&parsed.command, All::Up(up) if up.json && up.data == Some("/x".into())),
                "{line}: {parsed:?}"
            );
        }
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in ["insula --app a --json ps", "insula ps --app a --json"] {
            let parsed = parse(line).unwrap();
            assert_eq!((parsed.global.app.as_deref(), parsed.global.json), (Some("a"), true));
        }
    }

    #[test]
    fn every_line_of_the_guide_is_understood() {
        let guide = include_str!("../../../docs/cli.md");
        let mut lines = 0;
        for line in guide.lines().filter(|line| line.starts_with("insula ")) {
            let line = line.split("  #").next().unwrap_or(line).trim();
            // The binary's own.
            let own = [
                "up",
                "down",
                "doctor",
                "server",
                "agent",
                "gateway",
                "backup",
                "migrate",
                "master-key",
            ];
            if own.iter().any(|name| line.split(' ').nth(1) == Some(name)) {
                continue;
            }
            lines += 1;
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
        assert!(lines > 60, "{lines} lines were looked at");
    }

    /// Hints that name a command which is not there would be worse than none.
    #[test]
    fn every_command_that_a_page_names_is_there() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        let mut named = 0;
        for page in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(page.unwrap().path()).unwrap();
            for line in text.split('`').filter(|quoted| quoted.starts_with("insula ")) {
                // A command that is named without what it takes counts as named.
                let Some(name) = line.split(' ').nth(1) else { continue };
                let ours = Command::augment_subcommands(clap::Command::new("insula"));
                let own = [
                    "up",
                    "down",
                    "doctor",
                    "server",
                    "agent",
                    "gateway",
                    "backup",
                    "migrate",
                    "master-key",
                ];
                if own.contains(&name) {
                    continue;
                }
                named += 1;
                assert!(ours.find_subcommand(name).is_some(), "{line}");
                let verb = line.split(' ').nth(2).filter(|verb| !verb.starts_with(['-', '…']));
                let subcommands = ours.find_subcommand(name).unwrap();
                if let (Some(verb), true) = (verb, subcommands.has_subcommands()) {
                    assert!(subcommands.find_subcommand(verb).is_some(), "{line}");
                }
            }
        }
        assert!(named > 10, "{named} were named");
    }

    #[test]
    fn what_is_not_understood_is_a_usage_error() {
        for line in [
            "insula",
            "insula nonsense",
            "insula scale web",
            "insula rollback latest",
            "insula nodes site n1",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_command_after_two_dashes_is_taken_as_it_is() {
        let parsed = parse("insula run --component web -- ls -la --json").unwrap();
        assert!(!parsed.global.json, "{parsed:?}");
    }
}
