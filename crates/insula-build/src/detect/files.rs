//! Static sites: which folder is served.

use super::Cx;
use crate::problem::Problem;
use crate::source::Folder;
use crate::spec_file::normal_root;

const STATICFILE: &str = "Staticfile";
/// Where generators put what they made, in the order in which we look.
const OUTPUTS: &[&str] = &["public", "dist", "build", "_site", "site", "www"];

/// The folder to serve, relative to the source.
pub fn served(cx: &mut Cx<'_>, folder: Folder<'_>) -> Option<String> {
    if folder.has(STATICFILE) {
        let text = cx.required_text(folder, STATICFILE)?;
        return staticfile_root(cx, folder, text);
    }
    if folder.has("index.html") || folder.has(".static") {
        return Some(folder.root().to_owned());
    }
    let output = OUTPUTS.iter().find(|output| folder.has(&format!("{output}/index.html")))?;
    Some(folder.path(output))
}

/// `Staticfile` of Cloud Foundry: `root: public`. Empty means the folder itself.
fn staticfile_root(cx: &mut Cx<'_>, folder: Folder<'_>, text: &str) -> Option<String> {
    let mut root = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line == "---" {
            continue;
        }
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        if key.trim() != "root" {
            cx.warn(format!(
                "{STATICFILE}: `{}` is not honoured; only `root` is",
                insula_model::names::excerpt(key.trim())
            ));
            continue;
        }
        let value = value.trim().trim_matches(['"', '\'']);
        match normal_root(value).filter(|root| cx.view.has_folder(&joined(folder, root))) {
            Some(found) => root = found,
            None => {
                let message =
                    format!("there is no folder `{}`", insula_model::names::excerpt(value));
                let problem = Problem::new(message).in_file(&folder.path(STATICFILE));
                cx.refuse(
                    problem
                        .at_line(Some(index + 1))
                        .of_key("root")
                        .fix("name a folder that is there"),
                );
                return None;
            }
        }
    }
    Some(joined(folder, &root))
}

fn joined(folder: Folder<'_>, root: &str) -> String {
    if root.is_empty() { folder.root().to_owned() } else { folder.path(root) }
}
