//! The binary as it is started: only what does not need a whole machine (that is `insula-e2e`).

mod up;
