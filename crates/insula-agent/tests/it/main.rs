//! Agents, the keeper and the log store with real processes, real FIFOs and real disks.

mod agent;
mod keeper;
mod stage;
