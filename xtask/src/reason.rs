//! Each third-party crate that we chose stands in the decision about dependencies, with its
//! reason; and nothing stands there that we no longer use.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};

use crate::process;

const PAGE: &str = "docs/decisions/0002-dependencies.md";
const MANIFEST: &str = "Cargo.toml";

pub fn check() -> Result<Vec<String>> {
    let read = |file: &str| {
        fs::read_to_string(process::root().join(file)).with_context(|| format!("read {file}"))
    };
    Ok(compare(&chosen(&read(MANIFEST)?), &reasoned(&read(PAGE)?)))
}

fn compare(chosen: &BTreeSet<&str>, reasoned: &BTreeSet<&str>) -> Vec<String> {
    let new = chosen.difference(reasoned).map(|name| {
        format!("{MANIFEST}: `{name}` has no reason; give it a row in {PAGE}, or do without it")
    });
    let gone = reasoned.difference(chosen).map(|name| {
        format!("{PAGE}: `{name}` is not in {MANIFEST} any more; take it out of its row")
    });
    new.chain(gone).collect()
}

/// The third-party names of `[workspace.dependencies]`.
fn chosen(manifest: &str) -> BTreeSet<&str> {
    let lines = manifest.lines().skip_while(|line| line.trim() != "[workspace.dependencies]");
    let lines = lines.skip(1).take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split_once('='));
    names
        .filter(|(name, value)| !name.starts_with('#') && !value.contains("path ="))
        .map(|(name, _)| name.trim())
        .collect()
}

/// The names in the first column of the page's table.
fn reasoned(page: &str) -> BTreeSet<&str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split(" |").next());
    cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[workspace]\nresolver = \"3\"\n\n[workspace.dependencies]\n\
        insula-kit = { path = \"crates/insula-kit\" }\n# serde = \"0\"\ntar = \"0.4\"\n\
        http-body = { version = \"1\" }\n\n[profile.dev]\ndebug = false\n";

    #[test]
    fn a_crate_and_its_reason_go_together() {
        let page = "| crate | why |\n|---|---|\n| `tar`, `http-body` | archives, `zip` too |\n";
        assert_eq!(compare(&chosen(MANIFEST), &reasoned(page)), Vec::<String>::new());
    }

    #[test]
    fn a_crate_without_a_reason_and_a_reason_without_a_crate_are_told() {
        let found = compare(&chosen(MANIFEST), &reasoned("| `tar`, `zip` | archives |\n"));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("Cargo.toml: `http-body` has no reason"), "{found:?}");
        assert!(found[1].contains("`zip` is not in Cargo.toml"), "{found:?}");
    }
}
