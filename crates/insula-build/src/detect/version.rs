//! Versions that a source asks for. There is one version of each runtime on a node, so asking has
//! no effect yet, and is answered by a warning.

use insula_model::names::excerpt;

use super::{Cx, node};
use crate::source::Folder;

pub fn warn_python(cx: &mut Cx<'_>, folder: Folder<'_>) {
    let asked = single(folder, ".python-version")
        .or_else(|| tool_versions(folder, "python"))
        .or_else(|| {
            let (version, file) = single(folder, "runtime.txt")?;
            Some((version.strip_prefix("python-").unwrap_or(version), file))
        });
    warn(cx, "python", asked);
}

pub fn warn_node(cx: &mut Cx<'_>, folder: Folder<'_>) {
    let engines = node::engine(folder);
    let asked = engines
        .as_deref()
        .map(|version| (version, "package.json"))
        .or_else(|| single(folder, ".nvmrc"))
        .or_else(|| single(folder, ".node-version"))
        .or_else(|| tool_versions(folder, "nodejs").or_else(|| tool_versions(folder, "node")));
    warn(cx, "node", asked);
}

fn warn(cx: &mut Cx<'_>, runtime: &str, asked: Option<(&str, &str)>) {
    let Some((version, file)) = asked else { return };
    if !is_open(version) {
        let version = excerpt(version);
        cx.warn(format!("{file} asks for {runtime} {version}; the one that is installed is used"));
    }
}

/// Whether newer versions are welcome too, so that there is nothing to warn of.
fn is_open(version: &str) -> bool {
    let version = version.trim();
    let floor = version.starts_with(">=") && !version.contains(['<', '|', ' ', ',']);
    floor
        || version.starts_with("lts")
        || ["*", "x", "node", "latest", "system", ""].contains(&version)
}

/// The first line of a file that is not a comment.
fn single<'a>(folder: Folder<'a>, file: &'static str) -> Option<(&'a str, &'static str)> {
    let mut lines = folder.read(file)?.lines().map(str::trim);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with('#'))?;
    Some((line, file))
}

/// asdf's and mise's list: `python 3.12.1 system`, of which the first is preferred.
fn tool_versions<'a>(folder: Folder<'a>, tool: &str) -> Option<(&'a str, &'static str)> {
    let lines = folder.read(".tool-versions")?.lines();
    let mut words = lines
        .map(str::split_whitespace)
        .find_map(|mut words| (words.next() == Some(tool)).then_some(words))?;
    Some((words.next()?, ".tool-versions"))
}
