//! Who uses whom, compared with the table. Knows cargo's graph, not the sources.

use std::path::Path;

use super::rules::{ANYHOW_CRATES, MayUse, PURE, RULES, Rule, SQL_CRATE, SQL_DRIVERS};
use crate::metadata::{Dependency, DependencyKind, Package};

pub fn check(root: &Path, packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    for package in packages {
        let file = package.manifest.strip_prefix(root).unwrap_or(&package.manifest);
        let file = file.display().to_string();
        let Some(rule) = RULES.iter().find(|rule| rule.name == package.name) else {
            found.push(format!(
                "{file}: `{}` is in no row of the table; add it to xtask/src/arch/rules.rs and to \
                 ARCHITECTURE.md, with what it may use",
                package.name
            ));
            continue;
        };
        found.extend(place(root, package, &file));
        found.extend(targets(package, &file));
        for dependency in &package.dependencies {
            found.extend(ours(rule, dependency, &file));
            found.extend(theirs(&package.name, dependency, &file));
        }
    }
    found
}

/// A crate is found by its name: `crates/<name>`, or `xtask`.
fn place(root: &Path, package: &Package, file: &str) -> Option<String> {
    let name = package.name.as_str();
    let wanted = if name == "xtask" { root.join(name) } else { root.join("crates").join(name) };
    (package.folder() != wanted).then(|| {
        let wanted = wanted.strip_prefix(root).unwrap_or(&wanted).display();
        format!("{file}: `{name}` must lie in {wanted}: folder and package have one name")
    })
}

fn targets(package: &Package, file: &str) -> Vec<String> {
    let mut found = Vec::new();
    for target in &package.targets {
        if target.doctest {
            found.push(format!(
                "{file}: `{}` is linked once more to look for doc tests; write `doctest = false` \
                 under [lib]",
                target.name
            ));
        }
    }
    let is_test = |kinds: &[String]| kinds.iter().any(|kind| kind == "test");
    let tests: Vec<&str> = package
        .targets
        .iter()
        .filter(|target| is_test(&target.kinds))
        .map(|target| target.name.as_str())
        .collect();
    if tests.len() > 1 {
        found.push(format!(
            "{file}: {} integration-test binaries ({}); each one is linked: make them modules of \
             tests/it/main.rs",
            tests.len(),
            tests.join(", ")
        ));
    }
    found
}

/// An arrow between two crates of ours.
fn ours(rule: &Rule, dependency: &Dependency, file: &str) -> Option<String> {
    let used = dependency.name.as_str();
    let to = RULES.iter().find(|rule| rule.name == used)?;
    let from = rule.name;
    if matches!(to.may_use, MayUse::Everything) {
        return Some(format!(
            "{file}: {from} → {used} ({}): `{used}` is tests only; nothing may use it",
            kind(dependency)
        ));
    }
    match rule.may_use {
        MayUse::Everything => None,
        MayUse::Only(allowed) if allowed.contains(&used) => None,
        MayUse::Only([]) => Some(format!(
            "{file}: {from} → {used} ({}): `{from}` uses no other crate of ours; move the code to \
             where both are at hand",
            kind(dependency)
        )),
        MayUse::Only(allowed) => Some(format!(
            "{file}: {from} → {used} ({}): `{from}` may use {}; move the code, pass a value, or \
             change the arrow in xtask/src/arch/rules.rs with a decision that says why",
            kind(dependency),
            allowed.join(", ")
        )),
    }
}

/// A third-party crate where it has no business.
fn theirs(from: &str, dependency: &Dependency, file: &str) -> Vec<String> {
    let used = dependency.name.as_str();
    let is_ours = RULES.iter().any(|rule| rule.name == used);
    let mut found = Vec::new();
    if let Some((_, allowed)) = PURE.iter().find(|(name, _)| *name == from)
        && !is_ours
        && !allowed.contains(&used)
    {
        found.push(format!(
            "{file}: {from} → {used} ({}): `{from}` is pure: no runtime, no I/O, no clock, no \
                 chance; it may use {}",
            kind(dependency),
            allowed.join(", ")
        ));
    }
    if SQL_DRIVERS.contains(&used) && from != SQL_CRATE {
        found.push(format!(
            "{file}: {from} → {used} ({}): only `{SQL_CRATE}` speaks SQL; ask it through a method",
            kind(dependency)
        ));
    }
    if used == "anyhow" && !ANYHOW_CRATES.contains(&from) {
        found.push(format!(
            "{file}: {from} → anyhow ({}): a library's errors have types (thiserror); anyhow is \
             for {}",
            kind(dependency),
            ANYHOW_CRATES.join(", ")
        ));
    }
    found
}

