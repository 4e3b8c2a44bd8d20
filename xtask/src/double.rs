//! Crates that are compiled in two versions: twice the build, and types that do not fit.
//!
//! Some cannot be helped; those stand here with who brings the older one. A row that no longer
//! applies is an error too, so that the list only ever tells of what is.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::metadata::{self, Package};

/// Name, how many versions there are, and why that is so.
const KNOWN: &[(&str, usize, &str)] = &[
    ("base64", 2, "tonic takes 0.22, hyper-util 0.23"),
    ("crypto-common", 2, "as digest"),
    ("digest", 2, "crc-fast (through object_store's S3) takes 0.10, all others 0.11"),
    ("fallible-iterator", 2, "tokio-postgres takes 0.2, rusqlite 0.3"),
    ("getrandom", 2, "ring takes 0.2, tempfile 0.4"),
    ("hashbrown", 2, "rusqlite (through hashlink) and petgraph take 0.15, indexmap 0.17"),
    ("itertools", 2, "prost takes 0.14, object_store 0.15"),
    ("rand_core", 2, "imbl takes 0.9, rand (through object_store) 0.10"),
    ("syn", 2, "half of the derive crates have moved to 3"),
];

pub fn check() -> Result<Vec<String>> {
    Ok(judge(&metadata::everything()?, KNOWN))
}

fn judge(packages: &[Package], known: &[(&str, usize, &str)]) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        versions.entry(&package.name).or_default().push(&package.version);
    }
    let mut found = Vec::new();
    for (name, versions) in &versions {
        let reason =
            known.iter().find(|(known, count, _)| known == name && *count == versions.len());
        if versions.len() > 1 && reason.is_none() {
            let hints: Vec<String> = versions
                .iter()
                .map(|version| format!("`cargo tree -i {name}@{version}`"))
                .collect();
            found.push(format!(
                "{name} is compiled in {} versions ({}); {} show who brings them: align ours in the \
                 root Cargo.toml, or add a row with the reason to xtask/src/double.rs",
                versions.len(),
                versions.join(", "),
                hints.join(" and ")
            ));
        }
    }
    for (name, count, _) in known {
        let there = versions.get(name).map_or(0, Vec::len);
        if there < *count {
            found.push(format!(
                "{name} is no longer compiled in {count} versions (but in {there}); mend its row in \
                 xtask/src/double.rs"
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(words: &str) -> Vec<Package> {
        let package = |word: &str| {
            let (name, version) = word.split_once('@').expect("name@version");
            Package {
                id: word.to_owned(),
                name: name.to_owned(),
                version: version.to_owned(),
                licence: None,
                manifest: "Cargo.toml".into(),
                source: Some("registry".to_owned()),
                dependencies: Vec::new(),
                targets: Vec::new(),
            }
        };
        words.split_whitespace().map(package).collect()
    }

    #[test]
    fn a_new_double_is_told_with_the_commands_that_explain_it() {
        let found = judge(&packages("a@1.0.0 b@1.0.0 a@2.0.0"), &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("a is compiled in 2 versions (1.0.0, 2.0.0)"), "{found:?}");
        assert!(found[0].contains("`cargo tree -i a@1.0.0`"), "{found:?}");
    }

    #[test]
    fn a_known_double_is_silent_until_it_grows_or_goes() {
        let known = [("a", 2, "b takes 1, c takes 2")];
        assert_eq!(judge(&packages("a@1.0.0 a@2.0.0"), &known), Vec::<String>::new());
        let grown = judge(&packages("a@1.0.0 a@2.0.0 a@3.0.0"), &known);
        assert!(grown[0].contains("3 versions"), "{grown:?}");
        let gone = judge(&packages("a@2.0.0"), &known);
        assert!(gone[0].contains("no longer"), "{gone:?}");
    }
}
