//! Descriptions made for other platforms, which are not read yet: named, never passed over.

use super::Cx;
use crate::source::Folder;

/// Of these, what is there is not honoured; importers come later.
const NOT_READ: &[&str] = &[
    "app.json",
    ".do/app.yaml",
    ".do/deploy.template.yaml",
    "fly.toml",
    "render.yaml",
    "heroku.yml",
    "railway.json",
    "railway.toml",
    "captain-definition",
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
    "Dockerfile",
    "project.toml",
    "nixpacks.toml",
    "railpack.json",
];

/// What belongs to languages that have no runtime here yet, and what would build them.
pub const OTHER_LANGUAGES: &[(&str, &str)] = &[
    ("go.mod", "Go"),
    ("Cargo.toml", "Rust"),
    ("Gemfile", "Ruby"),
    ("composer.json", "PHP"),
    ("pom.xml", "Java"),
    ("build.gradle", "Java"),
    ("build.gradle.kts", "Java"),
    ("deno.json", "Deno"),
    ("mix.exs", "Elixir"),
    ("Pipfile", "Pipenv"),
];

pub fn not_read(top: Folder<'_>) -> Vec<&'static str> {
    NOT_READ.iter().copied().filter(|name| top.has(name)).collect()
}

pub fn warn(cx: &mut Cx<'_>, top: Folder<'_>) {
    for name in not_read(top) {
        cx.warn(format!("{name} is not read yet; nothing in it has an effect"));
    }
}
