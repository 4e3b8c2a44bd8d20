//! Reads the `exit` file that an init writes. The layout is `init/contract.rs`.

use std::path::Path;

use serde::{Deserialize, Serialize};

#[path = "../init/contract.rs"]
#[allow(dead_code, missing_docs)]
pub(crate) mod contract;

use contract::{
    AT_DROPPED_ERR, AT_DROPPED_OUT, AT_ENDED_MS, AT_KIND, AT_VALUE, AT_VERSION, KIND_EXEC_FAILED,
    KIND_EXITED, KIND_RUNNING, KIND_SIGNALED, MAGIC, RECORD_BYTES, VERSION,
};

/// How an app ended, as its init saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub cause: ExitCause,
    /// Wall clock, milliseconds since 1970.
    pub ended_ms: u64,
    /// Log bytes that the init dropped because nobody read them.
    pub dropped_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    Exited {
        code: u8,
    },
    Signaled {
        signal: i32,
    },
    /// The command could not be started: the errno of the last attempt.
    ExecFailed {
        errno: i32,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum ExitFileError {
    #[error("read the exit record {path}")]
    Read {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not an exit record of a version this build knows")]
    Foreign { path: std::path::PathBuf },
}

/// What the file says: nothing yet, or the end. Dropped bytes are known in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitFile {
    pub ended: Option<ExitRecord>,
    pub dropped_bytes: u64,
}

pub(crate) fn read(path: &Path) -> Result<Option<ExitFile>, ExitFileError> {
    match std::fs::read(path) {
        Ok(bytes) => decode(&bytes)
            .map(Some)
            .ok_or_else(|| ExitFileError::Foreign { path: path.to_path_buf() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ExitFileError::Read { path: path.to_path_buf(), source }),
    }
}

/// The file as it is before the app starts.
pub(crate) fn initial() -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    bytes[AT_VERSION] = VERSION;
    bytes[AT_KIND] = KIND_RUNNING;
    bytes
}

pub(crate) fn decode(bytes: &[u8]) -> Option<ExitFile> {
    if bytes.len() != RECORD_BYTES || bytes[..MAGIC.len()] != MAGIC || bytes[AT_VERSION] != VERSION
    {
        return None;
    }
    let u64_at = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let value = i32::from_le_bytes([
        bytes[AT_VALUE],
        bytes[AT_VALUE + 1],
        bytes[AT_VALUE + 2],
        bytes[AT_VALUE + 3],
    ]);
    let dropped_bytes = u64_at(AT_DROPPED_OUT).saturating_add(u64_at(AT_DROPPED_ERR));
    let cause = match bytes[AT_KIND] {
        KIND_RUNNING => None,
        KIND_EXITED => Some(ExitCause::Exited { code: value as u8 }),
        KIND_SIGNALED => Some(ExitCause::Signaled { signal: value }),
        KIND_EXEC_FAILED => Some(ExitCause::ExecFailed { errno: value }),
        _ => return None,
    };
    let ended_ms = u64_at(AT_ENDED_MS);
    let ended = cause.map(|cause| ExitRecord { cause, ended_ms, dropped_bytes });
    Some(ExitFile { ended, dropped_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of version 1, as an init of that version writes them. Never change this file.
    const GOLDEN_V1: &[u8; RECORD_BYTES] = include_bytes!("../tests/golden/exit-v1.bin");

    #[test]
    fn version_one_is_read_for_ever() {
        assert_eq!(
            decode(GOLDEN_V1),
            Some(ExitFile {
                ended: Some(ExitRecord {
                    cause: ExitCause::Exited { code: 7 },
                    ended_ms: 1_795_200_000_123,
                    dropped_bytes: 4_096 + 70_000,
                }),
                dropped_bytes: 74_096,
            })
        );
    }

    #[test]
    fn a_running_app_has_no_end() {
        assert_eq!(decode(&initial()), Some(ExitFile { ended: None, dropped_bytes: 0 }));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let mut newer = *GOLDEN_V1;
        newer[AT_VERSION] = 2;
        assert_eq!(decode(&newer), None);
        assert_eq!(decode(&GOLDEN_V1[..63]), None);
        assert_eq!(decode(&[0; RECORD_BYTES]), None);
        let mut odd = *GOLDEN_V1;
        odd[AT_KIND] = 9;
        assert_eq!(decode(&odd), None);
    }
}
