//! The arrows between our crates, and what keeps them honest.
//!
//! `rules.rs` is the table, `arrow.rs` compares cargo's graph with it, `manifest.rs` reads what
//! cargo does not tell, `token.rs` reads the sources. All of them are functions from text to
//! findings; only this file touches the disk.

mod arrow;
mod manifest;
mod rules;
mod token;

use std::fs;

use anyhow::{Context, Result};

use crate::{metadata, process, tree};

/// Every breach, as a sentence that names the file and the way out.
pub fn check() -> Result<Vec<String>> {
    let root = process::root();
    let packages = metadata::workspace()?;
    let mut found = arrow::check(&root, &packages);
    for package in &packages {
        let shown =
            |path: &std::path::Path| path.strip_prefix(&root).unwrap_or(path).display().to_string();
        let text = fs::read_to_string(&package.manifest)
            .with_context(|| format!("read {}", package.manifest.display()))?;
        found.extend(manifest::check(&shown(&package.manifest), &text));
        for path in tree::files(package.folder(), "rs")? {
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            found.extend(token::check(&package.name, &shown(&path), &text));
        }
    }
    Ok(found)
}
