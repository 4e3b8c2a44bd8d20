//! From a folder to a manifest: read, detect, hash. All local.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use insula_blobs::{Entry, Manifest};
use insula_build::folder::Folder;
use insula_build::{Detected, Node, detect, folder};
use insula_model::spec::ComponentSpec;
use insula_model::{AppName, Bytes, ComponentName};
use insula_wire::rest::deployment::Phase;

use super::report::local_phase;
use crate::app_name;
use crate::failure::Failure;
use crate::show::paint::Paint;
use crate::show::{Terminal, clean, units};

/// A folder that is ready to be sent.
pub struct Prepared {
    pub name: AppName,
    pub folder: Arc<Folder>,
    pub detected: Detected,
    pub manifest: Manifest,
    /// How long that took.
    pub read: Phase,
}

pub fn prepare(path: &Path, terminal: &Terminal) -> Result<Prepared, Failure> {
    let began = Instant::now();
    let folder = folder::read(path)?;
    let view =
        folder.view().map_err(|error| Failure::because("read what the folder holds", &error))?;
    let detected = detect(&view).map_err(|problems| Failure::of_spec(&problems))?;
    terminal.progress("reading the folder");
    let hashed = folder
        .hash()
        .map_err(|error| Failure::because("read the folder", &error).hint("try again"))?;
    let entries = hashed.into_iter().map(|entry| match entry.node {
        Node::File { size, executable, contents } => {
            Entry::file(entry.path, contents, size, executable)
        }
        Node::Symlink { target } => Entry::symlink(entry.path, target),
        Node::Dir => Entry::dir(entry.path),
    });
    let manifest = Manifest::new(entries.collect())
        .map_err(|error| Failure::because("list the folder", &error))?;
    let name = detected.app.clone().unwrap_or_else(|| app_name::of_folder(path));
    let read = local_phase("read", began.elapsed());
    Ok(Prepared { name, folder: Arc::new(folder), detected, manifest, read })
}

impl Prepared {
    pub fn manifest_json(&self) -> Result<serde_json::Value, Failure> {
        serde_json::from_slice(&self.manifest.encode())
            .map_err(|error| Failure::because("write the manifest", &error))
    }

    /// What was found, for people.
    pub fn found(&self, paint: Paint) -> String {
        let files = units::count(self.manifest.entries().len(), "file", "files");
        let mut lines = vec![format!("{files}, {}", units::size(self.folder.total().0))];
        for (name, component) in &self.detected.spec.components {
            lines.push(component_line(name, component, paint));
        }
        if !self.folder.left_out.is_empty() {
            lines.push(paint.dim(&format!("left out: {}", self.folder.left_out.join(", "))));
        }
        lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
    }

    pub fn total(&self) -> Bytes {
        self.folder.total()
    }
}

fn component_line(name: &ComponentName, component: &ComponentSpec, paint: Paint) -> String {
    let run = component.run.as_deref().map(|run| format!(": {}", clean::line(run)));
    format!(
        "{} {} ({}){}",
        paint.bold(name.as_str()),
        component.kind.as_str(),
        component.runtime.as_str(),
        run.unwrap_or_default()
    )
}
