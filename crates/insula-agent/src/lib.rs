//! The node agent: builds, sandboxes, probes, logs.
