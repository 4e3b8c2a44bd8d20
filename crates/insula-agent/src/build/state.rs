//! What is kept of a build for the next agent: how often it was interrupted, and its result.

use std::io;

use insula_kit::files::{self, Access, FileError};
use insula_model::BuildId;
use insula_model::observed::BuildPhase;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::tree;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildState {
    /// Times that it was begun, by whichever agent.
    pub begun: u32,
    /// Of the attempt that the control plane counts; another one begins anew.
    pub attempt: u32,
    pub outcome: Option<BuildPhase>,
}

impl BuildState {
    /// A state that cannot be read is none: the build is begun again, and is the same.
    pub fn load(layout: &Layout, id: BuildId) -> Self {
        files::read_json(&path(layout, id)).unwrap_or_default()
    }

    pub fn store(&self, layout: &Layout, id: BuildId) -> Result<(), FileError> {
        files::write_json(&path(layout, id), self, Access::Private)
    }

    pub fn remove(layout: &Layout, id: BuildId) -> io::Result<()> {
        tree::remove(&layout.build(id))
    }
}

fn path(layout: &Layout, id: BuildId) -> std::path::PathBuf {
    layout.build(id).join("state.json")
}
