//! How a request fails.

use std::time::Duration;

use insula_wire::problem::Problem;

use super::address::Server;
use super::sse::TooLong;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{server} speaks plain HTTP and is not this machine")]
    Insecure { server: Server },
    #[error("prepare for TLS")]
    Tls {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{server} cannot be reached")]
    Unreachable {
        server: Server,
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    #[error("the connection to {server} was lost while asking for {what}")]
    Lost {
        server: Server,
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{server} did not answer {what} within {} s", after.as_secs())]
    TimedOut { server: Server, what: String, after: Duration },
    #[error("{}", problem.detail)]
    Refused { server: Server, problem: Box<Problem> },
    #[error("{server} answered {what} with status {status}, and not as an Insula server does")]
    Strange { server: Server, what: String, status: u16 },
    #[error("understand what {server} answered to {what}")]
    Answer {
        server: Server,
        what: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{server} answered {what} with more than {max} bytes")]
    TooLarge { server: Server, what: String, max: usize },
    #[error(transparent)]
    Stream(#[from] TooLong),
    #[error("`{given}` cannot be sent as a token")]
    Token { given: &'static str },
    #[error("write the request for {what}")]
    Request {
        what: String,
        #[source]
        source: http::Error,
    },
}

impl ClientError {
    /// The code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { problem, .. } => Some(&problem.code),
            _ => None,
        }
    }
}
