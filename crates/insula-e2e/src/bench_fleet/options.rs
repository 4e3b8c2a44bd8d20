//! How long and how often to measure. The defaults are those of the published figures.

use std::time::Duration;

use anyhow::{Context, Result, bail};

#[derive(Debug, Clone)]
pub struct Options {
    rounds: Option<usize>,
    nodes: Option<usize>,
    connections: Option<usize>,
    seconds: Option<u64>,
}

impl Options {
    /// `[PART] [--rounds N] [--nodes N] [--connections N] [--seconds N]`
    pub fn read(mut args: impl Iterator<Item = String>) -> Result<(Option<String>, Self)> {
        let mut part = None;
        let mut options = Self { rounds: None, nodes: None, connections: None, seconds: None };
        while let Some(arg) = args.next() {
            let mut number = || -> Result<usize> {
                let given = args.next().with_context(|| format!("{arg} N"))?;
                let number: usize = given.parse().with_context(|| format!("{arg} {given}"))?;
                if number == 0 {
                    bail!("{arg} 0 measures nothing");
                }
                Ok(number)
            };
            match arg.as_str() {
                "--rounds" => options.rounds = Some(number()?),
                "--nodes" => options.nodes = Some(number()?),
                "--connections" => options.connections = Some(number()?),
                "--seconds" => options.seconds = Some(number()? as u64),
                _ if part.is_none() && !arg.starts_with('-') => part = Some(arg),
                _ => bail!("{arg}? known: --rounds, --nodes, --connections, --seconds N"),
            }
        }
        Ok((part, options))
    }

    /// What was asked for, as it was written.
    pub fn said(&self) -> String {
        let given = |name: &str, value: Option<u64>| {
            value.map_or_else(String::new, |value| format!(" --{name} {value}"))
        };
        let count = |value: Option<usize>| value.map(|value| value as u64);
        given("rounds", count(self.rounds))
            + &given("nodes", count(self.nodes))
            + &given("connections", count(self.connections))
            + &given("seconds", self.seconds)
    }

    pub fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(usual)
    }

    pub fn nodes(&self, usual: usize) -> usize {
        self.nodes.unwrap_or(usual)
    }

    /// Nothing if each part shall choose.
    pub fn connections(&self) -> Option<usize> {
        self.connections
    }

    pub fn span(&self, usual: Duration) -> Duration {
        self.seconds.map_or(usual, Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<(Option<String>, Options)> {
        Options::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_is_not_said_is_as_usual_and_what_was_said_can_be_said_again() {
        let (part, options) = read("loss --rounds 3").unwrap();
        assert_eq!((part.as_deref(), options.rounds(50), options.nodes(7)), (Some("loss"), 3, 7));
        assert_eq!(options.said(), " --rounds 3");
        let (part, options) = read("--seconds 5 --connections 2").unwrap();
        assert_eq!((part, options.said()), (None, " --connections 2 --seconds 5".to_owned()));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["loss leader", "--rounds", "--rounds 0", "--rounds x", "--speed 1"] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
