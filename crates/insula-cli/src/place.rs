//! Where things lie on the user's machine: the data folder, and the folder of the sign-ins.

use std::path::PathBuf;

use anyhow::Context;

/// What `insula up` uses when nobody says otherwise.
const SYSTEM_DATA: &str = "/var/lib/insula";

/// `/var/lib/insula` as root, else the user's own data folder.
pub fn default_data_folder() -> anyhow::Result<PathBuf> {
    let root = rustix::process::geteuid().is_root();
    data_folder(root, |name| std::env::var_os(name).map(PathBuf::from))
        .context("neither XDG_DATA_HOME nor HOME says where data belongs; give --data")
}

/// Where `insula login` keeps what it got.
pub fn config_folder() -> Option<PathBuf> {
    config(|name| std::env::var_os(name).map(PathBuf::from))
}

fn data_folder(root: bool, env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if root {
        return Some(PathBuf::from(SYSTEM_DATA));
    }
    xdg(&env, "XDG_DATA_HOME", ".local/share")
}

fn config(env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    xdg(&env, "XDG_CONFIG_HOME", ".config")
}

/// The XDG specification: a path that is not absolute is as good as none.
fn xdg(env: &impl Fn(&str) -> Option<PathBuf>, name: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name| env(name).filter(|path| path.is_absolute());
    let base = absolute(name).or_else(|| Some(absolute("HOME")?.join(below_home)))?;
    Some(base.join("insula"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<PathBuf> {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
    }

    #[test]
    fn root_has_one_place_and_everybody_else_their_own() {
        let both = env(&[("XDG_DATA_HOME", "/x"), ("HOME", "/home/ada")]);
        assert_eq!(data_folder(true, &both), Some("/var/lib/insula".into()));
        assert_eq!(data_folder(false, &both), Some("/x/insula".into()));
        let home = env(&[("HOME", "/home/ada")]);
        assert_eq!(data_folder(false, &home), Some("/home/ada/.local/share/insula".into()));
        assert_eq!(config(&home), Some("/home/ada/.config/insula".into()));
    }

    #[test]
    fn a_relative_path_in_the_environment_does_not_count() {
        assert_eq!(data_folder(false, env(&[("XDG_DATA_HOME", "x"), ("HOME", "")])), None);
    }
}
