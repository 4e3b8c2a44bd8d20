//! Python: what is installed, and how an app starts that does not say so.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::build::BuildStep;
use insula_model::limits::COMMAND_LEN_MAX;
use insula_model::names::excerpt;
use insula_model::spec::Runtime;
use toml_edit::Document;

use super::{Cx, shell_word};
use crate::problem::Problem;
use crate::source::Folder;

const REQUIREMENTS: &str = "requirements.txt";
const PYPROJECT: &str = "pyproject.toml";
/// Files that people start by hand, in the order in which we look.
pub const ENTRIES: &[&str] = &["main.py", "app.py", "start.py", "bot.py", "hello.py", "server.py"];
/// Where a web framework's app is looked for, beside the entries.
const PACKAGED_ENTRIES: &[&str] = &["app/main.py", "app/app.py", "src/main.py", "src/app.py"];
/// Lists of packages that we see and cannot install from.
const LOCKS_NOT_READ: &[&str] = &["uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock"];
/// As many requirements as anybody lists by hand; an argument each.
const DEPENDENCIES_MAX: usize = 1_000;

/// Whether there is a list of packages.
pub fn is_declared(folder: Folder<'_>) -> bool {
    folder.has(REQUIREMENTS) || folder.has(PYPROJECT) && pyproject(folder).is_app
}

