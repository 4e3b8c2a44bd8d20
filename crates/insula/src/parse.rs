//! What the command line says.
//!
//! The user's flags are for every command that asks a server. The platform's own commands ask none,
//! and some have flags of the same names with another meaning: `--server` of an agent is a server of
//! the fleet, not the API's URL. clap hands the value of a flag that every command takes to whatever
//! has its name below, so a variable of the user's (`INSULA_SERVER`) must not count there, and a flag
//! of the user's in front of such a command is refused.

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use crate::Insula;

/// Those that read nothing of the user's but where the data is.
const ROLES: [&str; 5] = ["up", "server", "agent", "gateway", "doctor"];
/// Likewise, and they can answer in JSON.
const CHORES: [&str; 4] = ["down", "backup", "master-key", "migrate"];

/// The arguments of this process.
pub fn parse() -> Result<Insula, clap::Error> {
    from(std::env::args_os().collect())
}

fn from(args: Vec<OsString>) -> Result<Insula, clap::Error> {
    let first = args.get(1).and_then(|first| first.to_str()).map(str::to_owned);
    let mut matches = command(first.as_deref()).try_get_matches_from(&args)?;
    // Flags may stand in front of the command.
    let named = matches.subcommand_name().map(str::to_owned);
    if named != first && named.as_deref().is_some_and(is_ours) {
        let mut ours = command(named.as_deref());
        matches = ours.try_get_matches_from_mut(&args)?;
        refuse_users(&mut ours, &matches, named.as_deref().unwrap_or_default())?;
    }
    Insula::from_arg_matches(&matches)
}

/// What stands in front of one of ours and means nothing to it, or something else than behind it.
fn refuse_users(
    ours: &mut clap::Command,
    matches: &ArgMatches,
    named: &str,
) -> Result<(), clap::Error> {
    let is_said = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let said =
        ours.get_arguments().find(|flag| flag.is_hide_set() && is_said(flag.get_id().as_str()));
    let Some(flag) = said.and_then(clap::Arg::get_long).map(str::to_owned) else { return Ok(()) };
    let has_its_own = ours
        .find_subcommand(named)
        .is_some_and(|command| command.get_arguments().any(|own| own.get_long() == Some(&flag)));
    let mut words = format!("--{flag} in front of `{named}` is a flag of the user's commands");
    if has_its_own {
        words.push_str(&format!("; write `insula {named} --{flag} …`"));
    }
    Err(ours.error(ErrorKind::ArgumentConflict, words))
}

fn is_ours(name: &str) -> bool {
    ROLES.contains(&name) || CHORES.contains(&name)
}

/// The definition, without what means nothing to the command of this name.
fn command(named: Option<&str>) -> clap::Command {
    let whole = Insula::command();
    let Some(named) = named.filter(|name| is_ours(name)) else { return whole };
    let kept: &[&str] = if CHORES.contains(&named) { &["data", "json"] } else { &["data"] };
    whole.mut_args(|argument| {
        if !argument.is_global_set() || kept.contains(&argument.get_id().as_str()) {
            return argument;
        }
        argument.env(Resettable::Reset).hide(true).global(false)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;

    fn ours() -> impl Iterator<Item = &'static str> {
        ROLES.into_iter().chain(CHORES)
    }

    fn line(text: &str) -> Result<Insula, clap::Error> {
        from(text.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn the_definition_holds_together_whatever_is_left_out() {
        for named in std::iter::once(None).chain(ours().map(Some)) {
            command(named).debug_assert();
        }
        let defined = Insula::command();
        for name in ours() {
            assert!(defined.find_subcommand(name).is_some(), "there is no `{name}`");
        }
    }

    #[test]
    fn no_variable_of_the_users_counts_for_a_command_of_the_platform() {
        let variables = |command: &clap::Command| -> Vec<String> {
            let flags = command.get_arguments().filter(|flag| flag.is_global_set());
            flags.filter_map(|flag| Some(flag.get_env()?.to_str()?.to_owned())).collect()
        };
        assert!(variables(&command(Some("deploy"))).contains(&"INSULA_SERVER".to_owned()));
        assert_eq!(variables(&command(Some("agent"))), ["INSULA_DATA"]);
        assert_eq!(variables(&command(Some("backup"))), ["INSULA_DATA", "INSULA_JSON"]);
    }

    #[test]
    fn the_help_of_a_role_is_about_the_role() {
        for name in ours() {
            let help = line(&format!("insula {name} --help")).unwrap_err().to_string();
            for users in ["--org", "--project", "--insecure-http", "INSULA_TOKEN"] {
                assert!(!help.contains(users), "`{name}` speaks of {users}:\n{help}");
            }
        }
        for (name, says) in [("agent", "HOST:PORT"), ("gateway", "HOST:PORT"), ("up", "--fleet")] {
            let help = line(&format!("insula {name} --help")).unwrap_err().to_string();
            assert!(help.contains(says), "`{name}` does not speak of {says}:\n{help}");
        }
        let help = line("insula apps list --help").unwrap_err().to_string();
        assert!(help.contains("--org") && help.contains("INSULA_SERVER"));
    }

    #[test]
    fn flags_may_stand_in_front() {
        for text in ["insula --data /x agent --server a:1,b:2", "insula agent --server a:1,b:2"] {
            let parsed = line(text).unwrap();
            assert!(matches!(parsed.command, Command::Agent(_)), "{text}");
        }
        assert!(line("insula --json backup create /x.tar").unwrap().global.json);
        assert!(line("insula --server http://a:1 apps list").unwrap().global.server.is_some());
    }

    #[test]
    fn a_users_flag_in_front_of_a_command_of_the_platform_is_refused_and_not_misread() {
        for (text, says) in [
            ("insula --server http://a:1 agent", "write `insula agent --server …`"),
            ("insula --token t gateway", "write `insula gateway --token …`"),
            ("insula --server http://a:1 agent --server b:2", "write `insula agent --server …`"),
            ("insula --org acme up", "--org in front of `up` is a flag of the user's"),
            ("insula --insecure-http server", "--insecure-http in front of `server`"),
            ("insula agent --org acme", "unexpected argument '--org'"),
        ] {
            let error = line(text).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}");
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
        // What is an argument of another command is no command.
        assert!(line("insula --org agent apps list").is_ok());
    }
}
