//! The components of an `insula.toml`, completed from the source.

use std::collections::BTreeMap;

use insula_model::ComponentName;
use insula_model::names::excerpt;
use insula_model::spec::{ComponentKind, ComponentSpec, RouteSpec, Runtime};

use super::{Cx, WEB, files, guess, node, procfile, python, runtime_of_command};
use crate::problem::Problem;
use crate::procfile::PROCFILE;
use crate::source::Folder;
use crate::spec_file::{Component, SPEC_FILE, SpecFile};

pub fn components(
    cx: &mut Cx<'_>,
    file: &SpecFile,
) -> Option<BTreeMap<ComponentName, ComponentSpec>> {
    let mut specs = BTreeMap::new();
    for (name, written) in &file.components {
        let mut one = One { name, written };
        if let Some(spec) = one.complete(cx) {
            specs.insert(name.clone(), spec);
        }
    }
    refuse_doubled_routes(cx, file);
    default_route(file, &mut specs);
    Some(specs)
}

/// One component, while it is completed.
struct One<'c> {
    name: &'c ComponentName,
    written: &'c Component,
}

impl One<'_> {
    fn refuse(&self, cx: &mut Cx<'_>, key: &str, message: impl Into<String>, fix: &str) {
        let line = match self.written.lines.get(key) {
            Some(line) => *line,
            None => self.written.line,
        };
        let path = match key {
            "" => format!("components.{}", self.name),
            key => format!("components.{}.{key}", self.name),
        };
        let problem = Problem::new(message).in_file(SPEC_FILE).at_line(line).of_key(path);
        cx.refuse(problem.fix(fix));
    }

    fn complete(&mut self, cx: &mut Cx<'_>) -> Option<ComponentSpec> {
        let root = self.written.root.clone().unwrap_or_default();
        let view = cx.view;
        let folder = view.at(&root);
        let kind = self.kind(folder);
        if self.written.kind.is_some() || !self.written.lines.contains_key("kind") {
            self.refuse_keys(cx, kind);
        }
        if self.written.is_unclear() {
            return None;
        }
        let mut spec = ComponentSpec::of_kind(kind);
        self.written.apply(&mut spec);
        spec.root.clone_from(&root);
        let routes = self.written.routes.iter().flatten();
        spec.routes = routes.map(|route| route.spec.clone()).collect();
        if kind == ComponentKind::Static {
            self.complete_static(cx, folder, spec)
        } else {
            self.complete_program(cx, folder, spec)
        }
    }

    /// What was not said is a service, unless there is nothing to run and something to serve.
    fn kind(&self, folder: Folder<'_>) -> ComponentKind {
        if let Some(kind) = self.written.kind {
            return kind;
        }
        let serves = self.written.runtime == Some(Runtime::Files)
            || folder.has("index.html")
                && guess::declared_runtimes(folder).is_empty()
                && python::entry(folder).is_none()
                && !folder.has(PROCFILE);
        if self.written.run.is_none() && serves {
            ComponentKind::Static
        } else {
            ComponentKind::Service
        }
    }

    /// Keys that mean nothing for a kind are mistakes about the kind.
    fn refuse_keys(&self, cx: &mut Cx<'_>, kind: ComponentKind) {
        let (keys, why): (&[&str], &str) = match kind {
            ComponentKind::Service => return,
            ComponentKind::Worker => {
                (&["port", "routes", "health", "liveness", "drain"], "a worker has no port")
            }
            ComponentKind::Job => (
                &[
                    "port",
                    "routes",
                    "health",
                    "liveness",
                    "drain",
                    "instances",
                    "single",
                    "failover",
                    "rollout",
                ],
                "a job runs when it is asked to, and has no port",
            ),
            ComponentKind::Static => (
                &["run", "variables"],
                "static files are served by the platform; nothing of yours runs",
            ),
        };
        for key in keys.iter().filter(|key| self.written.lines.contains_key(**key)) {
            let fix = "leave it out, or choose another kind";
            self.refuse(cx, key, format!("this means nothing here: {why}"), fix);
        }
    }

    fn complete_static(
        &self,
        cx: &mut Cx<'_>,
        folder: Folder<'_>,
        mut spec: ComponentSpec,
    ) -> Option<ComponentSpec> {
        spec.runtime = Runtime::Files;
        match self.written.runtime {
            None | Some(Runtime::Files) => {}
            Some(Runtime::Node) => {
                let Some(place) = node::nearest(cx, folder.root()) else {
                    let message = "there is no package.json that says how to build it";
                    self.refuse(cx, "build", message, "add one, or leave `build` out");
                    return None;
                };
                cx.install(Runtime::Node, &place);
                // What is served is made by the build, and is not there yet.
                return Some(spec);
            }
            Some(runtime @ (Runtime::Python | Runtime::Host)) => {
                let message = format!("static files are not built by `{runtime}`");
                self.refuse(cx, "build", message, "write \"files\" or \"node\", or leave it out");
                return None;
            }
        }
        self.check_root(cx, folder)?;
        if self.written.root.is_none() {
            // `public/` and the like, where nobody said which folder.
            spec.root = files::served(cx, folder).unwrap_or_default();
        }
        Some(spec)
    }

    fn complete_program(
        &self,
        cx: &mut Cx<'_>,
        folder: Folder<'_>,
        mut spec: ComponentSpec,
    ) -> Option<ComponentSpec> {
        if self.written.runtime == Some(Runtime::Files) {
            let message = format!("a {} does not serve files", spec.kind);
            self.refuse(cx, "build", message, "choose another runtime, or `kind = \"static\"`");
            return None;
        }
        self.check_root(cx, folder)?;
        let command = self.command(cx, folder);
        spec.runtime = self.written.runtime.unwrap_or_else(|| runtime(folder, command.as_deref()));
        spec.run = match command {
            Some(command) => Some(command),
            // A worker is no web app, and what starts a web app is all that could be found.
            None if spec.kind == ComponentKind::Service => match spec.runtime {
                Runtime::Python => python::start(cx, folder),
                Runtime::Node => node::start(cx, folder),
                Runtime::Files | Runtime::Host => None,
            },
            None => None,
        };
        if spec.run.is_none() {
            let message = match folder.root() {
                "" => format!("this {} has no command, and none was found", spec.kind),
                root => {
                    format!("this {} has no command, and none was found in `{root}`", spec.kind)
                }
            };
            self.refuse(cx, "", message, "add `run = \"…\"`, a shell line");
            return None;
        }
        cx.install(spec.runtime, folder.root());
        Some(spec)
    }

    /// What the file says, otherwise what a `Procfile` says of the same name.
    fn command(&self, cx: &mut Cx<'_>, folder: Folder<'_>) -> Option<String> {
        if let Some(run) = &self.written.run {
            return Some(run.clone());
        }
        let processes = procfile::read(cx, folder)?;
        let same = processes.into_iter().find(|process| process.kind == self.name.as_str())?;
        Some(same.command)
    }

    fn check_root(&self, cx: &mut Cx<'_>, folder: Folder<'_>) -> Option<()> {
        let root = folder.root();
        if cx.view.has_folder(root) {
            return Some(());
        }
        let message = match cx.view.file(root) {
            Some(_) => format!("`{}` is a file", excerpt(root)),
            None => format!("there is no folder `{}` in the source", excerpt(root)),
        };
        self.refuse(
            cx,
            "root",
            message,
            "name a folder that is there and not left out by an ignore file",
        );
        None
    }
}

