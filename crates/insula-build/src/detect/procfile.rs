//! From the processes of a `Procfile` to components.

use std::collections::BTreeMap;

use insula_model::spec::{ComponentKind, ComponentSpec, RouteSpec, Runtime};
use insula_model::{ComponentName, names::excerpt};

use super::{Cx, WEB, guess, runtime_of_command};
use crate::problem::Problem;
use crate::procfile::{self, PROCFILE, Process};
use crate::source::Folder;

/// Kinds of Piku whose value is not a command: a module, a folder, a configuration.
const PIKU_KINDS: &[&str] = &["wsgi", "jwsgi", "rwsgi", "php", "static"];

pub fn components(
    cx: &mut Cx<'_>,
    top: Folder<'_>,
) -> Option<BTreeMap<ComponentName, ComponentSpec>> {
    let processes = read(cx, top)?;
    let declared = guess::declared_runtimes(top);
    let mut components = BTreeMap::new();
    let mut lines: BTreeMap<ComponentName, usize> = BTreeMap::new();
    for process in &processes {
        if let Some(why) = left_out(process) {
            cx.warn(why);
            continue;
        }
        let Some(name) = name_of(cx, process) else { continue };
        if let Some(line) = lines.insert(name.clone(), process.line) {
            let message = format!("`{}` has the same name as line {line}: `{name}`", process.kind);
            refuse(cx, process, message, "choose names that differ in more than case and _");
            continue;
        }
        components.insert(name, component(process, &declared));
    }
    if components.is_empty() && cx.problems.is_empty() {
        let message = "there is no process to run in it";
        cx.refuse(
            Problem::new(message)
                .in_file(PROCFILE)
                .fix("add a line as in `web: ./serve --port $PORT`"),
        );
    }
    for runtime in declared {
        cx.install(runtime, top.root());
    }
    for component in components.values() {
        cx.ask_version(component.runtime, top.root());
    }
    Some(components)
}

/// The processes of a folder's `Procfile`; mistakes go on the list.
pub fn read(cx: &mut Cx<'_>, folder: Folder<'_>) -> Option<Vec<Process>> {
    let text = cx.required_text(folder, PROCFILE)?;
    match procfile::parse(text) {
        Ok(processes) => Some(processes),
        Err(problems) => {
            for mut problem in problems.into_vec() {
                problem.file = Some(folder.path(PROCFILE));
                cx.refuse(problem);
            }
            None
        }
    }
}

fn component(process: &Process, declared: &[Runtime]) -> ComponentSpec {
    let kind = if process.kind == WEB { ComponentKind::Service } else { ComponentKind::Worker };
    let mut spec = ComponentSpec::of_kind(kind);
    spec.runtime = match declared {
        [one] => *one,
        _ => runtime_of_command(&process.command).unwrap_or(Runtime::Host),
    };
    spec.run = Some(process.command.clone());
    if kind == ComponentKind::Service {
        spec.routes = vec![RouteSpec { path: "/".into(), preserve: false }];
    }
    spec
}

/// Why a line is not run, in words; nothing if it is.
fn left_out(process: &Process) -> Option<String> {
    let Process { kind, command, line } = process;
    if kind == "release" {
        return Some(format!(
            "{PROCFILE}:{line}: `release` is not run yet; run it by hand for now"
        ));
    }
    if PIKU_KINDS.contains(&kind.as_str()) && !command.contains(char::is_whitespace) {
        return Some(format!("{PROCFILE}:{line}: `{kind}` is a kind of Piku's and is not run"));
    }
    if kind.starts_with("cron") && has_schedule(command) {
        return Some(format!(
            "{PROCFILE}:{line}: schedules are not available yet; `{kind}` is not run"
        ));
    }
    None
}

/// Whether the command begins with the five fields of a crontab.
fn has_schedule(command: &str) -> bool {
    let field = |word: &str| word.bytes().all(|b| b.is_ascii_digit() || b"*/,-".contains(&b));
    let words: Vec<&str> = command.split_whitespace().take(5).collect();
    words.len() == 5 && words.into_iter().all(field)
}

/// Types may be written in ways that no DNS name can be.
fn name_of(cx: &mut Cx<'_>, process: &Process) -> Option<ComponentName> {
    let plain = process.kind.to_ascii_lowercase().replace('_', "-");
    match plain.parse::<ComponentName>() {
        Ok(name) => {
            if name.as_str() != process.kind {
                let line = process.line;
                cx.warn(format!("{PROCFILE}:{line}: `{}` is called `{name}` here", process.kind));
            }
            Some(name)
        }
        Err(error) => {
            refuse(cx, process, error.to_string(), "rename it");
            None
        }
    }
}

fn refuse(cx: &mut Cx<'_>, process: &Process, message: String, fix: &str) {
    cx.refuse(
        Problem::new(message)
            .in_file(PROCFILE)
            .at_line(Some(process.line))
            .of_key(excerpt(&process.kind))
            .fix(fix),
    );
}
