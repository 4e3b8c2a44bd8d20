//! Node: what is installed and built, and how an app starts that does not say so.

use std::collections::BTreeMap;

use insula_model::build::BuildStep;
use insula_model::limits::COMMAND_LEN_MAX;
use insula_model::spec::{ComponentKind, Runtime};
use serde_json::Value;

use super::{Cx, Guess, files, shell_word};
use crate::problem::Problem;
use crate::source::{Folder, Text};
use crate::spec_file::normal_root;

const PACKAGE: &str = "package.json";
const ENTRIES: &[&str] = &["server.js", "server.mjs", "index.js", "index.mjs", "app.js"];
const LOCKS: &[&str] = &["package-lock.json", "npm-shrinkwrap.json"];
/// What other package managers wrote, which npm does not read.
const LOCKS_NOT_READ: &[&str] = &["yarn.lock", "pnpm-lock.yaml", "bun.lock", "bun.lockb"];
/// Tools that turn sources into files that are served as they are, and where they put them.
const SITE_TOOLS: &[(&str, &str)] = &[
    ("react-scripts", "build"),
    ("astro", "dist"),
    ("@vue/cli-service", "dist"),
    ("parcel", "dist"),
    ("vite", "dist"),
];
/// What `scripts.start` says when it starts a tool's server for development, and no app.
const DEVELOPMENT: &[&str] =
    &["react-scripts start", "vite", "astro", "vue-cli-service serve", "parcel", "ng serve"];

/// What we read of a `package.json`.
#[derive(Debug, Default)]
struct Package {
    main: Option<String>,
    scripts: BTreeMap<String, String>,
    dependencies: Vec<String>,
    development: Vec<String>,
    node: Option<String>,
}

pub fn is_declared(folder: Folder<'_>) -> bool {
    folder.has(PACKAGE)
}

/// The version that `engines.node` asks for.
pub fn engine(folder: Folder<'_>) -> Option<String> {
    read(folder.read(PACKAGE)?).ok()?.node
}

pub fn guess(cx: &mut Cx<'_>, folder: Folder<'_>) -> Option<Guess> {
    let package = package(cx, folder)?;
    let root = folder.root().to_owned();
    let start = start_of(folder, &package);
    if start.as_deref().is_none_or(is_development)
        && let Some(output) = site_output(&package)
    {
        cx.warn(format!(
            "this is taken for a static site: it is built, and `{output}` is served; paths that are \
             no files answer 404"
        ));
        return Some(Guess {
            kind: ComponentKind::Static,
            runtime: Runtime::Files,
            run: None,
            root: folder.path(output),
            installs: Some((Runtime::Node, root)),
        });
    }
    let run = match start {
        Some(run) => run,
        // A site whose package.json only holds the tools of its author.
        None => {
            return Some(Guess {
                kind: ComponentKind::Static,
                runtime: Runtime::Files,
                run: None,
                root: files::served(cx, folder)?,
                installs: None,
            });
        }
    };
    Some(Guess {
        kind: ComponentKind::Service,
        runtime: Runtime::Node,
        run: Some(run),
        root: root.clone(),
        installs: Some((Runtime::Node, root)),
    })
}

/// A server in one file, with nothing to install. `index.js` beside an `index.html` is for browsers.
pub fn guess_without_package(folder: Folder<'_>) -> Option<Guess> {
    let browsers = folder.has("index.html");
    let entry = ENTRIES.iter().find(|e| folder.has(e) && (!browsers || e.starts_with("server")))?;
    Some(Guess {
        kind: ComponentKind::Service,
        runtime: Runtime::Node,
        run: Some(format!("node {entry}")),
        root: folder.root().to_owned(),
        installs: None,
    })
}

/// The command of a component that has none of its own.
pub fn start(cx: &mut Cx<'_>, folder: Folder<'_>) -> Option<String> {
    if !is_declared(folder) {
        return folder.first(ENTRIES).map(|entry| format!("node {entry}"));
    }
    let package = package(cx, folder)?;
    start_of(folder, &package)
}

fn start_of(folder: Folder<'_>, package: &Package) -> Option<String> {
    if let Some(script) = package.scripts.get("start") {
        let hooked = ["prestart", "poststart"].iter().any(|h| package.scripts.contains_key(*h));
        // npm stands between the app and its signals, and costs 40 MiB; it is only started where
        // it does more than run the line.
        return Some(if hooked || script.contains("npm_") {
            "npm start".into()
        } else {
            script.clone()
        });
    }
    let main = package.main.as_deref().and_then(normal_root).filter(|main| !main.is_empty());
    if let Some(main) = main {
        let candidates = [main.clone(), format!("{main}.js"), format!("{main}/index.js")];
        // What a build makes is not there yet.
        let there = candidates.into_iter().find(|file| folder.has(file));
        let built = || package.scripts.contains_key("build").then_some(main);
        if let Some(file) = there.or_else(built) {
            return Some(format!("node {}", shell_word(&file)));
        }
    }
    folder.first(ENTRIES).map(|entry| format!("node {entry}"))
}

fn is_development(start: &str) -> bool {
    DEVELOPMENT.iter().any(|tool| {
        start.strip_prefix(tool).is_some_and(|rest| {
            // `vite preview` serves what was built, and is an app.
            (rest.is_empty() || rest.starts_with(' ')) && !rest.contains("preview")
        })
    })
}

