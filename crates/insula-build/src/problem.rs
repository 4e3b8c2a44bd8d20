//! Mistakes in what a developer wrote, all of them at once.
//!
//! A `Problem` is for people and for programs alike: where it is, what is wrong, what to write
//! instead. It quotes little of what it refuses, and nothing that moves a cursor.

use std::fmt;

/// More mistakes than anybody corrects before trying again.
pub const PROBLEMS_MAX: usize = 50;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Relative to the source; nothing if it is about the source as a whole.
    pub file: Option<String>,
    /// Counted from 1, where it is known.
    pub line: Option<usize>,
    /// As in `components.web.memory`.
    pub key: Option<String>,
    pub message: String,
    /// What to do, beginning with a verb.
    pub fix: Option<String>,
}

impl Problem {
    pub fn new(message: impl Into<String>) -> Self {
        Self { file: None, line: None, key: None, message: message.into(), fix: None }
    }

    pub fn in_file(mut self, file: &str) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    pub fn at_line(mut self, line: Option<usize>) -> Self {
        self.line = line;
        self
    }

    pub fn of_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: ")?,
            (Some(file), None) => write!(f, "{file}: ")?,
            (None, _) => {}
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(fix) = &self.fix {
            write!(f, "\n  fix: {fix}")?;
        }
        Ok(())
    }
}

/// At least one problem, in the order in which they stand in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    left_out: usize,
}

impl Problems {
    /// The list as an error, if there is anything on it.
    pub fn check(list: Vec<Problem>) -> Result<(), Self> {
        if list.is_empty() { Ok(()) } else { Err(Self::from(list)) }
    }

    /// The same, of which only some are shown.
    pub fn shown(list: Vec<Problem>, max: usize) -> Result<(), Self> {
        Self::check(list).map_err(|mut problems| {
            problems.left_out += problems.list.len().saturating_sub(max);
            problems.list.truncate(max);
            problems
        })
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    pub fn into_vec(self) -> Vec<Problem> {
        self.list
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self { list: vec![problem], left_out: 0 }
    }
}

impl From<Vec<Problem>> for Problems {
    fn from(mut list: Vec<Problem>) -> Self {
        debug_assert!(!list.is_empty(), "problems without a problem");
        let left_out = list.len().saturating_sub(PROBLEMS_MAX);
        list.truncate(PROBLEMS_MAX);
        Self { list, left_out }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.list.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        if self.left_out > 0 {
            write!(f, "\nand {} more", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
