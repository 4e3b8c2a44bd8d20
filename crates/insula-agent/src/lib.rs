//! The node agent: builds, sandboxes, probes, logs.

pub mod keeper;
pub mod log;
