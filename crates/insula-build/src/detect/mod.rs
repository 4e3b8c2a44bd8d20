//! From a source to what runs: its spec, its build plan, and what is worth telling. Pure.
//!
//! `insula.toml` has the first word, then a `Procfile`, then what the files look like. Whatever is
//! seen and not honoured is a warning; whatever is wrong is a problem, and all of them come at once.
//! Whether a node has the runtime is not known here (see `runtime`).

mod described;
mod files;
mod foreign;
mod guess;
mod node;
mod procfile;
mod python;
mod stratus;
mod version;

use std::collections::{BTreeMap, BTreeSet};

use insula_model::build::{BuildPlan, BuildStep};
use insula_model::spec::{AppSpec, ComponentKind, ComponentSpec, RouteSpec, Runtime};
use insula_model::{AppName, Bytes, ComponentName};

use crate::problem::{Problem, Problems};
use crate::procfile::PROCFILE;
use crate::source::{Folder, SourceView, Text, WANTED_LEN_MAX};
use crate::spec_file::SPEC_FILE;

/// What is found without a description has one component, with the name that Heroku taught.
const WEB: &str = "web";
/// Beyond this the source is hostile, and looking on would only cost.
const PROBLEMS_COLLECTED_MAX: usize = 500;
/// Warnings are read by people.
const WARNINGS_MAX: usize = 50;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// What the source calls itself.
    pub app: Option<AppName>,
    pub spec: AppSpec,
    pub plan: BuildPlan,
    /// The same as in the plan, which is stored and ends in the build's log: show one of them.
    pub warnings: Vec<String>,
}

pub fn detect(view: &SourceView) -> Result<Detected, Problems> {
    if view.is_empty() {
        return Err(Problem::new("the folder is empty")
            .fix("deploy a folder with an index.html, a main.py, a package.json or a Procfile")
            .into());
    }
    let mut cx = Cx::new(view);
    let spec = describe(&mut cx);
    // In the order of the lines, as people go through a file.
    cx.problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Problems::check(cx.problems)?;
    // Without a problem there is a spec; this says so to the compiler, and to people if it is not.
    let spec = spec.ok_or_else(|| Problem::new("nothing to run was found"))?;
    cx.warnings.truncate(WARNINGS_MAX);
    Ok(Detected {
        app: spec.app.clone(),
        spec,
        plan: BuildPlan { steps: cx.steps, warnings: cx.warnings.clone() },
        warnings: cx.warnings,
    })
}

fn describe(cx: &mut Cx<'_>) -> Option<AppSpec> {
    let top = cx.view.at("");
    let written = match cx.required_text(top, SPEC_FILE) {
        Some(text) => {
            let (file, problems) = crate::spec_file::parse_what_is_right(text);
            cx.problems = problems;
            Some(file)
        }
        None if top.has(SPEC_FILE) => return None,
        None => None,
    };
    // What is missing may only be missing because it could not be read.
    if !cx.problems.is_empty() && written.as_ref().is_some_and(|file| file.components.is_empty()) {
        return None;
    }
    foreign::warn(cx, top);
    let app = written.as_ref().and_then(|file| file.app.clone());
    let components = match written {
        Some(file) if !file.components.is_empty() => described::components(cx, &file)?,
        Some(_) | None => found(cx, top)?,
    };
    Some(AppSpec { app, components })
}

/// The components of a source that does not describe them.
fn found(cx: &mut Cx<'_>, top: Folder<'_>) -> Option<BTreeMap<ComponentName, ComponentSpec>> {
    if top.has(PROCFILE) {
        if top.has(stratus::SCRIPT) {
            cx.warn(format!("{} is not run: there is a {PROCFILE}", stratus::SCRIPT));
        }
        return procfile::components(cx, top);
    }
    let guess = match stratus::guess(cx, top) {
        Some(guess) => guess,
        None => guess::guess(cx, top)?,
    };
    guess.install(cx);
    let mut spec = ComponentSpec::of_kind(guess.kind);
    spec.runtime = guess.runtime;
    spec.run = guess.run;
    spec.root = guess.root;
    spec.routes = vec![RouteSpec { path: "/".into(), preserve: false }];
    Some(BTreeMap::from([(component_name(WEB)?, spec)]))
}

/// What one folder looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Guess {
    kind: ComponentKind,
    runtime: Runtime,
    run: Option<String>,
    root: String,
    /// What is installed for it, and in which folder.
    installs: Option<(Runtime, String)>,
}

impl Guess {
    fn install(&self, cx: &mut Cx<'_>) {
        if let Some((runtime, root)) = &self.installs {
            cx.install(*runtime, root);
        }
    }
}

