//! Reads `insula.toml`: what stands in it, and every mistake of it. Pure.
//!
//! Nothing is filled in here and the source is not looked at; that is detection's part
//! (see `detect::described`), as are the rules that span components.

mod component;
mod placement;
mod reader;
mod rollout;
mod suggest;

use std::collections::BTreeMap;

use insula_model::limits::COMPONENTS_MAX;
use insula_model::{AppName, ComponentName};
use toml_edit::Document;

pub(crate) use component::normal_root;
pub use component::{Component, Health, Route};
pub use reader::SPEC_FILE;
use reader::{Reader, Section};

use crate::problem::{Problem, Problems};

/// The only version of the file there is.
const SCHEMA: u32 = 1;
const TOP_KEYS: &[&str] = &["schema", "app", "components"];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecFile {
    pub app: Option<AppName>,
    pub components: BTreeMap<ComponentName, Component>,
}

/// The file alone, for callers that only want to know what stands in it.
pub fn parse(text: &str) -> Result<SpecFile, Problems> {
    let (file, mut problems) = parse_what_is_right(text);
    problems.sort_by_key(|problem| problem.line);
    Problems::check(problems)?;
    Ok(file)
}

/// What could be read of the file, and every mistake in the rest. A key that is listed in
/// `Component::lines` and has no value is among the mistakes.
pub(crate) fn parse_what_is_right(text: &str) -> (SpecFile, Vec<Problem>) {
    let mut reader = Reader::new(text);
    let file = match Document::parse(text) {
        Ok(document) => read(&mut reader, &Section::top(document.as_table())),
        Err(error) => {
            let line = reader.line(error.span());
            let problem = Problem::new(format!("not TOML: {}", error.message()));
            reader.problems =
                vec![problem.in_file(SPEC_FILE).at_line(line).fix("correct the line")];
            SpecFile::default()
        }
    };
    (file, reader.problems)
}

fn read(reader: &mut Reader, top: &Section<'_>) -> SpecFile {
    let mut file = SpecFile::default();
    reader.only(top, TOP_KEYS);
    if let Some(entry) = top.entry(reader, "schema") {
        reader.whole(&entry, SCHEMA, SCHEMA, "the version of this format", "schema = 1");
    }
    if let Some(entry) = top.entry(reader, "app") {
        file.app = reader.parsed(&entry, "app = \"shop\"");
    }
    let Some(entry) = top.entry(reader, "components") else { return file };
    let Some(components) = reader.any_table(&entry, "[components.web]") else { return file };
    let entries = components.entries(reader);
    if entries.len() > COMPONENTS_MAX {
        let message = format!("{} components; an app has {COMPONENTS_MAX} at most", entries.len());
        reader.refuse(&entry, message, "make two apps of it");
    }
    for (name, entry) in entries.into_iter().take(COMPONENTS_MAX) {
        let component = component::read(reader, &entry);
        match name.parse::<ComponentName>() {
            Ok(name) => {
                file.components.extend(component.map(|component| (name, component)));
            }
            Err(error) => {
                reader.refuse(&entry, error.to_string(), "write it as in `[components.web]`")
            }
        }
    }
    file
}
