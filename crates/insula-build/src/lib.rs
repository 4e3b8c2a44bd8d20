//! Source to artifact: detection, runtimes, `insula.toml`, folders and archives.
//!
//! `detect` decides, from a small view of a source, what runs and what is built for it; it does no
//! I/O. `folder` reads what a developer has on disk, `archive` what a program has sent, and `layer`
//! packs and unpacks what a build has made. Nothing here talks to a network or starts a process.

pub mod archive;
pub mod detect;
pub mod entry;
pub mod folder;
pub mod layer;
pub mod problem;
pub mod procfile;
pub mod runtime;
pub mod source;
pub mod spec_file;

pub use detect::{Detected, detect};
pub use entry::{Entry, Node};
pub use folder::Folder;
pub use problem::{Problem, Problems};
pub use runtime::{found_in_usr, runtime_hint};
pub use source::{SourceFile, SourceView, WANTED};
