//! The real binary, used as people use it.

mod bad_input;
mod corners;
mod everyday;
mod faults;
mod fleet;
mod ground;
mod figures;
mod lifecycle;
mod tenants;