fn site_output(package: &Package) -> Option<&'static str> {
    if !package.scripts.contains_key("build") {
        return None;
    }
    let has = |tool: &str| {
        package.dependencies.iter().chain(&package.development).any(|name| name == tool)
    };
    SITE_TOOLS.iter().find(|(tool, _)| has(tool)).map(|(_, output)| *output)
}

/// The steps that install and build; none if there is nothing to do.
pub fn install(cx: &mut Cx<'_>, folder: Folder<'_>) -> Vec<BuildStep> {
    let Some(package) = package(cx, folder) else { return Vec::new() };
    let builds = package.scripts.contains_key("build");
    let wanted = !package.dependencies.is_empty() || builds && !package.development.is_empty();
    let locked = LOCKS.iter().any(|lock| folder.has(lock));
    if wanted && !locked {
        for lock in LOCKS_NOT_READ.iter().filter(|lock| folder.has(lock)) {
            cx.warn(format!("{} is not read yet; npm chooses the versions", folder.path(lock)));
        }
    }
    let step = |name: &str, words: &[&str]| BuildStep {
        name: name.into(),
        runtime: Runtime::Node,
        argv: words.iter().map(|word| (*word).to_owned()).collect(),
        env: environment(),
        dir: folder.root().into(),
    };
    let mut steps = Vec::new();
    if wanted {
        // What the build needs is mostly listed for development.
        let which = if builds { "--include=dev" } else { "--omit=dev" };
        let verb = if locked { "ci" } else { "install" };
        steps.push(step(
            "install packages",
            &["npm", verb, which, "--no-audit", "--no-fund", "--cache", "/cache/npm"],
        ));
    }
    if builds {
        steps.push(step("build", &["npm", "run", "build"]));
    }
    if builds && !package.development.is_empty() && !package.dependencies.is_empty() {
        steps.push(step(
            "leave out packages for development",
            &["npm", "prune", "--omit=dev", "--no-audit", "--no-fund", "--cache", "/cache/npm"],
        ));
    }
    steps
}

fn environment() -> BTreeMap<String, String> {
    [
        ("CI", "1"),
        ("npm_config_audit", "false"),
        ("npm_config_cache", "/cache/npm"),
        ("npm_config_fund", "false"),
        ("npm_config_progress", "false"),
        ("npm_config_update_notifier", "false"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into()
}

fn package(cx: &mut Cx<'_>, folder: Folder<'_>) -> Option<Package> {
    let text = cx.required_text(folder, PACKAGE)?;
    match read(text) {
        Ok(package) => Some(package),
        Err(problem) => {
            cx.refuse(problem.in_file(&folder.path(PACKAGE)));
            None
        }
    }
}

/// npm itself reads this file when it installs, and says more about it; we refuse what would
/// mislead us.
fn read(text: &str) -> Result<Package, Problem> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let line = Some(error.line()).filter(|line| *line > 0);
        Problem::new(format!("not JSON: {error}")).at_line(line).fix("correct the line")
    })?;
    let Some(top) = value.as_object() else {
        return Err(Problem::new("this is no object").fix("write it as in `{ \"scripts\": {} }`"));
    };
    let mut package = Package {
        main: top.get("main").and_then(Value::as_str).map(str::to_owned),
        dependencies: names(top.get("dependencies"), "dependencies")?,
        development: names(top.get("devDependencies"), "devDependencies")?,
        node: top
            .get("engines")
            .and_then(|engines| engines.get("node"))
            .and_then(Value::as_str)
            .map(str::to_owned),
        scripts: BTreeMap::new(),
    };
    package.dependencies.extend(names(top.get("optionalDependencies"), "optionalDependencies")?);
    for (name, script) in object(top.get("scripts"), "scripts")? {
        let key = || format!("scripts.{}", insula_model::names::excerpt(name));
        let Some(script) = script.as_str() else {
            return Err(Problem::new("this is no text").of_key(key()).fix("write a command"));
        };
        if script.len() > COMMAND_LEN_MAX || script.contains('\0') {
            let message = format!("this is no command of at most {COMMAND_LEN_MAX} bytes");
            return Err(Problem::new(message).of_key(key()).fix("put it into a file of its own"));
        }
        if !script.trim().is_empty() {
            package.scripts.insert(name.clone(), script.trim().to_owned());
        }
    }
    Ok(package)
}

fn object<'v>(
    value: Option<&'v Value>,
    key: &str,
) -> Result<Vec<(&'v String, &'v Value)>, Problem> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(object)) => Ok(object.iter().collect()),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            Err(Problem::new("this is no object").of_key(key).fix("write it as in `{ }`"))
        }
    }
}

fn names(value: Option<&Value>, key: &str) -> Result<Vec<String>, Problem> {
    Ok(object(value, key)?.into_iter().map(|(name, _)| name.clone()).collect())
}

/// The nearest folder at or above `root` that has a `package.json`; `dist` is built by the top's.
pub fn nearest(cx: &Cx<'_>, root: &str) -> Option<String> {
    let mut at = root;
    loop {
        if cx.view.at(at).text(PACKAGE) != Text::Absent {
            return Some(at.to_owned());
        }
        if at.is_empty() {
            return None;
        }
        at = at.rsplit_once('/').map_or("", |(above, _)| above);
    }
}
