//! Typed reads from a TOML document that remember where they looked and collect every mistake.

use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

use insula_model::names::excerpt;
use insula_model::{Bytes, Millis};
use toml_edit::{Item, TableLike};

use super::suggest::suggest;
use crate::problem::Problem;

/// The name of the file, which every problem begins with.
pub const SPEC_FILE: &str = "insula.toml";
/// Beyond this the file is hostile, and reading on would only cost.
const PROBLEMS_COLLECTED_MAX: usize = 200;

pub(super) struct Reader {
    /// Where each line begins.
    starts: Vec<usize>,
    pub problems: Vec<Problem>,
}

/// A table, and the path that leads to it.
#[derive(Clone)]
pub(super) struct Section<'a> {
    path: String,
    table: &'a dyn TableLike,
}

/// A value, and the path that leads to it.
#[derive(Clone)]
pub(super) struct Entry<'a> {
    pub path: String,
    pub line: Option<usize>,
    item: &'a Item,
}

impl<'a> Section<'a> {
    pub fn top(table: &'a dyn TableLike) -> Self {
        Self { path: String::new(), table }
    }

    pub fn entry(&self, reader: &Reader, name: &str) -> Option<Entry<'a>> {
        let (key, item) = self.table.get_key_value(name)?;
        let line = reader.line(key.span().or_else(|| item.span()));
        Some(Entry { path: self.join(name), line, item })
    }

    pub fn entries(&self, reader: &Reader) -> Vec<(&'a str, Entry<'a>)> {
        let names = self.table.iter().map(|(name, _)| name);
        names.filter_map(|name| Some((name, self.entry(reader, name)?))).collect()
    }

    fn join(&self, name: &str) -> String {
        let name = excerpt(name);
        if self.path.is_empty() { name } else { format!("{}.{name}", self.path) }
    }
}

