//! The real binary, used as people use it.

mod everyday;
mod faults;
