//! Third-party licences: each crate must be usable under licences that we accept.

use anyhow::Result;

use crate::metadata::{self, Package};

/// Permissive, and compatible with shipping one binary under Apache-2.0.
const ACCEPTED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates under a licence that is not accepted as such, with the reason why they may be used. The
/// licence is part of the row: a crate that changes it is judged anew.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("imbl", "MPL-2.0+", "copyleft by the file, used as published; see decision 2"),
    ("imbl-sized-chunks", "MPL-2.0+", "as imbl, which is made of it"),
];

pub fn check() -> Result<Vec<String>> {
    Ok(judge(&metadata::everything()?, EXCEPTIONS))
}

fn judge(packages: &[Package], exceptions: &[(&str, &str, &str)]) -> Vec<String> {
    let is_excepted = |package: &Package, (name, licence, _): &(&str, &str, &str)| {
        package.name == *name && package.licence.as_deref() == Some(*licence)
    };
    let mut found: Vec<String> = packages
        .iter()
        .filter(|package| package.source.is_some())
        .filter(|package| !exceptions.iter().any(|row| is_excepted(package, row)))
        .filter_map(refusal)
        .collect();
    for row in exceptions {
        if !packages.iter().any(|package| is_excepted(package, row)) {
            let (name, licence, _) = row;
            found.push(format!(
                "no {name} under `{licence}` is used any more; mend its row in \
                 xtask/src/licence.rs"
            ));
        }
    }
    found
}

fn refusal(package: &Package) -> Option<String> {
    let Package { name, version, licence, .. } = package;
    let Some(licence) = licence else {
        return Some(format!("{name} {version} names no licence; take another crate"));
    };
    match is_accepted(licence) {
        Some(true) => None,
        Some(false) => Some(format!(
            "{name} {version} is under `{licence}`; take another crate, or accept the licence in \
             xtask/src/licence.rs with a decision that says why (`cargo tree -i {name}@{version}` \
             shows who brings it)"
        )),
        None => Some(format!("{name} {version}: `{licence}` is not an SPDX expression")),
    }
}

/// `None` when the expression cannot be read.
fn is_accepted(expression: &str) -> Option<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words };
    let accepted = parser.any()?;
    parser.words.is_empty().then_some(accepted)
}

/// `OR` binds least, then `AND`, then `WITH`.
struct Parser<'a> {
    words: &'a [&'a str],
}

impl Parser<'_> {
    fn any(&mut self) -> Option<bool> {
        let mut accepted = self.all()?;
        while self.take("OR") {
            accepted |= self.all()?;
        }
        Some(accepted)
    }

    fn all(&mut self) -> Option<bool> {
        let mut accepted = self.one()?;
        while self.take("AND") {
            accepted &= self.one()?;
        }
        Some(accepted)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let accepted = self.any()?;
            return self.take(")").then_some(accepted);
        }
        let mut licence = self.word()?.to_owned();
        if self.take("WITH") {
            licence = format!("{licence} WITH {}", self.word()?);
        }
        Some(ACCEPTED.contains(&licence.as_str()))
    }

    fn word(&mut self) -> Option<&str> {
        let (first, rest) = self.words.split_first()?;
        if matches!(*first, "OR" | "AND" | "WITH" | "(" | ")") {
            return None;
        }
        self.words = rest;
        Some(first)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_accepted_choice_is_enough_and_every_part_is_needed() {
        for (expression, accepted) in [
            ("MIT", Some(true)),
            ("MIT OR Apache-2.0", Some(true)),
            ("MIT/Apache-2.0", Some(true)),
            ("GPL-3.0-only OR MIT", Some(true)),
            ("MIT AND BSD-3-Clause", Some(true)),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", Some(true)),
            ("Apache-2.0 WITH LLVM-exception", Some(true)),
            ("GPL-3.0-only", Some(false)),
            ("MIT AND GPL-3.0-only", Some(false)),
            ("GPL-2.0-only WITH Classpath-exception-2.0", Some(false)),
            ("MIT OR ISC AND AGPL-3.0-only", Some(true)),
            ("(MIT OR ISC) AND AGPL-3.0-only", Some(false)),
            ("", None),
            ("MIT OR", None),
            ("(MIT", None),
            ("MIT Apache-2.0", None),
        ] {
            assert_eq!(is_accepted(expression), accepted, "{expression}");
        }
    }

    #[test]
    fn a_refusal_names_the_crate_and_its_licence() {
        let package = |name: &str, licence: Option<&str>, source: Option<&str>| Package {
            id: name.to_owned(),
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: licence.map(str::to_owned),
            manifest: "Cargo.toml".into(),
            source: source.map(str::to_owned),
            dependencies: Vec::new(),
            targets: Vec::new(),
        };
        let packages = [
            package("ours", None, None),
            package("good", Some("MIT"), Some("registry")),
            package("viral", Some("AGPL-3.0-only"), Some("registry")),
            package("silent", None, Some("registry")),
        ];
        let found = judge(&packages, &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("viral 1.0.0 is under `AGPL-3.0-only`"), "{found:?}");
        assert!(found[1].starts_with("silent 1.0.0 names no licence"), "{found:?}");

        let found = judge(&packages, &[("viral", "AGPL-3.0-only", "why")]);
        assert_eq!(found.len(), 1, "{found:?}");
        let found = judge(&packages, &[("viral", "SSPL-1.0", "why")]);
        assert_eq!(found.len(), 3, "of another licence than the row says: {found:?}");
        assert!(found[2].starts_with("no viral under `SSPL-1.0`"), "{found:?}");
    }
}
