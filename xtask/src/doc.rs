//! Links between our own pages: a page that is named must be there.
//!
//! Only files of the repository are looked at; what lies on the web is not ours to test.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use crate::{process, tree};

pub fn check() -> Result<Vec<String>> {
    let root = process::root();
    let mut found = Vec::new();
    for path in tree::files(&root, "md")? {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let page = path.strip_prefix(&root).unwrap_or(&path);
        found.extend(dead_links(page, &text, |path| root.join(path).exists()));
    }
    Ok(found)
}

fn dead_links(page: &Path, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let folder = page.parent().unwrap_or(Path::new(""));
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for link in links(line) {
            let path = link.split('#').next().unwrap_or("");
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            if !exists(&flatten(&folder.join(path))) {
                found.push(format!("{}:{}: `{link}` leads nowhere", page.display(), index + 1));
            }
        }
    }
    found
}

/// What stands between `](` and `)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link.trim())
}

fn flatten(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                flat.pop();
            }
            Component::Normal(name) => flat.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_page(text: &str) -> Vec<String> {
        let there = ["docs/a.md", "README.md"];
        dead_links(Path::new("docs/errors/x.md"), text, |path| {
            there.iter().any(|there| Path::new(there) == path)
        })
    }

    #[test]
    fn a_link_to_a_page_that_is_there_is_silent() {
        let text = "[a](../a.md), [b](../a.md#part), [c](https://example.org), [d](#here)\n\
                    ```\n[not a link](nowhere.md)\n```\n";
        assert_eq!(check_page(text), Vec::<String>::new());
    }

    #[test]
    fn a_dead_link_is_named_with_its_line() {
        assert_eq!(check_page("\nsee [b](b.md)"), ["docs/errors/x.md:2: `b.md` leads nowhere"]);
    }
}
