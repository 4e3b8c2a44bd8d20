//! Reconcilers: wake, load, plan, apply.