fn kind(dependency: &Dependency) -> &'static str {
    match dependency.kind {
        DependencyKind::Normal => "dependency",
        DependencyKind::Build => "build-dependency",
        DependencyKind::Dev => "dev-dependency",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::parse;

    /// `name: dependency dependency(dev)` per line, as cargo would tell it.
    fn workspace(lines: &str) -> Vec<Package> {
        let packages: Vec<String> = lines.lines().map(package).collect();
        let json = format!(r#"{{"packages": [{}]}}"#, packages.join(","));
        parse(json.as_bytes()).expect("made-up metadata")
    }

    fn package(line: &str) -> String {
        let (name, uses) = line.trim().split_once(':').expect("a name and a colon");
        let dependencies: Vec<String> = uses.split_whitespace().map(dependency).collect();
        format!(
            r#"{{"id": "{name} 0.1.0", "name": "{name}", "version": "0.1.0", "license": null,
                "manifest_path": "/repo/crates/{name}/Cargo.toml", "source": null,
                "dependencies": [{}], "targets": []}}"#,
            dependencies.join(",")
        )
    }

    fn dependency(word: &str) -> String {
        let (name, kind) = match word.strip_suffix(')').and_then(|word| word.split_once('(')) {
            Some((name, kind)) => (name, format!("\"{kind}\"")),
            None => (word, "null".to_owned()),
        };
        format!(r#"{{"name": "{name}", "kind": {kind}}}"#)
    }

    #[track_caller]
    fn check_story(lines: &str, expected: &[&str]) {
        let found = check(Path::new("/repo"), &workspace(lines));
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (finding, expected) in found.iter().zip(expected) {
            assert!(finding.contains(expected), "`{finding}` does not say `{expected}`");
        }
    }

    #[test]
    fn allowed_arrows_are_silent() {
        check_story(
            "insula-model: serde thiserror expect-test(dev)
             insula-plan: insula-model
             insula-agent: insula-sandbox insula-wire tokio
             insula-store: insula-model rusqlite
             insula-e2e: insula insula-store insula-agent(dev) anyhow",
            &[],
        );
    }

    #[test]
    fn a_forbidden_arrow_names_both_ends_and_the_file() {
        check_story(
            "insula-gateway: insula-store",
            &["crates/insula-gateway/Cargo.toml: insula-gateway → insula-store (dependency)"],
        );
    }

    #[test]
    fn the_data_plane_does_not_know_the_control_plane_nor_itself() {
        for from in ["insula-agent", "insula-gateway", "insula-discovery"] {
            for to in [
                "insula-store",
                "insula-control",
                "insula-api",
                "insula-agent",
                "insula-gateway",
                "insula-discovery",
            ] {
                if from != to {
                    check_story(&format!("{from}: {to}"), &[&format!("{from} → {to}")]);
                }
            }
        }
    }

    #[test]
    fn tests_obey_the_arrows_too() {
        check_story(
            "insula-wire: insula-store(dev)",
            &["insula-wire → insula-store (dev-dependency)"],
        );
        check_story("insula-kit: insula-model(build)", &["(build-dependency)"]);
    }

    #[test]
    fn nothing_uses_the_tests_of_the_whole() {
        check_story("insula: insula-e2e", &["`insula-e2e` is tests only"]);
        check_story("insula-sim: insula-e2e", &["`insula-e2e` is tests only"]);
    }

    #[test]
    fn pure_crates_take_only_what_is_listed() {
        check_story("insula-plan: tokio", &["`insula-plan` is pure"]);
        check_story("insula-model: rand(dev)", &["`insula-model` is pure"]);
        check_story("insula-model: rusqlite", &["is pure", "speaks SQL"]);
    }

    #[test]
    fn sql_stays_in_the_store() {
        check_story("insula-control: rusqlite", &["only `insula-store` speaks SQL"]);
        check_story("insula-e2e: rusqlite(dev)", &["only `insula-store` speaks SQL"]);
    }

    #[test]
    fn errors_of_libraries_have_types() {
        check_story("insula-agent: anyhow", &["a library's errors have types"]);
    }

    #[test]
    fn a_crate_without_a_row_is_refused() {
        check_story("insula-util: serde", &["`insula-util` is in no row of the table"]);
    }

    #[test]
    fn a_crate_lies_where_its_name_says() {
        let mut packages = workspace("insula-kit: serde");
        packages[0].manifest = "/repo/crates/kit/Cargo.toml".into();
        let found = check(Path::new("/repo"), &packages);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("must lie in crates/insula-kit"), "{}", found[0]);
    }

    #[test]
    fn doc_tests_and_second_test_binaries_are_refused() {
        use crate::metadata::Target;
        let mut packages = workspace("insula-kit: serde");
        let target = |name: &str, kind: &str, doctest| Target {
            name: name.to_owned(),
            kinds: vec![kind.to_owned()],
            doctest,
        };
        packages[0].targets = vec![target("insula_kit", "lib", true), target("it", "test", false)];
        let found = check(Path::new("/repo"), &packages);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("doctest = false"), "{}", found[0]);

        packages[0].targets[0].doctest = false;
        packages[0].targets.push(target("more", "test", false));
        let found = check(Path::new("/repo"), &packages);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("2 integration-test binaries (it, more)"), "{}", found[0]);
    }

    #[test]
    fn the_table_has_no_circle_and_no_unknown_name() {
        for (index, rule) in RULES.iter().enumerate() {
            let MayUse::Only(allowed) = rule.may_use else { continue };
            for used in allowed {
                let place = RULES.iter().position(|rule| rule.name == *used);
                // The table is written in an order in which each uses only those before it.
                assert!(place.is_some_and(|place| place < index), "{} → {used}", rule.name);
            }
        }
    }
}
