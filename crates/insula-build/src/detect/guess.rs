//! What a folder without a description is, from its files: the order of `docs/detection.md`.

use insula_model::spec::{ComponentKind, Runtime};

use super::{Cx, Guess, files, foreign, node, python};
use crate::problem::Problem;
use crate::source::Folder;

/// Nothing if the folder is not recognised, which is then a problem on the list.
pub fn guess(cx: &mut Cx<'_>, folder: Folder<'_>) -> Option<Guess> {
    let before = cx.problems.len();
    let guess = python::is_declared(folder)
        .then(|| from_python(cx, folder))
        .flatten()
        .or_else(|| node::is_declared(folder).then(|| node::guess(cx, folder)).flatten())
        .or_else(|| python::entry(folder).and_then(|_| from_python(cx, folder)))
        .or_else(|| node::guess_without_package(folder))
        .or_else(|| from_files(cx, folder));
    if guess.is_none() && cx.problems.len() == before {
        let problem = unrecognised(folder);
        cx.refuse(problem);
    }
    guess
}

/// The runtime for whose packages a folder has a list.
pub fn declared_runtimes(folder: Folder<'_>) -> Vec<Runtime> {
    let python = python::is_declared(folder).then_some(Runtime::Python);
    let node = node::is_declared(folder).then_some(Runtime::Node);
    python.into_iter().chain(node).collect()
}

fn from_python(cx: &mut Cx<'_>, folder: Folder<'_>) -> Option<Guess> {
    let run = python::start(cx, folder)?;
    if node::is_declared(folder) {
        let path = folder.path("package.json");
        cx.warn(format!(
            "{path} is not used: this is taken for a Python app; a Procfile says more"
        ));
    }
    Some(Guess {
        kind: ComponentKind::Service,
        runtime: Runtime::Python,
        run: Some(run),
        root: folder.root().to_owned(),
        installs: Some((Runtime::Python, folder.root().to_owned())),
    })
}

fn from_files(cx: &mut Cx<'_>, folder: Folder<'_>) -> Option<Guess> {
    Some(Guess {
        kind: ComponentKind::Static,
        runtime: Runtime::Files,
        run: None,
        root: files::served(cx, folder)?,
        installs: None,
    })
}

fn unrecognised(folder: Folder<'_>) -> Problem {
    let mut message = String::from("nothing here says what to run");
    if !folder.root().is_empty() {
        message = format!("nothing in `{}` says what to run", folder.root());
    }
    let languages: Vec<String> = foreign::OTHER_LANGUAGES
        .iter()
        .filter(|(file, _)| folder.has(file))
        .map(|(file, language)| format!("{file} ({language})"))
        .collect();
    if !languages.is_empty() {
        message += &format!("; {} is not understood yet", languages.join(", "));
    }
    let foreign = foreign::not_read(folder);
    if !foreign.is_empty() {
        message += &format!("; {} is not read yet", foreign.join(", "));
    }
    if python::is_declared(folder) {
        message +=
            &format!("; there are Python packages, but none of {}", python::ENTRIES.join(", "));
    }
    if node::is_declared(folder) {
        message += "; package.json has no `scripts.start` and no `main` that is there, and there is \
                    no server.js or index.js";
    }
    message += ". Looked for: insula.toml, Procfile, stratus_init.sh, requirements.txt, \
                pyproject.toml, package.json, main.py and app.py and the like, server.js, \
                Staticfile, index.html, public/index.html";
    let below =
        ["Procfile", "insula.toml", "package.json", "requirements.txt", "index.html", "main.py"]
            .iter()
            .flat_map(|name| folder.folders_with(name))
            .next();
    let fix = match below {
        Some(below) => {
            format!("deploy the folder `{}`, or say in a Procfile what to run", folder.path(below))
        }
        None => "say it in a Procfile, as in `web: ./serve --port $PORT`".into(),
    };
    Problem::new(message).fix(fix)
}
