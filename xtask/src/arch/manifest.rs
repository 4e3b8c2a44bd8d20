//! What a manifest of ours must say and cargo does not tell: that it takes the workspace's
//! lints, and every third-party version and feature, from the root.

use super::rules::TEST_FEATURES;

/// `file` is for the message; `text` is the manifest.
pub fn check(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut section = "";
    let mut has_lints = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
            if names_a_dependency(section) {
                found.push(format!(
                    "{file}:{}: write `x.workspace = true` in place of [{section}]",
                    index + 1
                ));
            }
            continue;
        }
        if section == "lints" && squeezed(line) == "workspace=true" {
            has_lints = true;
        }
        let may_stand = comes_from_root(line) || is_for_tests(section, line);
        if is_dependencies(section) && !line.is_empty() && !may_stand {
            found.push(format!(
                "{file}:{}: `{line}`: versions and features stand in the root Cargo.toml only; \
                 write `x.workspace = true`",
                index + 1
            ));
        }
    }
    if !has_lints {
        found.push(format!(
            "{file}: the lints of the workspace do not apply; add\n[lints]\nworkspace = true"
        ));
    }
    found
}

fn is_dependencies(section: &str) -> bool {
    let last = section.rsplit('.').next().unwrap_or(section);
    matches!(last, "dependencies" | "dev-dependencies" | "build-dependencies")
}

/// `[dependencies.serde]`: the other way to write a dependency, which would evade us.
fn names_a_dependency(section: &str) -> bool {
    section.rsplit_once('.').is_some_and(|(before, _)| is_dependencies(before))
}

fn comes_from_root(line: &str) -> bool {
    let line = squeezed(line);
    let has_own_features = line.contains("features=");
    (line.contains(".workspace=true") || line.contains("{workspace=true")) && !has_own_features
}

/// A feature that the product must not have, added where only tests see it.
fn is_for_tests(section: &str, line: &str) -> bool {
    let line = squeezed(line);
    section == "dev-dependencies"
        && TEST_FEATURES.iter().any(|(name, feature)| {
            line == format!("{name}={{workspace=true,features=[\"{feature}\"]}}")
        })
}

fn squeezed(line: &str) -> String {
    line.chars().filter(|c| !c.is_whitespace()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"x\"\n\n[dependencies]\nserde.workspace = true # why\n\
                        tokio = { workspace = true, optional = true }\n\n[lints]\nworkspace = true\n";

    #[test]
    fn a_manifest_that_leaves_everything_to_the_root_is_fine() {
        assert_eq!(check("x/Cargo.toml", GOOD), Vec::<String>::new());
    }

    #[test]
    fn missing_lints_are_seen() {
        for text in
            ["", "[lints]\n", "[lints.rust]\nworkspace = true\n", "# [lints]\n# workspace = true"]
        {
            let found = check("x/Cargo.toml", text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains("lints"), "{found:?}");
        }
    }

    #[test]
    fn a_version_or_feature_of_ones_own_is_seen_in_every_spelling() {
        for (section, line) in [
            ("dependencies", "serde = \"1\""),
            ("dev-dependencies", "serde = { version = \"1\" }"),
            ("build-dependencies", "serde = { workspace = true, features = [\"rc\"] }"),
            ("target.'cfg(unix)'.dependencies", "serde = \"1\""),
        ] {
            let text = format!("{GOOD}\n[{section}]\n{line}\n");
            let found = check("x/Cargo.toml", &text);
            assert_eq!(found.len(), 1, "{line}: {found:?}");
            assert!(found[0].starts_with("x/Cargo.toml:12: "), "{found:?}");
        }
        let found =
            check("x/Cargo.toml", &format!("{GOOD}\n[dependencies.serde]\nversion = \"1\"\n"));
        assert!(found[0].contains("[dependencies.serde]"), "{found:?}");
    }

    #[test]
    fn a_feature_for_tests_stands_with_the_tests_alone() {
        let line = "tokio = { workspace = true, features = [\"test-util\"] }";
        let in_section =
            |section, line| check("x/Cargo.toml", &format!("{GOOD}\n[{section}]\n{line}\n"));
        assert_eq!(in_section("dev-dependencies", line), Vec::<String>::new());
        assert_eq!(in_section("dependencies", line).len(), 1);
        assert_eq!(in_section("target.'cfg(unix)'.dependencies", line).len(), 1);
        for other in [
            "tokio = { workspace = true, features = [\"full\"] }",
            "tokio = { workspace = true, features = [\"test-util\", \"full\"] }",
            "serde = { workspace = true, features = [\"test-util\"] }",
            "tokio = { version = \"1\", features = [\"test-util\"] }",
        ] {
            assert_eq!(in_section("dev-dependencies", other).len(), 1, "{other}");
        }
    }
}
