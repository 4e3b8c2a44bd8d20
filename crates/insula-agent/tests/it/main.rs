//! The keeper and the log store with real processes, real FIFOs and real disks.

mod keeper;
mod stage;
