//! Input that nobody would write, from a generator that always says the same: nothing panics, and
//! every answer keeps its limits.

use insula_build::detect;
use insula_build::problem::PROBLEMS_MAX;
use insula_build::procfile;
use insula_model::limits::COMPONENTS_MAX;

use crate::show::source;

/// Marsaglia's xorshift; good enough to be surprised by.
struct Chance(u64);

impl Chance {
    fn below(&mut self, max: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % max as u64) as usize
    }

    fn text(&mut self, words: &[&str], length: usize) -> String {
        (0..self.below(length)).map(|_| words[self.below(words.len())]).collect()
    }
}

const TOML: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "components",
    ".",
    "web",
    "a",
    " = ",
    "\"",
    "'",
    "\n",
    "{",
    "}",
    ",",
    "1",
    "-1",
    "0.5",
    "nan",
    "true",
    "run",
    "kind",
    "\"service\"",
    "\"job\"",
    "routes",
    "path",
    "\"/\"",
    "root",
    "\"..\"",
    "health",
    "variables",
    "schema",
    "\u{7f}",
    "ü",
    "\"\"\"",
    "#",
    "\\u0000",
    "memory",
    "\"9999999999GiB\"",
    "1979-05-27",
    "port",
    "65536",
    "\0",
    "build",
    "runtime",
];
const PROCFILE: &[&str] = &[
    "web",
    ":",
    " ",
    "\n",
    "#",
    "//",
    "<<<<<<< HEAD",
    "\"",
    "'",
    "\\",
    "release",
    "\t",
    "\r",
    "ü",
    "cron",
    "* * * * *",
    "wsgi",
    "_",
    "-",
    "A",
    "0",
    "\0",
];
const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"scripts\"",
    ":",
    "\"start\"",
    ",",
    "\"a\"",
    "1",
    "null",
    "\"build\"",
    "\"dependencies\"",
    "\"main\"",
    "\"../x\"",
    "\"engines\"",
    "\"node\"",
    "\\",
    "\"",
];

fn is_well_behaved(files: &[(&str, &str)]) {
    match detect(&source(files)) {
        Ok(detected) => assert!(!detected.spec.components.is_empty(), "{files:?}"),
        Err(problems) => {
            assert!((1..=PROBLEMS_MAX).contains(&problems.iter().count()), "{files:?}");
            let shown = problems.to_string();
            assert!(!shown.contains(['\u{7f}', '\0', '\u{1b}']), "{shown:?}");
        }
    }
}

#[test]
fn random_specs_are_answered() {
    let mut chance = Chance(0x5eed);
    for _ in 0..5_000 {
        is_well_behaved(&[("insula.toml", &chance.text(TOML, 60)), ("web/x", "")]);
    }
}

#[test]
fn specs_with_one_wrong_letter_are_answered() {
    let good = include_str!("../../../../examples/multi/insula.toml");
    let mut chance = Chance(0xfeed);
    for _ in 0..5_000 {
        let mut letters: Vec<char> = good.chars().collect();
        for _ in 0..=chance.below(3) {
            let at = chance.below(letters.len());
            letters[at] = ['"', '=', '\n', '[', '}', 'x', '0', '\u{1b}', 'ü'][chance.below(9)];
        }
        let text: String = letters.into_iter().collect();
        is_well_behaved(&[("insula.toml", &text), ("web/main.py", ""), ("beat/main.py", "")]);
    }
}

#[test]
fn random_procfiles_are_answered() {
    let mut chance = Chance(0xbeef);
    for _ in 0..10_000 {
        let text = chance.text(PROCFILE, 40);
        is_well_behaved(&[("Procfile", &text)]);
        if let Ok(processes) = procfile::parse(&text) {
            assert!(processes.len() <= COMPONENTS_MAX);
            assert!(processes.iter().all(|p| !p.command.is_empty() && !p.kind.is_empty()));
        }
    }
}

#[test]
fn random_packages_are_answered() {
    let mut chance = Chance(0xcafe);
    for _ in 0..5_000 {
        is_well_behaved(&[("package.json", &chance.text(JSON, 40)), ("x", "")]);
        is_well_behaved(&[("pyproject.toml", &chance.text(TOML, 40)), ("main.py", "")]);
    }
}
