//! Process plumbing without domain: what every role needs before it does anything.
//!
//! Time, randomness and the outside world come in through the front doors that stand here, so
//! that everything else can take them as arguments. Nothing in this crate knows what an app is.

pub mod backoff;
pub mod clock;
pub mod digest;
pub mod files;
pub mod lock;
pub mod metrics;
pub mod pki;
pub mod random;
pub mod seal;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod trace;
pub mod uds;
