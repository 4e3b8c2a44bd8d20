//! `insula vars`: plain values that apps see in their environment.

use std::collections::BTreeMap;
use std::io::Read;

use insula_model::VariableName;
use insula_wire::rest::config::{ChangeVariables, Variable};

use super::config::{self, Change, Scope};
use crate::context::{Cx, Guess};
use crate::failure::{Failure, Outcome};
use crate::show::Table;

/// Twice what a value may have; the server says by how much it is too long.
const STDIN_BYTES_MAX: u64 = 128 * 1024;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List variables (what `insula vars` alone does)
    List {
        /// Only those of this scope [default: all that the app gets]
        #[arg(long, value_enum)]
        scope: Option<Scope>,
    },
    /// Set variables and deploy what is live anew with them
    Set {
        /// KEY=VALUE; KEY=- reads the value from stdin
        #[arg(required = true, value_name = "KEY=VALUE")]
        values: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Unset variables and deploy what is live anew without them
    Unset {
        /// As in DATABASE_URL
        #[arg(required = true, value_name = "KEY")]
        names: Vec<VariableName>,
        #[command(flatten)]
        change: Change,
    },
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    match args.verb.unwrap_or(Verb::List { scope: None }) {
        Verb::List { scope } => {
            let targets = match scope {
                Some(scope) => vec![config::target(cx, scope, "variables", Guess::Harmless).await?],
                None => config::targets(cx, "variables").await?,
            };
            let mut all: Vec<Variable> = Vec::new();
            for target in targets {
                all.extend(cx.client().whole::<Variable>(&target).await?);
            }
            cx.terminal.list(&all, "no variables; set one: insula vars set KEY=VALUE", |all| {
                let mut table = Table::new(&["NAME", "SCOPE", "VALUE"]);
                for one in all {
                    table.row([one.name.to_string(), one.scope.clone(), one.value.clone()]);
                }
                table
            })
        }
        Verb::Set { values, change } => {
            let set = parse(&values, || read_stdin("a variable"))?;
            let body = ChangeVariables { set, unset: Vec::new() };
            config::change(cx, &change, "variables", &body).await
        }
        Verb::Unset { names, change } => {
            let body = ChangeVariables { set: BTreeMap::new(), unset: names };
            config::change(cx, &change, "variables", &body).await
        }
    }
}

fn parse(
    values: &[String],
    mut stdin: impl FnMut() -> Result<String, Failure>,
) -> Result<BTreeMap<VariableName, String>, Failure> {
    let mut set = BTreeMap::new();
    let mut was_read = false;
    for text in values {
        let Some((name, value)) = text.split_once('=') else {
            return Err(Failure::usage(format!("`{text}` has no value")).hint("write KEY=VALUE"));
        };
        let name: VariableName = name.parse()?;
        let value = match value {
            "-" if std::mem::replace(&mut was_read, true) => {
                return Err(Failure::usage("stdin has one value only"));
            }
            "-" => stdin()?,
            value => value.to_owned(),
        };
        if set.insert(name.clone(), value).is_some() {
            return Err(Failure::usage(format!("{name} is given twice")));
        }
    }
    Ok(set)
}

/// All of stdin, without the line end that `echo` adds.
pub fn read_stdin(what: &str) -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(STDIN_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::because(format!("read {what} from stdin"), &error))?;
    if text.len() as u64 > STDIN_BYTES_MAX {
        return Err(Failure::usage(format!("{what} of more than {STDIN_BYTES_MAX} bytes")));
    }
    let text = text.strip_suffix('\n').map(str::to_owned).unwrap_or(text);
    Ok(text.strip_suffix('\r').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(values: &[&str]) -> String {
        let values: Vec<String> = values.iter().map(|text| (*text).to_owned()).collect();
        match parse(&values, || Ok("from stdin".into())) {
            Ok(set) => set.iter().map(|(name, value)| format!("{name}:{value} ")).collect(),
            Err(failure) => format!("{}: {}", failure.exit.0, failure.message),
        }
    }

    #[test]
    fn values_may_hold_anything_names_may_not() {
        assert_eq!(told(&["B=", "A=x=y z"]), "A:x=y z B: ");
        assert_eq!(told(&["A=-"]), "A:from stdin ");
        assert_eq!(told(&["A=-", "B=-"]), "2: stdin has one value only");
        assert_eq!(told(&["A=1", "A=2"]), "2: A is given twice");
        assert_eq!(told(&["A"]), "2: `A` has no value");
        assert!(told(&["a-b=1"]).starts_with("2: "));
    }
}