/// The file that would be started.
pub fn entry(folder: Folder<'_>) -> Option<&'static str> {
    folder.first(ENTRIES)
}

/// The command of an app that does not say how it starts: its framework's usual one, otherwise its
/// main file. Nothing if there is neither.
pub fn start(cx: &mut Cx<'_>, folder: Folder<'_>) -> Option<String> {
    let packages = packages(folder);
    if folder.has("manage.py") {
        return Some(django(cx, folder, &packages));
    }
    if let Some(app) = framework_app(folder) {
        return Some(match app.framework {
            Framework::Asgi => asgi(cx, &app, &packages),
            Framework::Wsgi => wsgi(cx, &app, &packages),
        });
    }
    if let Some(entry) = entry(folder) {
        return Some(format!("python3 {entry}"));
    }
    match pyproject(folder).scripts.as_slice() {
        [script] => Some(shell_word(script)),
        _ => None,
    }
}

fn django(cx: &mut Cx<'_>, folder: Folder<'_>, packages: &BTreeSet<String>) -> String {
    cx.warn("Django: `migrate` and `collectstatic` are not run yet; run them by hand for now");
    let module = |file: &str| folder.folders_with(file).into_iter().find(|f| is_module(f));
    if packages.contains("gunicorn")
        && let Some(project) = module("wsgi.py")
    {
        return format!("gunicorn --bind 0.0.0.0:$PORT {project}.wsgi");
    }
    if packages.contains("uvicorn")
        && let Some(project) = module("asgi.py")
    {
        return format!("uvicorn --host 0.0.0.0 --port $PORT {project}.asgi:application");
    }
    cx.warn("this runs Django's development server; add gunicorn to the requirements");
    "python3 manage.py runserver --noreload 0.0.0.0:$PORT".into()
}

fn asgi(cx: &mut Cx<'_>, app: &FrameworkApp, packages: &BTreeSet<String>) -> String {
    let FrameworkApp { module, name, .. } = app;
    if packages.contains("uvicorn") || packages.contains("fastapi[standard]") {
        return format!("uvicorn --host 0.0.0.0 --port $PORT {module}:{name}");
    }
    if packages.contains("hypercorn") {
        return format!("hypercorn --bind 0.0.0.0:$PORT {module}:{name}");
    }
    cx.warn("no server for this app is in the requirements; add uvicorn");
    format!("python3 -m {module}")
}

fn wsgi(cx: &mut Cx<'_>, app: &FrameworkApp, packages: &BTreeSet<String>) -> String {
    let FrameworkApp { module, name, .. } = app;
    if packages.contains("gunicorn") {
        return format!("gunicorn --bind 0.0.0.0:$PORT {module}:{name}");
    }
    if packages.contains("waitress") {
        return format!("waitress-serve --listen=0.0.0.0:$PORT {module}:{name}");
    }
    cx.warn("this runs Flask's development server; add gunicorn to the requirements");
    format!("flask --app {module}:{name} run --host 0.0.0.0 --port $PORT")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framework {
    Asgi,
    Wsgi,
}

#[derive(Debug, PartialEq, Eq)]
struct FrameworkApp {
    framework: Framework,
    module: String,
    name: String,
}

fn framework_app(folder: Folder<'_>) -> Option<FrameworkApp> {
    ENTRIES.iter().chain(PACKAGED_ENTRIES).find_map(|file| {
        let (framework, name) = folder.read(file)?.lines().find_map(app_assignment)?;
        let module = file.strip_suffix(".py")?.replace('/', ".");
        Some(FrameworkApp { framework, module, name: name.to_owned() })
    })
}

/// `app = Flask(__name__)` at the margin: at the top level of its module, so that it can be named.
fn app_assignment(line: &str) -> Option<(Framework, &str)> {
    let (left, right) = line.split_once('=')?;
    let name = left.split(':').next()?.trim_end();
    if !is_module(name) {
        return None;
    }
    let (called, _) = right.trim_start().split_once('(')?;
    let class = called.rsplit_once('.').map_or(called, |(_, class)| class);
    match class {
        "FastAPI" | "Starlette" | "Litestar" | "Quart" => Some((Framework::Asgi, name)),
        "Flask" => Some((Framework::Wsgi, name)),
        _ => None,
    }
}

/// An identifier that stays what it is in a shell line.
fn is_module(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The steps that make a virtual environment; none if there is nothing to put into it.
pub fn install(cx: &mut Cx<'_>, folder: Folder<'_>) -> Vec<BuildStep> {
    let Some(what) = what_to_install(cx, folder) else { return Vec::new() };
    let app =
        if folder.root().is_empty() { "/app".into() } else { format!("/app/{}", folder.root()) };
    let venv = format!("{app}/.venv");
    let step = |name: &str, argv: Vec<String>| BuildStep {
        name: name.into(),
        runtime: Runtime::Python,
        argv,
        env: environment(),
        dir: folder.root().into(),
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut pip = words(&[&format!("{venv}/bin/pip"), "install"]);
    pip.extend(words(&["--disable-pip-version-check", "--no-input", "--cache-dir", "/cache/pip"]));
    pip.extend(what);
    vec![
        step("make a virtual environment", words(&["python3", "-m", "venv", &venv])),
        step("install packages", pip),
    ]
}

fn environment() -> BTreeMap<String, String> {
    [
        ("PIP_CACHE_DIR", "/cache/pip"),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        ("PIP_NO_INPUT", "1"),
        // The build's log is read as text, by people who wait.
        ("PIP_PROGRESS_BAR", "off"),
        ("PYTHONUNBUFFERED", "1"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into()
}

/// The arguments of `pip install`.
fn what_to_install(cx: &mut Cx<'_>, folder: Folder<'_>) -> Option<Vec<String>> {
    if let Some(text) = cx.required_text(folder, REQUIREMENTS) {
        let wanted = text.lines().map(str::trim).any(|l| !l.is_empty() && !l.starts_with('#'));
        return wanted.then(|| vec!["-r".into(), REQUIREMENTS.into()]);
    }
    let text = cx.required_text(folder, PYPROJECT)?;
    let project = match read_pyproject(text) {
        Ok(project) => project,
        Err((line, message)) => {
            cx.refuse(
                Problem::new(format!("not TOML: {message}"))
                    .in_file(&folder.path(PYPROJECT))
                    .at_line(line)
                    .fix("correct the line"),
            );
            return None;
        }
    };
    if project.is_poetry {
        cx.refuse(
            Problem::new("the packages are listed for Poetry, which is not available yet")
                .in_file(&folder.path(PYPROJECT))
                .of_key("tool.poetry.dependencies")
                .fix("list them in [project] dependencies, or in a requirements.txt"),
        );
        return None;
    }
    for lock in LOCKS_NOT_READ.iter().filter(|lock| folder.has(lock)) {
        cx.warn(format!("{} is not read yet; pip chooses the versions", folder.path(lock)));
    }
    if project.is_built {
        return Some(vec![".".into()]);
    }
    if project.dependencies.is_empty() {
        return None;
    }
    // An argument that begins with a hyphen would be an option of pip's.
    if let Some(odd) = project.dependencies.iter().find(|dependency| {
        dependency.len() > COMMAND_LEN_MAX
            || !dependency.starts_with(|c: char| c.is_ascii_alphanumeric())
    }) {
        cx.refuse(
            Problem::new(format!("`{}` is not a requirement", excerpt(odd)))
                .in_file(&folder.path(PYPROJECT))
                .of_key("project.dependencies")
                .fix("write it as in \"flask>=3\""),
        );
        return None;
    }
    Some(project.dependencies)
}

/// What we read of a `pyproject.toml`.
#[derive(Debug, Default)]
struct Pyproject {
    dependencies: Vec<String>,
    scripts: Vec<String>,
    /// Describes something to install, not only the settings of tools.
    is_app: bool,
    /// Has a build system, so that the folder is a package itself.
    is_built: bool,
    is_poetry: bool,
}

/// As `read_pyproject`, where mistakes are told by another.
fn pyproject(folder: Folder<'_>) -> Pyproject {
    match folder.read(PYPROJECT).map(read_pyproject) {
        Some(Ok(project)) => project,
        // So that `install` comes to tell of the mistake.
        Some(Err(_)) => Pyproject { is_app: true, ..Pyproject::default() },
        None => Pyproject { is_app: folder.has(PYPROJECT), ..Pyproject::default() },
    }
}

fn read_pyproject(text: &str) -> Result<Pyproject, (Option<usize>, String)> {
    let document = Document::parse(text).map_err(|error| {
        let line = error.span().map(|span| {
            text.as_bytes().iter().take(span.start).filter(|b| **b == b'\n').count() + 1
        });
        (line, error.message().to_owned())
    })?;
    let top = document.as_table();
    let project = top.get("project").and_then(|item| item.as_table_like());
    let list = |key: &str| project.and_then(|project| project.get(key));
    let dependencies = list("dependencies")
        .and_then(|item| item.as_array())
        .map(|array| array.iter().filter_map(|value| value.as_str()))
        .map(|texts| texts.take(DEPENDENCIES_MAX).map(str::to_owned).collect())
        .unwrap_or_default();
    let scripts = list("scripts")
        .and_then(|item| item.as_table_like())
        .map(|table| table.iter().map(|(name, _)| name.to_owned()).collect())
        .unwrap_or_default();
    let poetry = top
        .get("tool")
        .and_then(|tool| tool.get("poetry"))
        .is_some_and(|poetry| poetry.get("dependencies").is_some());
    let is_poetry = poetry && list("dependencies").is_none();
    Ok(Pyproject {
        dependencies,
        scripts,
        is_app: project.is_some() || is_poetry,
        is_built: project.is_some() && top.contains_key("build-system"),
        is_poetry,
    })
}

/// The names of the packages asked for, as they are compared: in lower case, with hyphens.
fn packages(folder: Folder<'_>) -> BTreeSet<String> {
    let mut packages = BTreeSet::new();
    let requirements = folder.read(REQUIREMENTS).unwrap_or_default();
    let project = pyproject(folder).dependencies;
    for line in requirements.lines().chain(project.iter().map(String::as_str)) {
        let line = line.trim();
        let end = line
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
            .unwrap_or(line.len());
        let name = line[..end].to_ascii_lowercase().replace(['_', '.'], "-");
        if name.is_empty() {
            continue;
        }
        if line[end..].trim_start().starts_with("[standard") {
            packages.insert(format!("{name}[standard]"));
        }
        packages.insert(name);
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_are_found_where_they_are_assigned() {
        for (line, found) in [
            ("app = Flask(__name__)", Some((Framework::Wsgi, "app"))),
            ("api: FastAPI = fastapi.FastAPI(title=\"a\")", Some((Framework::Asgi, "api"))),
            ("    app = Flask(__name__)", None),
            ("app == Flask(x)", None),
            ("app['x'] = Flask(x)", None),
            ("# app = Flask(x)", None),
            ("$(id) = Flask(x)", None),
        ] {
            assert_eq!(app_assignment(line), found, "{line}");
        }
    }
}