impl Reader {
    pub fn new(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(breaks).collect(), problems: Vec::new() }
    }

    pub fn line(&self, span: Option<Range<usize>>) -> Option<usize> {
        span.map(|span| self.starts.partition_point(|start| *start <= span.start))
    }

    pub fn refuse(&mut self, entry: &Entry<'_>, message: impl Into<String>, fix: &str) {
        self.refuse_at(&entry.path, entry.line, message, fix);
    }

    pub fn refuse_at(
        &mut self,
        key: &str,
        line: Option<usize>,
        message: impl Into<String>,
        fix: &str,
    ) {
        if self.problems.len() < PROBLEMS_COLLECTED_MAX {
            let problem = Problem::new(message).in_file(SPEC_FILE).at_line(line).of_key(key);
            self.problems.push(problem.fix(fix));
        }
    }

    fn wrong_type(&mut self, entry: &Entry<'_>, wanted: &str, example: &str) {
        let found = match entry.item.type_name() {
            "array of tables" | "array" => "a list",
            "inline table" | "table" => "a table",
            "string" => "text",
            "integer" => "a whole number",
            "float" => "a number with a fraction",
            "boolean" => "true or false",
            "datetime" => "a date",
            other => other,
        };
        let message = format!("this is {found}; it should be {wanted}");
        self.refuse(entry, message, &format!("write it as in `{example}`"));
    }

    /// The table under an entry, with a refusal for every key that it should not have.
    pub fn table<'a>(
        &mut self,
        entry: &Entry<'a>,
        known: &[&str],
        example: &str,
    ) -> Option<Section<'a>> {
        let section = self.any_table(entry, example)?;
        self.only(&section, known);
        Some(section)
    }

    /// The table under an entry, whatever its keys.
    pub fn any_table<'a>(&mut self, entry: &Entry<'a>, example: &str) -> Option<Section<'a>> {
        match entry.item.as_table_like() {
            Some(table) => Some(Section { path: entry.path.clone(), table }),
            None => {
                self.wrong_type(entry, "a table", example);
                None
            }
        }
    }

    pub fn only(&mut self, section: &Section<'_>, known: &[&str]) {
        for (name, entry) in section.entries(self) {
            if !known.contains(&name) {
                let fix = match suggest(name, known) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("leave it out; known are {}", known.join(", ")),
                };
                self.refuse(&entry, "there is no such key", &fix);
            }
        }
    }

    /// The tables in a list, written as `[{ … }]` or as `[[…]]`.
    pub fn tables<'a>(
        &mut self,
        entry: &Entry<'a>,
        known: &[&str],
        example: &str,
    ) -> Option<Vec<(Option<usize>, Section<'a>)>> {
        let mut tables: Vec<(Option<usize>, &'a dyn TableLike)> = Vec::new();
        if let Some(array) = entry.item.as_array_of_tables() {
            tables.extend(array.iter().map(|table| (self.line(table.span()), table as _)));
        } else if let Some(array) = entry.item.as_array() {
            for value in array {
                let Some(table) = value.as_inline_table() else {
                    self.wrong_type(entry, "a list of tables", example);
                    return None;
                };
                tables.push((self.line(value.span()), table));
            }
        } else {
            self.wrong_type(entry, "a list of tables", example);
            return None;
        }
        let mut sections = Vec::new();
        for (n, (line, table)) in tables.into_iter().enumerate() {
            let section = Section { path: format!("{}[{n}]", entry.path), table };
            self.only(&section, known);
            sections.push((line.or(entry.line), section));
        }
        Some(sections)
    }

    /// The texts in a list.
    pub fn texts<'a>(&mut self, entry: &Entry<'a>, example: &str) -> Option<Vec<&'a str>> {
        let array = entry.item.as_array();
        let texts = array.and_then(|array| array.iter().map(|value| value.as_str()).collect());
        if texts.is_none() {
            self.wrong_type(entry, "a list of texts", example);
        }
        texts
    }

    pub fn text<'a>(&mut self, entry: &Entry<'a>, example: &str) -> Option<&'a str> {
        let text = entry.item.as_str();
        if text.is_none() {
            self.wrong_type(entry, "text", example);
        }
        text
    }

    pub fn boolean(&mut self, entry: &Entry<'_>, example: &str) -> Option<bool> {
        let value = entry.item.as_bool();
        if value.is_none() {
            self.wrong_type(entry, "true or false", example);
        }
        value
    }

    /// Text that a type of ours can be made of.
    pub fn parsed<T>(&mut self, entry: &Entry<'_>, example: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.text(entry, example)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let error: T::Err = error;
                self.refuse(entry, error.to_string(), &format!("write it as in `{example}`"));
                None
            }
        }
    }

    pub fn whole(
        &mut self,
        entry: &Entry<'_>,
        min: u32,
        max: u32,
        what: &str,
        example: &str,
    ) -> Option<u32> {
        let Some(value) = entry.item.as_integer() else {
            self.wrong_type(entry, "a whole number", example);
            return None;
        };
        match u32::try_from(value) {
            Ok(value) if (min..=max).contains(&value) => Some(value),
            Ok(_) | Err(_) => {
                let message = format!("{value} is not possible");
                let fix = if min == max {
                    format!("write {what}, `{example}`")
                } else {
                    format!("write {what} from {min} to {max}")
                };
                self.refuse(entry, message, &fix);
                None
            }
        }
    }

    /// A number with or without a fraction.
    pub fn number(&mut self, entry: &Entry<'_>, example: &str) -> Option<f64> {
        let value = entry.item.as_float().or_else(|| entry.item.as_integer().map(|n| n as f64));
        if value.is_none() {
            self.wrong_type(entry, "a number", example);
        }
        value
    }

    pub fn size(
        &mut self,
        entry: &Entry<'_>,
        min: Bytes,
        max: Bytes,
        example: &str,
    ) -> Option<Bytes> {
        let value: Bytes = self.parsed(entry, example)?;
        if (min..=max).contains(&value) {
            return Some(value);
        }
        self.refuse(
            entry,
            format!("{value} is not possible"),
            &format!("write a size from {min} to {max}"),
        );
        None
    }

    pub fn span(
        &mut self,
        entry: &Entry<'_>,
        min: Millis,
        max: Millis,
        example: &str,
    ) -> Option<Millis> {
        let value: Millis = self.parsed(entry, example)?;
        if (min..=max).contains(&value) {
            return Some(value);
        }
        self.refuse(
            entry,
            format!("{value} is not possible"),
            &format!("write a span of time from {min} to {max}"),
        );
        None
    }
}
