//! The only unsafe: drivers that isolate an instance, its init, cgroups, mounts, network.

pub mod net;
