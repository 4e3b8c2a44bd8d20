//! Runs other people's programs so that they cannot harm anybody: the only crate with `unsafe`.
//!
//! A caller describes a [`SandboxSpec`], and [`Runtime::launch`] returns a [`Record`] once the app
//! is about to run. From then on the sandbox depends on no process of ours. What this crate does not
//! do: decide when to start or stop anything, keep logs, or choose addresses.
//!
//! # How a sandbox comes to be
//!
//! The calling program executes itself with a hidden first argument ([`dispatch_hidden`]). That
//! launcher has one thread, so it may clone; it makes the namespaces, puts the child into its
//! control groups and its network, and exits. The child builds a root (`root`, `step`), gives up every
//! privilege and executes the init, a static program of a few kilobytes from a sealed memfd. The
//! init starts the app, reaps, passes signals on and records the end.
//!
//! # Files of a sandbox: a contract between versions
//!
//! Everything lies in `<run_dir>/<id>/`, and outlives upgrades of the platform:
//!
//! | file | written by | what |
//! |---|---|---|
//! | `plan.json` | launcher, before anything else is made | a record without `init`; for cleaning up |
//! | `record.json` | launcher, before the app runs | [`Record`], `schema` 1 |
//! | `out`, `err` | the app | FIFOs; the init holds both ends, so neither side sees the other go |
//! | `exit` | init | 64 bytes, version 1, see `init/contract.rs`; also counts dropped log bytes |
//! | `lock` | – | locked by `flock` while a launch goes on |
//! | `root/` | – | mount point in the sandbox's own mount namespace; empty from outside |
//!
//! A process that was written down counts only with its start time and the boot's id. A keeper opens
//! `out` and `err` for reading, without blocking, and may come and go: when nobody reads, the init
//! drops the oldest bytes rather than let the app stand still. After the app's end, when its record is
//! written and all else in the sandbox is killed, the init waits up to five seconds for its last lines
//! to be read; then it goes, and a FIFO that nobody has open loses what is in it. A keeper reads before
//! it polls: a FIFO opened after the init has gone reads as ended but never polls so.

mod cgroup;
mod child;
mod exit;
mod filter;
mod host;
mod id;
mod identity;
mod idmap;
mod launcher;
pub mod net;
mod probe;
mod process;
mod record;
mod root;
mod runtime;
mod seccomp;
mod spec;
mod step;
mod sys;

pub use cgroup::{Controller, Group, GroupError, Layout, LayoutError, Usage, Version};
pub use exit::{ExitCause, ExitFile, ExitFileError, ExitRecord};
pub use id::{BadSandboxId, SANDBOX_ID_BYTES_MAX, SandboxId};
pub use identity::ProcessIdentity;
pub use launcher::HIDDEN_ARGUMENT;
pub use probe::Capability;
pub use process::{Listener, Process};
pub use record::{Driver, RECORD_SCHEMA, Record, RecordError, SandboxDir};
pub use runtime::{ControlError, Fate, LaunchError, OpenError, Runtime, RuntimeConfig, Swept};
pub use rustix::process::Signal;
pub use spec::{
    APP_DIR, APP_UID, AppLayer, BIN_DIR, Bind, Limits, Mode, Network, SandboxSpec, SpecError,
    UID_BASE_MIN, UID_RANGE, Upper,
};

/// Runs the launcher when this process was started as one. Must be the first thing in `main`, before
/// any thread: the launcher clones.
pub fn dispatch_hidden() -> Option<std::process::ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == HIDDEN_ARGUMENT).then(launcher::main)
}
