//! Tests of the real binary: `insula up` on this machine, used as people use it.
//!
//! The library is a hand that starts, asks, breaks and looks; `tests/it` tells stories with it in
//! bounded form, and the program `insula-measure` runs the same stories at full length for
//! `cargo xtask bench` and `cargo xtask soak`.

pub mod app;
pub mod archive;
pub mod bench_fleet;
pub mod disk;
pub mod explorer;
pub mod fleet;
pub mod folder;
pub mod host;
pub mod http;
pub mod late;
pub mod load;
pub mod machine;
pub mod process;
pub mod scheduler;
pub mod soak_fleet;
pub mod story;
