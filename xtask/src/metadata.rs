//! What cargo knows of our crates and of those we use, as far as our rules ask.
//!
//! Parsed by hand from `cargo metadata`: a dozen fields, and no derive to wait for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

#[derive(Debug, Clone)]
pub struct Package {
    pub id: String,
    pub name: String,
    pub version: String,
    /// An SPDX expression.
    pub licence: Option<String>,
    pub manifest: PathBuf,
    /// `None` for our own crates.
    pub source: Option<String>,
    pub dependencies: Vec<Dependency>,
    pub targets: Vec<Target>,
}

#[derive(Debug, Clone)]
pub struct Dependency {
    pub name: String,
    pub kind: DependencyKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DependencyKind {
    Normal,
    Build,
    Dev,
}

#[derive(Debug, Clone)]
pub struct Target {
    pub name: String,
    pub kinds: Vec<String>,
    pub doctest: bool,
}

impl Package {
    /// The folder that the manifest lies in.
    pub fn folder(&self) -> &Path {
        self.manifest.parent().unwrap_or(Path::new(""))
    }
}

/// Our own crates; asks nobody and touches no lock file.
pub fn workspace() -> Result<Vec<Package>> {
    let mut cargo = process::cargo();
    cargo.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    parse(&process::output(&mut cargo)?)
}

/// Everything that is compiled for this host, by the committed lock file.
///
/// `cargo metadata` also tells of optional dependencies that no feature switches on; `cargo tree`
/// follows the features, and knows no licences.
pub fn everything() -> Result<Vec<Package>> {
    let host = crate::machine::host_triple()?;
    let mut cargo = process::cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &host]);
    let packages = parse(&process::output(&mut cargo)?)?;
    let mut cargo = process::cargo();
    cargo.args(["tree", "--locked", "--workspace", "--target", &host, "--prefix", "none"]);
    let tree = process::output(cargo.args(["--edges", "all", "--format", "{p}"]))?;
    let tree = String::from_utf8(tree).context("read the output of cargo tree")?;
    Ok(only_built(packages, &tree))
}

/// Those that stand in the tree, by lines such as `tar v0.4.45` or `ours v0.1.0 (/folder)`.
fn only_built(packages: Vec<Package>, tree: &str) -> Vec<Package> {
    let built: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();
    let is_built =
        |package: &Package| built.contains(&(package.name.as_str(), package.version.as_str()));
    packages.into_iter().filter(is_built).collect()
}

pub fn parse(json: &[u8]) -> Result<Vec<Package>> {
    let json: Value = serde_json::from_slice(json).context("read the output of cargo metadata")?;
    let packages = list(&json, "packages")?;
    let packages = packages.iter().map(package).collect::<Result<Vec<_>>>()?;
    // Without dependencies there is no graph; with them it leaves out other platforms.
    let Some(nodes) = json.pointer("/resolve/nodes").and_then(Value::as_array) else {
        return Ok(packages);
    };
    let used: Vec<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    Ok(packages.into_iter().filter(|package| used.contains(&package.id.as_str())).collect())
}

fn package(json: &Value) -> Result<Package> {
    let name = text(json, "name")?;
    let dependencies = list(json, "dependencies")?.iter().map(dependency).collect::<Result<_>>();
    let targets = list(json, "targets")?.iter().map(target).collect::<Result<_>>();
    Ok(Package {
        id: text(json, "id")?,
        version: text(json, "version")?,
        licence: json["license"].as_str().map(str::to_owned),
        manifest: PathBuf::from(text(json, "manifest_path")?),
        source: json["source"].as_str().map(str::to_owned),
        dependencies: dependencies.with_context(|| format!("dependencies of {name}"))?,
        targets: targets.with_context(|| format!("targets of {name}"))?,
        name,
    })
}

fn dependency(json: &Value) -> Result<Dependency> {
    let kind = match json["kind"].as_str() {
        None => DependencyKind::Normal,
        Some("build") => DependencyKind::Build,
        Some("dev") => DependencyKind::Dev,
        Some(other) => anyhow::bail!("a kind of dependency that we do not know: `{other}`"),
    };
    Ok(Dependency { name: text(json, "name")?, kind })
}

fn target(json: &Value) -> Result<Target> {
    let kinds = list(json, "kind")?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(Target {
        name: text(json, "name")?,
        kinds,
        doctest: json["doctest"].as_bool().unwrap_or(false),
    })
}

fn text(json: &Value, field: &str) -> Result<String> {
    json[field].as_str().map(str::to_owned).with_context(|| format!("`{field}` is not a string"))
}

fn list<'a>(json: &'a Value, field: &str) -> Result<&'a Vec<Value>> {
    json[field].as_array().with_context(|| format!("`{field}` is not a list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_feature_switches_on_is_not_built() {
        let json = ["tar 0.4.45", "tar 0.3.0", "nom 8.0.0", "ours 0.1.0"].map(|package| {
            let (name, version) = package.split_once(' ').expect("a name and a version");
            format!(
                r#"{{"id": "{package}", "name": "{name}", "version": "{version}", "license": "MIT",
                    "manifest_path": "Cargo.toml", "source": null, "dependencies": [],
                    "targets": []}}"#
            )
        });
        let json = format!(r#"{{"packages": [{}]}}"#, json.join(","));
        let packages = parse(json.as_bytes()).expect("made-up metadata");
        let tree = "ours v0.1.0 (/src/ours)\ntar v0.4.45\n\nsyn v2.0.0 (proc-macro)\n";
        let built: Vec<String> =
            only_built(packages, tree).into_iter().map(|package| package.id).collect();
        assert_eq!(built, ["tar 0.4.45", "ours 0.1.0"]);
    }
}
