//! How the code of a release behaves: written into the digest of its source, so that whoever starts
//! it knows, and nobody who decides does.

use insula_model::build::Artifact;
use insula_model::{Bytes, Digest};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Ready after so many milliseconds.
    Good { ready_after: u64 },
    /// Good, but now and then it ends by itself.
    Flaky { ready_after: u64 },
    /// Ends before it is ready, each time.
    Crashes { after: u64 },
    /// Runs and never answers.
    Mute,
}

impl Behaviour {
    pub fn becomes_ready(self) -> bool {
        match self {
            Self::Good { .. } | Self::Flaky { .. } => true,
            Self::Crashes { .. } | Self::Mute => false,
        }
    }

    pub fn source(self, unique: u64) -> Digest {
        let (kind, span) = match self {
            Self::Good { ready_after } => (0, ready_after),
            Self::Flaky { ready_after } => (1, ready_after),
            Self::Crashes { after } => (2, after),
            Self::Mute => (3, 0),
        };
        let mut bytes = [0; 32];
        bytes[0] = kind;
        bytes[8..16].copy_from_slice(&span.to_le_bytes());
        bytes[16..24].copy_from_slice(&unique.to_le_bytes());
        Digest::from_sha256(bytes)
    }

    pub fn of(artifact: &Artifact) -> Self {
        let bytes = artifact.source.as_bytes();
        let mut span = [0; 8];
        span.copy_from_slice(&bytes[8..16]);
        let span = u64::from_le_bytes(span);
        match bytes[0] {
            0 => Self::Good { ready_after: span },
            1 => Self::Flaky { ready_after: span },
            2 => Self::Crashes { after: span },
            _ => Self::Mute,
        }
    }

    pub fn artifact(source: Digest) -> Artifact {
        Artifact { source, built: None, size: Bytes::mib(1) }
    }
}
