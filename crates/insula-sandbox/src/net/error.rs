//! What can go wrong with a node's network, in words.

use std::io;
use std::net::Ipv4Addr;

use super::config::BadConfig;

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("the network's configuration")]
    Config(#[from] BadConfig),
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    #[error("talk to the kernel to {doing}")]
    Talk {
        doing: String,
        #[source]
        source: io::Error,
    },
    /// The kernel understood and said no; `reason` is its own sentence, where it gave one.
    #[error("{doing}: the kernel refused{}", reason.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        doing: String,
        reason: Option<String>,
        #[source]
        source: io::Error,
    },
    #[error("{doing}: the kernel gave no answer")]
    Silent { doing: String },
    #[error("{address} still belongs to another attachment; detach that one first")]
    AddressTaken { address: Ipv4Addr },
    #[error("{doing} {path}")]
    File {
        doing: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("enter the network namespace of the instance")]
    Enter(#[source] io::Error),
    #[error("this kernel can make neither a dummy interface nor a bridge")]
    NoAnchorKind(#[source] Box<NetError>),
}

impl NetError {
    /// The kernel's error number, when it refused.
    pub(super) fn refusal(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Config(_)
            | Self::Open(_)
            | Self::Talk { .. }
            | Self::Silent { .. }
            | Self::AddressTaken { .. }
            | Self::File { .. }
            | Self::Enter(_)
            | Self::NoAnchorKind(_) => None,
        }
    }
}

/// Turns "it is already so" into success, for calls that may be repeated.
pub(super) fn tolerate(result: Result<(), NetError>, errno: &[i32]) -> Result<(), NetError> {
    match result {
        Err(error) if error.refusal().is_some_and(|number| errno.contains(&number)) => Ok(()),
        other => other,
    }
}
