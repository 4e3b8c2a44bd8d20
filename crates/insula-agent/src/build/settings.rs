//! The operator's proxy, package index and CA settings, as builds see them. Pure.
//!
//! The files that settings name are shown at the same place where a sandbox has room for them, and
//! elsewhere if not; then the settings say so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use insula_sandbox::Bind;

use crate::config::BuildSettings;

/// Where files are shown whose own place belongs to the sandbox (`/usr`, `/tmp`, `/run`, …).
const ELSEWHERE: &str = "/etc/insula-host";
/// First parts of paths where nothing can be shown.
const TAKEN: [&str; 12] =
    ["app", "usr", "bin", "sbin", "lib", "lib64", "proc", "dev", "tmp", "run", "sys", ".insula"];

#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub env: BTreeMap<String, String>,
    pub binds: Vec<Bind>,
}

impl Settings {
    pub fn of(given: &BuildSettings) -> Self {
        let mut settings = Self { env: given.env.clone(), binds: Vec::new() };
        for (number, source) in given.read_only.iter().enumerate() {
            let target = place(source, number);
            if target != *source {
                for value in settings.env.values_mut() {
                    *value = moved(value, source, &target);
                }
            }
            settings.binds.push(Bind { source: source.clone(), target, read_only: true });
        }
        settings
    }
}

fn place(source: &Path, number: usize) -> PathBuf {
    let mut parts = source.components().skip(1).map(|part| part.as_os_str());
    let first = parts.next().and_then(|part| part.to_str()).unwrap_or_default();
    let deep = parts.next().is_some();
    let free = !first.is_empty() && !TAKEN.contains(&first) && (first != "etc" || deep);
    if free {
        return source.to_owned();
    }
    let name = source.file_name().unwrap_or_default();
    Path::new(ELSEWHERE).join(number.to_string()).join(name)
}

/// Replaces the path where it stands as a whole: alone, as a folder above something, or in a list.
fn moved(value: &str, source: &Path, target: &Path) -> String {
    let (source, target) = (source.display().to_string(), target.display().to_string());
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find(&source) {
        let (before, after) = (&rest[..at], &rest[at + source.len()..]);
        let begins = before.chars().next_back().is_none_or(|c| matches!(c, ' ' | ':' | ',' | '/'));
        // `file:///ca.pem` has a slash before it that is not a part of it.
        let begins = begins && (!before.ends_with('/') || before.ends_with("//"));
        let ends = after.chars().next().is_none_or(|c| matches!(c, ' ' | ':' | ',' | '/'));
        out.push_str(before);
        out.push_str(if begins && ends { &target } else { &source });
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_their_place_where_there_is_room_and_settings_follow_them() {
        let given = BuildSettings {
            env: [
                ("PIP_CERT", "/usr/local/share/ca.pem"),
                ("PIP_CONFIG_FILE", "/etc/pip.conf"),
                ("PIP_FIND_LINKS", "file:///tmp/wheels /tmp/wheels-more"),
                ("HTTPS_PROXY", "http://proxy:3128"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            read_only: ["/usr/local/share/ca.pem", "/etc/pip.conf", "/tmp/wheels"]
                .map(PathBuf::from)
                .into(),
        };
        let settings = Settings::of(&given);
        let env: Vec<&str> = settings.env.values().map(String::as_str).collect();
        assert_eq!(
            env,
            [
                "http://proxy:3128",
                "/etc/insula-host/0/ca.pem",
                "/etc/pip.conf",
                "file:///etc/insula-host/2/wheels /tmp/wheels-more",
            ]
        );
        let binds: Vec<String> =
            settings.binds.iter().map(|b| b.target.display().to_string()).collect();
        assert_eq!(
            binds,
            ["/etc/insula-host/0/ca.pem", "/etc/pip.conf", "/etc/insula-host/2/wheels"]
        );
        assert!(settings.binds.iter().all(|bind| bind.read_only));
    }
}
