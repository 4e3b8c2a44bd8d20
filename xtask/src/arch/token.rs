//! Words that may not stand in a crate's sources: `unsafe` outside the sandbox, a clock or a
//! file in a crate that only decides.

use super::rules::{IMPURE_WORDS, PURE, UNSAFE_CRATE};
use crate::source;

/// `file` is its path from the root, for the message and to tell sources from tests.
pub fn check(package: &str, file: &str, text: &str) -> Vec<String> {
    let code = source::code_only(text);
    let mut found = Vec::new();
    if package != UNSAFE_CRATE {
        // The lint forbids it already; this forbids switching off the lint.
        for word in ["unsafe", "unsafe_code"] {
            for line in source::lines_with(&code, word) {
                found.push(format!(
                    "{file}:{line}: `{word}` stands only in `{UNSAFE_CRATE}`; take a safe wrapper \
                     (rustix), or give the sandbox a function"
                ));
            }
        }
    }
    // A test of a pure crate may read its golden files.
    let is_source = file.contains("/src/");
    if is_source && PURE.iter().any(|(name, _)| *name == package) {
        for (word, lets_in) in IMPURE_WORDS {
            for line in lines_with_path(&code, word) {
                found.push(format!(
                    "{file}:{line}: `{word}` would let in {lets_in}, and `{package}` is pure: take \
                     what it needs as an argument"
                ));
            }
        }
    }
    found
}

/// Lower-case words are modules of std and count only as such: `env` is a fine name for an
/// environment, and `process` for a module of ours.
fn lines_with_path(code: &str, word: &str) -> Vec<usize> {
    if word.starts_with(char::is_uppercase) {
        return source::lines_with(code, word);
    }
    let mut lines = Vec::new();
    for (start, std) in code.match_indices("std::") {
        let path = &code[start + std.len()..];
        let path = match path.starts_with('{') {
            true => path.split(';').next().unwrap_or(path),
            false => path.split(|c: char| !c.is_alphanumeric()).next().unwrap_or(path),
        };
        let before = code[..start].matches('\n').count();
        lines.extend(source::lines_with(path, word).into_iter().map(|line| before + line));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_stands_in_the_sandbox_only() {
        let text = "fn f() {\n    unsafe { g() }\n}\n";
        assert_eq!(
            check("insula-sandbox", "crates/insula-sandbox/src/a.rs", text),
            Vec::<String>::new()
        );
        let found = check("insula-kit", "crates/insula-kit/src/a.rs", text);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/insula-kit/src/a.rs:2: `unsafe`"), "{found:?}");
    }

    #[test]
    fn the_lint_cannot_be_switched_off_elsewhere() {
        let found = check("insula-api", "crates/insula-api/src/lib.rs", "#![allow(unsafe_code)]");
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn pure_crates_read_no_clock_and_no_file() {
        let text = "use std::time::Instant;\nlet m = std::collections::HashMap::new();\n\
                    let x = std::fs::read(p);\nlet env = world.env();\nlet y = process::next(n);\n\
                    use std::{\n    fmt,\n    env,\n};\nstd::thread::spawn(f);\n";
        let found = check("insula-plan", "crates/insula-plan/src/a.rs", text);
        let lines: Vec<String> =
            found.iter().map(|f| f.split('`').take(2).collect::<Vec<_>>().concat()).collect();
        let file = "crates/insula-plan/src/a.rs";
        let expected = [(3, "fs"), (8, "env"), (10, "thread"), (1, "Instant"), (2, "HashMap")]
            .map(|(line, word)| format!("{file}:{line}: {word}"));
        assert_eq!(lines, expected, "{found:#?}");
        assert_eq!(check("insula-kit", "crates/insula-kit/src/a.rs", text), Vec::<String>::new());
    }

    #[test]
    fn tests_of_a_pure_crate_may_read_their_golden_files() {
        let text = "let x = std::fs::read(p);";
        assert_eq!(
            check("insula-model", "crates/insula-model/tests/it/main.rs", text),
            Vec::<String>::new()
        );
    }
}