/// A list of packages decides; without one the command does.
fn runtime(folder: Folder<'_>, command: Option<&str>) -> Runtime {
    let declared = guess::declared_runtimes(folder);
    let named = command.and_then(runtime_of_command);
    match (declared.as_slice(), named, command) {
        (_, Some(named), _) if declared.is_empty() || declared.contains(&named) => named,
        ([first, ..], _, _) => *first,
        ([], Some(named), _) => named,
        ([], None, Some(_)) => Runtime::Host,
        ([], None, None) if python::entry(folder).is_some() => Runtime::Python,
        ([], None, None) => Runtime::Node,
    }
}

fn refuse_doubled_routes(cx: &mut Cx<'_>, file: &SpecFile) {
    let mut all: Vec<(&ComponentName, &crate::spec_file::Route)> = Vec::new();
    for (name, component) in &file.components {
        all.extend(component.routes.iter().flatten().map(|route| (name, route)));
    }
    all.sort_by_key(|(_, route)| route.line);
    let mut seen: BTreeMap<&str, &ComponentName> = BTreeMap::new();
    for (name, route) in all {
        match seen.insert(&route.spec.path, name) {
            Some(first) if first != name => cx.refuse(
                Problem::new(format!(
                    "the route `{}` belongs to `{first}` already",
                    route.spec.path
                ))
                .in_file(SPEC_FILE)
                .at_line(route.line)
                .of_key(format!("components.{name}.routes"))
                .fix("give each its own prefix; the longest that matches wins"),
            ),
            Some(_) | None => {}
        }
    }
}

/// Whoever listens and says nothing about routes gets `/`: the only one of its app, or `web`.
fn default_route(file: &SpecFile, specs: &mut BTreeMap<ComponentName, ComponentSpec>) {
    let listening: Vec<ComponentName> = specs
        .iter()
        .filter(|(_, spec)| spec.kind.listens())
        .map(|(name, _)| name.clone())
        .collect();
    let taken = specs.values().flat_map(|spec| &spec.routes).any(|route| route.path == "/");
    let heir = match listening.as_slice() {
        [only] => Some(only),
        many => many.iter().find(|name| name.as_str() == WEB),
    };
    let Some(heir) = heir.filter(|_| !taken) else { return };
    let silent = file.components.get(heir).is_some_and(|component| component.routes.is_none());
    if let Some(spec) = specs.get_mut(heir).filter(|_| silent) {
        spec.routes = vec![RouteSpec { path: "/".into(), preserve: false }];
    }
}
