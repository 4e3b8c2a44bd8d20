//! The terminal, or what stands in its place: who reads, how wide, in which colours.
//!
//! Data goes to stdout and everything else to stderr. The only place of the crate that writes to
//! either, so that it can keep a line with progress out of their way.

use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::Table;
use super::paint::Paint;
use crate::failure::{Exit, Failure, Outcome};

const WIDTH_DEFAULT: usize = 100;
/// Back to the beginning of the line, and nothing on it.
const ERASE: &str = "\r\x1b[K";

#[derive(Debug)]
pub struct Terminal {
    out_is_terminal: bool,
    err_is_terminal: bool,
    /// Whether somebody can be asked.
    can_ask: bool,
    width: Option<usize>,
    out_paint: Paint,
    err_paint: Paint,
    pub json: bool,
    /// Whether a line with progress stands on the terminal now.
    live: Mutex<bool>,
}

/// Whether colours may be used at all: <https://no-color.org>.
fn colours_wanted(env: impl Fn(&str) -> Option<OsString>) -> bool {
    env("NO_COLOR").is_none_or(|value| value.is_empty())
        && env("TERM").is_none_or(|value| value != "dumb")
}

impl Terminal {
    pub fn of_this_process(json: bool) -> Self {
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let colours = colours_wanted(|name| std::env::var_os(name));
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let width = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let width = width.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
        Self {
            out_is_terminal: out,
            err_is_terminal: err && !dumb,
            can_ask: io::stdin().is_terminal() && err,
            width: out.then(|| width.unwrap_or(WIDTH_DEFAULT)),
            out_paint: Paint::new(out && colours && !json),
            err_paint: Paint::new(err && colours),
            json,
            live: Mutex::new(false),
        }
    }

    pub fn out_is_terminal(&self) -> bool {
        self.out_is_terminal
    }
    pub fn err_is_terminal(&self) -> bool {
        self.err_is_terminal
    }
    pub fn can_ask(&self) -> bool {
        self.can_ask
    }
    pub fn out_paint(&self) -> Paint {
        self.out_paint
    }
    pub fn err_paint(&self) -> Paint {
        self.err_paint
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn erase(live: &mut bool) {
        if std::mem::take(live) {
            let _ = io::stderr().write_all(ERASE.as_bytes());
        }
    }

    /// Data, as it is.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let mut live = self.lock();
        Self::erase(&mut live);
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            // `| head` has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::silently()),
            Err(error) => Err(Failure::because("write to stdout", &error)),
        }
    }

    /// One document.
    pub fn print_json<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let mut text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::because("write JSON", &error))?;
        text.push('\n');
        self.print(&text)
    }

    /// One document of many, on a line of its own.
    pub fn print_json_line<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let mut text =
            serde_json::to_string(value).map_err(|error| Failure::because("write JSON", &error))?;
        text.push('\n');
        self.print(&text)
    }

    pub fn print_table(&self, table: &Table) -> Result<(), Failure> {
        self.print(&table.render(self.out_paint, self.width))
    }

    /// The answer of most commands: the value as JSON, or as `render` shows it.
    pub fn answer<T: Serialize>(&self, value: &T, render: impl FnOnce(Paint) -> String) -> Outcome {
        if self.json {
            self.print_json(value)?;
        } else {
            self.print(&render(self.out_paint))?;
        }
        Ok(Exit::OK)
    }

    /// A list: as a JSON array, or as a table; `nothing` is said where there is none.
    pub fn list<T: Serialize>(
        &self,
        items: &[T],
        nothing: &str,
        table: impl FnOnce(&[T]) -> Table,
    ) -> Outcome {
        if self.json {
            self.print_json(&items)?;
        } else if items.is_empty() {
            self.say(nothing);
        } else {
            self.print_table(&table(items))?;
        }
        Ok(Exit::OK)
    }

    /// A line for people.
    pub fn say(&self, text: &str) {
        let mut live = self.lock();
        Self::erase(&mut live);
        // Nobody is left to tell that nobody is left to read.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// A line that is replaced by whatever comes next; nothing where there is no terminal.
    pub fn progress(&self, text: &str) {
        if !self.err_is_terminal {
            return;
        }
        let mut live = self.lock();
        let columns = rustix::termios::tcgetwinsize(io::stderr())
            .map_or(WIDTH_DEFAULT, |size| usize::from(size.ws_col).max(1));
        let cut: String = text.chars().take(columns.saturating_sub(1)).collect();
        let mut err = io::stderr();
        let _ = write!(err, "{ERASE}{}", self.err_paint.dim(&cut)).and_then(|()| err.flush());
        *live = true;
    }

    pub fn end_progress(&self) {
        Self::erase(&mut self.lock());
    }

    /// Asks for one line, or reads it from a pipe; what is typed is not shown if it is `hidden`.
    pub fn ask(&self, question: &str, hidden: bool) -> Result<String, Failure> {
        let mut live = self.lock();
        Self::erase(&mut live);
        if self.can_ask {
            let _ = write!(io::stderr(), "{question}").and_then(|()| io::stderr().flush());
        }
        let quiet = if hidden && self.can_ask { Some(Quiet::begin()?) } else { None };
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        if quiet.is_some() {
            let _ = writeln!(io::stderr());
        }
        drop(quiet);
        read.map_err(|error| Failure::because("read from stdin", &error))?;
        let line = line.strip_suffix('\n').unwrap_or(&line);
        Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
    }

    /// Says what is about to be done, and goes on only with a yes.
    pub fn confirm(&self, what: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        if !self.can_ask {
            return Err(Failure::usage(format!("{what}: nobody is there to say yes"))
                .hint("give --yes if it is meant"));
        }
        let answer = self.ask(&format!("{what}\ngo on? [y/N] "), false)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::failed("nothing was done")),
        }
    }
}

/// Nothing that is typed is shown while this lives.
struct Quiet {
    before: rustix::termios::Termios,
}

impl Quiet {
    fn begin() -> Result<Self, Failure> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let failed = |error: rustix::io::Errno| {
            Failure::because("hide what is typed", &io::Error::from(error))
        };
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_left_out_where_they_are_not_wanted() {
        let with = |pairs: &'static [(&'static str, &'static str)]| {
            colours_wanted(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
            })
        };
        assert!(with(&[]));
        assert!(with(&[("NO_COLOR", "")]));
        assert!(!with(&[("NO_COLOR", "1")]));
        assert!(!with(&[("TERM", "dumb")]));
    }
}
