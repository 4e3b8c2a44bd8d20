//! The real binary, used as people use it.

mod backups;
mod bad_input;
mod corners;
mod everyday;
mod faults;
mod figures;
mod fleet;
mod ground;
mod lifecycle;
mod tenants;
