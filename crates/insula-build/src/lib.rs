//! Source to artifact: detection, runtimes, insula.toml, archives.
