//! `insula secrets`: values that go in and are never shown again.
//!
//! They are read from the terminal without being shown, or from stdin; never from the command
//! line, where every user of the machine and the shell's history would see them.

use std::collections::BTreeMap;

use insula_model::VariableName;
use insula_wire::rest::config::{ChangeSecrets, Secret};
use insula_wire::rest::page::Hidden;

use super::config::{self, Change, Scope};
use super::vars::read_stdin;
use crate::context::{Cx, Guess};
use crate::failure::{Failure, Outcome};
use crate::show::{Table, units};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List secrets, without their values (what `insula secrets` alone does)
    List {
        /// Only those of this scope [default: all that the app gets]
        #[arg(long, value_enum)]
        scope: Option<Scope>,
    },
    /// Set secrets and deploy what is live anew with them
    Set {
        /// KEY asks for the value; KEY=- reads it from stdin
        #[arg(required = true, value_name = "KEY|KEY=-")]
        names: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Unset secrets for good, and deploy what is live anew without them
    Unset {
        /// As in DATABASE_URL
        #[arg(required = true, value_name = "KEY")]
        names: Vec<VariableName>,
        #[command(flatten)]
        change: Change,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    match args.verb.unwrap_or(Verb::List { scope: None }) {
        Verb::List { scope } => {
            let targets = match scope {
                Some(scope) => vec![config::target(cx, scope, "secrets", Guess::Harmless).await?],
                None => config::targets(cx, "secrets").await?,
            };
            let mut all: Vec<Secret> = Vec::new();
            for target in targets {
                all.extend(cx.client().whole::<Secret>(&target).await?);
            }
            cx.terminal.list(&all, "no secrets; set one: insula secrets set KEY", |all| {
                let now = units::now();
                let mut table = Table::new(&["NAME", "SCOPE", "VERSION", "UPDATED"]);
                for one in all {
                    table.row([
                        one.name.to_string(),
                        one.scope.clone(),
                        one.version.to_string(),
                        format!("{} ago", units::age(one.updated, now)),
                    ]);
                }
                table
            })
        }
        Verb::Set { names, change } => {
            let mut set = BTreeMap::new();
            let names = parse(&names)?;
            let one_from_stdin = names.len() == 1 && !cx.terminal.can_ask();
            for (name, from_stdin) in names {
                let value = if from_stdin || one_from_stdin {
                    read_stdin("a secret")?
                } else if cx.terminal.can_ask() {
                    cx.terminal.ask(&format!("{name}: "), true)?
                } else {
                    return Err(Failure::usage(format!("nobody is there to ask for {name}"))
                        .hint(format!("pipe the value in: insula secrets set {name}=-")));
                };
                set.insert(name, Hidden(value));
            }
            let body = ChangeSecrets { set, unset: Vec::new() };
            config::change(cx, &change, "secrets", &body).await
        }
        Verb::Unset { names, change, yes } => {
            let list: Vec<_> = names.iter().map(ToString::to_string).collect();
            let what = format!("this forgets {}; nobody can read it back", list.join(", "));
            cx.terminal.confirm(&what, yes)?;
            let body = ChangeSecrets { set: BTreeMap::new(), unset: names };
            config::change(cx, &change, "secrets", &body).await
        }
    }
}

/// The names, and which one comes from stdin.
fn parse(names: &[String]) -> Result<BTreeMap<VariableName, bool>, Failure> {
    let mut parsed = BTreeMap::new();
    for text in names {
        let (name, from_stdin) = match text.split_once('=') {
            None => (text.as_str(), false),
            Some((name, "-")) => (name, true),
            Some((name, _)) => {
                // The value is not repeated here.
                return Err(Failure::usage(
                    "a secret on the command line is seen by every user of this machine",
                )
                .hint(format!(
                    "insula secrets set {name} asks for it; {name}=- reads it from stdin"
                )));
            }
        };
        if from_stdin && parsed.values().any(|other| *other) {
            return Err(Failure::usage("stdin has one value only"));
        }
        let name: VariableName = name.parse()?;
        if parsed.insert(name.clone(), from_stdin).is_some() {
            return Err(Failure::usage(format!("{name} is given twice")));
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(names: &[&str]) -> Result<usize, Failure> {
        let names: Vec<String> = names.iter().map(|text| (*text).to_owned()).collect();
        parse(&names).map(|parsed| parsed.len())
    }

    #[test]
    fn a_secret_is_not_taken_from_the_command_line_nor_repeated() {
        let failure = told(&["KEY=hunter2"]).unwrap_err();
        assert!(!format!("{failure:?}").contains("hunter2"));
        assert_eq!(failure.exit.0, 2);
        assert_eq!(told(&["A", "B=-"]).unwrap(), 2);
        assert!(told(&["A=-", "B=-"]).is_err() && told(&["A", "A"]).is_err());
    }
}
