//! Where runtimes are found on a node, and what installs those that are missing. Pure.
//!
//! The agent says which of `CANDIDATES` exist and what they answer to `--version`.

use insula_model::node::RuntimeFound;
use insula_model::spec::Runtime;

/// Programs by which a runtime is known, the better one first. Instances see `/usr` of the node
/// and nothing else of it, so there is no use in looking elsewhere.
pub const CANDIDATES: &[(Runtime, &str)] = &[
    (Runtime::Python, "/usr/bin/python3"),
    (Runtime::Python, "/usr/local/bin/python3"),
    (Runtime::Node, "/usr/bin/node"),
    (Runtime::Node, "/usr/bin/nodejs"),
    (Runtime::Node, "/usr/local/bin/node"),
    (Runtime::Host, "/usr/bin/sh"),
    (Runtime::Host, "/bin/sh"),
];
/// What a runtime needs beside its program to build; one path of each list must exist.
const COMPANIONS: &[(Runtime, &[&str])] =
    &[(Runtime::Node, &["/usr/bin/npm", "/usr/local/bin/npm"])];
/// A version as it is shown; longer ones are not versions.
const VERSION_LEN_MAX: usize = 64;

/// The line that installs a runtime on Debian and its relatives; nothing where nothing is needed.
pub fn runtime_hint(runtime: Runtime) -> Option<&'static str> {
    match runtime {
        // Debian leaves `ensurepip`, which every virtual environment begins with, in a package of
        // its own.
        Runtime::Python => Some("apt-get install python3 python3-venv"),
        Runtime::Node => Some("apt-get install nodejs npm"),
        Runtime::Host => Some("apt-get install dash"),
        Runtime::Files => None,
    }
}

/// Everything whose existence `found_in_usr` would like to know.
pub fn paths_to_look_at() -> Vec<&'static str> {
    let companions = COMPANIONS.iter().flat_map(|(_, paths)| paths.iter().copied());
    CANDIDATES.iter().map(|(_, path)| *path).chain(companions).collect()
}

/// The runtimes of a node, from the paths that exist there, each with an empty version. Files are
/// served by ourselves, so that runtime is always there.
pub fn found_in_usr(existing: &[&str]) -> Vec<RuntimeFound> {
    let there = |path: &str| existing.contains(&path);
    let mut found = Vec::new();
    for runtime in Runtime::ALL {
        let path = match runtime {
            Runtime::Files => Some(""),
            Runtime::Python | Runtime::Node | Runtime::Host => CANDIDATES
                .iter()
                .find(|(of, path)| *of == runtime && there(path))
                .map(|(_, path)| *path),
        };
        let complete = COMPANIONS
            .iter()
            .filter(|(of, _)| *of == runtime)
            .all(|(_, paths)| paths.iter().any(|path| there(path)));
        found.extend(path.filter(|_| complete).map(|path| RuntimeFound {
            runtime,
            version: String::new(),
            path: path.to_owned(),
        }));
    }
    found
}

/// What `python3 --version` or `node --version` printed, as a bare version.
pub fn version_of(printed: &str) -> String {
    let word = printed.split_whitespace().last().unwrap_or_default();
    let word = word.strip_prefix('v').unwrap_or(word);
    word.chars().filter(|c| c.is_ascii_graphic()).take(VERSION_LEN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_where_its_program_is() {
        let found = found_in_usr(&["/usr/local/bin/python3", "/usr/bin/python3", "/usr/bin/sh"]);
        let names: Vec<_> = found.iter().map(|f| (f.runtime, f.path.as_str())).collect();
        let expected = [
            (Runtime::Python, "/usr/bin/python3"),
            (Runtime::Files, ""),
            (Runtime::Host, "/usr/bin/sh"),
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn node_without_npm_cannot_build() {
        let has_node =
            |paths: &[&str]| found_in_usr(paths).iter().any(|found| found.runtime == Runtime::Node);
        assert!(!has_node(&["/usr/bin/node"]));
        assert!(has_node(&["/usr/bin/node", "/usr/bin/npm"]));
    }

    #[test]
    fn versions_are_read_as_they_are_printed() {
        assert_eq!(version_of("Python 3.11.2\n"), "3.11.2");
        assert_eq!(version_of("v18.20.4\n"), "18.20.4");
        assert_eq!(version_of(""), "");
    }
}
