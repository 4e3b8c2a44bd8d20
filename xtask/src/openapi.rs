//! The committed description of the API, which is generated from the code by the binary.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

const COMMITTED: &str = "openapi/public.json";

/// Builds the binary and writes what it says.
pub fn write() -> Result<()> {
    let said = describe(&build_binary()?)?;
    let path = process::root().join(COMMITTED);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    fs::write(&path, said).with_context(|| format!("write {}", path.display()))?;
    println!("wrote {COMMITTED}");
    Ok(())
}

/// Builds the binary and compares.
pub fn check() -> Result<Vec<String>> {
    drift(&build_binary()?)
}

/// What the committed description lacks, against the binary's own.
pub fn drift(binary: &Path) -> Result<Vec<String>> {
    let said = describe(binary)?;
    let committed = fs::read_to_string(process::root().join(COMMITTED)).unwrap_or_default();
    Ok(compare(&committed, &said).into_iter().collect())
}

/// Builds the binary as the tests use it, and says where it is.
pub fn build_binary() -> Result<PathBuf> {
    process::run(process::cargo().args(["build", "--locked", "--package", "insula"]))?;
    Ok(target_folder()?.join("debug/insula"))
}

fn target_folder() -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let json: Value = serde_json::from_slice(&process::output(&mut cargo)?)?;
    let folder = json["target_directory"].as_str().context("cargo names no target folder")?;
    Ok(PathBuf::from(folder))
}

/// The description with a fixed layout, so that a difference is a difference in content.
fn describe(binary: &Path) -> Result<String> {
    let said = process::output(Command::new(binary).arg("openapi"))?;
    let json: Value =
        serde_json::from_slice(&said).context("`insula openapi` does not print JSON")?;
    if !json["paths"].is_object() {
        bail!("`insula openapi` prints no paths");
    }
    Ok(format!("{:#}\n", sorted(json)))
}

/// Keys in order of the alphabet, whatever features serde_json was compiled with.
fn sorted(json: Value) -> Value {
    match json {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> =
                fields.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => json,
    }
}

/// A sentence about the first line that differs.
fn compare(committed: &str, said: &str) -> Option<String> {
    if committed == said {
        return None;
    }
    let way_out = "run `cargo xtask openapi`, read the difference, and commit it";
    if committed.is_empty() {
        return Some(format!("there is no {COMMITTED}; {way_out}"));
    }
    let same = committed.lines().zip(said.lines()).take_while(|(a, b)| a == b).count();
    let line = said.lines().nth(same).unwrap_or("(the end)").trim();
    Some(format!("{COMMITTED}:{}: the code says `{line}`; {way_out}", same + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_in_one_order() {
        let json = |text| serde_json::from_str::<Value>(text).expect("JSON");
        let a = sorted(json(r#"{"b": [{"d": 1, "c": 2}], "a": 3}"#));
        assert_eq!(a.to_string(), r#"{"a":3,"b":[{"c":2,"d":1}]}"#);
    }

    #[test]
    fn drift_is_told_with_its_first_line() {
        assert_eq!(compare("{\n}\n", "{\n}\n"), None);
        let said = compare("{\n  \"a\": 1\n}\n", "{\n  \"a\": 2\n}\n").unwrap_or_default();
        assert!(said.starts_with("openapi/public.json:2: the code says `\"a\": 2`"), "{said}");
        assert!(compare("", "{\n}\n").is_some_and(|said| said.contains("there is no")));
        assert!(compare("{\n}\n\n", "{\n}\n").is_some_and(|said| said.contains("(the end)")));
    }
}
