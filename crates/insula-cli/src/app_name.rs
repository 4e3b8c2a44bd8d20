//! What a folder calls its app: the `app` of its insula.toml, else its own name made into a name.

use std::path::Path;

use insula_kit::files;
use insula_model::AppName;
use insula_model::names::LABEL_LEN_MAX;

const SPEC_FILE: &str = "insula.toml";
/// One that is longer is refused where it matters, when it is deployed.
const SPEC_FILE_BYTES_MAX: u64 = 1 << 20;
/// For a folder without a single letter in its name.
const FALLBACK: &str = "app";

pub fn of_folder(folder: &Path) -> AppName {
    of_spec(folder).unwrap_or_else(|| {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        from_text(&name.unwrap_or_default())
    })
}

/// Mistakes in the file are told when it is deployed.
fn of_spec(folder: &Path) -> Option<AppName> {
    let bytes = files::read(&folder.join(SPEC_FILE), SPEC_FILE_BYTES_MAX).ok()?;
    insula_build::spec_file::parse(std::str::from_utf8(&bytes).ok()?).ok()?.app
}

/// The nearest name: small letters, digits and single hyphens, beginning with a letter.
pub fn from_text(text: &str) -> AppName {
    let mut name = String::new();
    for c in text.chars() {
        let c = c.to_ascii_lowercase();
        match c {
            'a'..='z' => name.push(c),
            '0'..='9' if name.is_empty() => {
                name.push_str("app-");
                name.push(c);
            }
            '0'..='9' => name.push(c),
            _ if name.is_empty() || name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    name.truncate(LABEL_LEN_MAX);
    let name = name.trim_end_matches('-');
    let name = if name.is_empty() { FALLBACK } else { name };
    name.parse().expect("what was made to the rule keeps it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_becomes_a_name() {
        let made = |text: &str| from_text(text).to_string();
        assert_eq!(made("hello"), "hello");
        assert_eq!(made("My Shop (2)"), "my-shop-2");
        assert_eq!(made("--a__b--"), "a-b");
        assert_eq!(made("3d.viewer"), "app-3d-viewer");
        assert_eq!(made("xn--bcher"), "xn-bcher");
        assert_eq!(made("漢字"), "app");
        assert_eq!(made(""), "app");
        assert_eq!(made("."), "app");
        assert_eq!(made(&"ab-".repeat(30)), "ab-ab-ab-ab-ab-ab-ab-ab-ab-ab-ab-ab-ab-a");
    }

    #[test]
    fn insula_toml_has_the_first_word() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("My Folder");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(of_folder(&folder).as_str(), "my-folder");
        std::fs::write(folder.join("insula.toml"), "app = \"shop\"\n").unwrap();
        assert_eq!(of_folder(&folder).as_str(), "shop");
        std::fs::write(folder.join("insula.toml"), "app = 7\n").unwrap();
        assert_eq!(of_folder(&folder).as_str(), "my-folder");
    }
}