/// What detection has gathered so far.
struct Cx<'a> {
    view: &'a SourceView,
    warnings: Vec<String>,
    problems: Vec<Problem>,
    steps: Vec<BuildStep>,
    installed: BTreeSet<(Runtime, String)>,
    /// For which runtime, and in which folder, a version was looked for.
    asked: BTreeSet<(Runtime, String)>,
}

impl<'a> Cx<'a> {
    fn new(view: &'a SourceView) -> Self {
        Self {
            view,
            warnings: Vec::new(),
            problems: Vec::new(),
            steps: Vec::new(),
            installed: BTreeSet::new(),
            asked: BTreeSet::new(),
        }
    }

    fn warn(&mut self, warning: impl Into<String>) {
        let warning = warning.into();
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    fn refuse(&mut self, problem: Problem) {
        if self.problems.len() <= PROBLEMS_COLLECTED_MAX && !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// The text of a file that decides something: being there and not readable is a problem.
    fn required_text<'f>(&mut self, folder: Folder<'f>, name: &str) -> Option<&'f str> {
        let problem = match folder.text(name) {
            Text::Read(text) => return Some(text),
            Text::Absent => return None,
            Text::Binary => Problem::new("this is not UTF-8 text").fix("save it as UTF-8"),
            Text::TooLarge(size) => {
                let message =
                    format!("{} is more than the {WANTED_LEN_MAX} it may have", Bytes(size));
                Problem::new(message).fix("shorten it")
            }
            Text::NotRead => Problem::new("this cannot be read: it is a link, or too deep")
                .fix("put the file itself there"),
        };
        self.refuse(problem.in_file(&folder.path(name)));
        None
    }

    /// Tells when a folder asks for a version of its own; once, whatever is installed.
    fn ask_version(&mut self, runtime: Runtime, root: &str) {
        if !self.asked.insert((runtime, root.to_owned())) {
            return;
        }
        let view = self.view;
        match runtime {
            Runtime::Python => version::warn_python(self, view.at(root)),
            Runtime::Node => version::warn_node(self, view.at(root)),
            Runtime::Files | Runtime::Host => {}
        }
    }

    /// Adds the steps that install what a folder asks for; once, however many components share it.
    fn install(&mut self, runtime: Runtime, root: &str) {
        if !self.installed.insert((runtime, root.to_owned())) {
            return;
        }
        self.ask_version(runtime, root);
        let view = self.view;
        let folder = view.at(root);
        match runtime {
            Runtime::Python => {
                let steps = python::install(self, folder);
                self.steps.extend(steps);
            }
            Runtime::Node => {
                let steps = node::install(self, folder);
                self.steps.extend(steps);
            }
            Runtime::Files | Runtime::Host => {}
        }
    }
}

/// A name that we made, or that was checked; nothing if it is none after all.
fn component_name(name: &str) -> Option<ComponentName> {
    name.parse().ok()
}

/// A word for a shell line that a person may read and copy. Our own shells never see it: the line
/// is run inside the tenant's sandbox, and still a file's name must stay one word.
fn shell_word(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// The runtime that a command plainly names, for sources that have nothing to install.
fn runtime_of_command(command: &str) -> Option<Runtime> {
    let words = command.split_whitespace();
    // `FOO=bar exec python3 main.py` starts python3.
    let mut words =
        words.skip_while(|word| *word == "exec" || *word == "env" || word.contains('='));
    let word = words.next()?;
    let name = word.rsplit_once('/').map_or(word, |(_, name)| name);
    let python = name
        .strip_prefix("python")
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    if python || ["gunicorn", "uvicorn", "hypercorn", "waitress-serve", "celery"].contains(&name) {
        Some(Runtime::Python)
    } else if ["node", "npm", "npx"].contains(&name) {
        Some(Runtime::Node)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_stays_one_word() {
        assert_eq!(shell_word("src/main.js"), "src/main.js");
        assert_eq!(shell_word("a b; rm -rf ~"), "'a b; rm -rf ~'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn a_command_names_its_runtime() {
        for (command, runtime) in [
            ("python3 main.py", Some(Runtime::Python)),
            ("python3.11 -m http.server", Some(Runtime::Python)),
            ("exec .venv/bin/gunicorn a:b", Some(Runtime::Python)),
            ("DEBUG=1 node server.js", Some(Runtime::Node)),
            ("pythonic", None),
            ("./serve", None),
            ("", None),
        ] {
            assert_eq!(runtime_of_command(command), runtime, "{command}");
        }
    }
}
