//! Asks an instance how it is, from the host, as the gateway would.
//!
//! `outcome` is one question, `judge` decides from the answers, `watch` keeps asking.

mod ask;
mod judge;
mod watch;

use std::fmt;

pub use ask::{Question, ask};
pub use judge::{Judge, Listening};
pub use watch::{Verdict, Watch};

/// What came of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Refused,
    TimedOut,
    /// It answered, with 400 or above.
    Status(u16),
    /// It answered something that is not HTTP, or nothing.
    NotHttp,
    /// The connection failed in another way.
    Broken(std::io::ErrorKind),
}

impl Outcome {
    /// Somebody was there.
    fn connected(self) -> bool {
        match self {
            Self::Ok | Self::Status(_) | Self::NotHttp => true,
            Self::Refused | Self::TimedOut | Self::Broken(_) => false,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("it answered well"),
            Self::Refused => f.write_str("the connection was refused"),
            Self::TimedOut => f.write_str("there was no answer in time"),
            Self::Status(code) => write!(f, "it answered {code}"),
            Self::NotHttp => f.write_str("it did not answer in HTTP"),
            Self::Broken(kind) => write!(f, "the connection failed ({kind})"),
        }
    }
}
