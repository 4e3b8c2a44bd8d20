//! What the keeper reads of a sandbox: who its init is, and how it ended.
//!
//! It reads only the fields that it needs, so that a keeper goes on serving sandboxes whose other
//! fields a newer build has changed.

use std::io;
use std::path::Path;

use insula_sandbox::ProcessIdentity;
use serde::Deserialize;

use super::contract::{ContractError, Exit};

#[derive(Debug, Deserialize)]
struct Record {
    init: Option<ProcessIdentity>,
}

/// The init of the sandbox in `dir`; `None` while it is being made.
pub(crate) fn init(dir: &Path) -> Result<Option<ProcessIdentity>, ContractError> {
    let path = dir.join("record.json");
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Record>(&bytes)
            .map(|record| record.init)
            .map_err(|source| ContractError::Foreign { path, source: Some(source) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ContractError::Read { path, source }),
    }
}

/// Layout of the exit file, version 1; see the init of `insula-sandbox`.
const EXIT_BYTES: usize = 64;
const EXIT_MAGIC: &[u8; 8] = b"INSULAEX";
const EXIT_VERSION: u8 = 1;

/// How the app ended, if its init could say so, and the bytes that the init dropped unread.
pub(crate) fn exit(dir: &Path) -> Result<(Option<Exit>, u64), ContractError> {
    let path = dir.join("exit");
    match std::fs::read(&path) {
        Ok(bytes) => decode(&bytes).ok_or(ContractError::Foreign { path, source: None }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((None, 0)),
        Err(source) => Err(ContractError::Read { path, source }),
    }
}

fn decode(bytes: &[u8]) -> Option<(Option<Exit>, u64)> {
    if bytes.len() != EXIT_BYTES || !bytes.starts_with(EXIT_MAGIC) || bytes[8] != EXIT_VERSION {
        return None;
    }
    let word = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
    };
    let value = i32::from_le_bytes(bytes[12..16].try_into().ok()?);
    let exit = match bytes[9] {
        0 => None,
        1 => Some(Exit::Code(value as u8)),
        2 => Some(Exit::Signal(value)),
        3 => Some(Exit::NotStarted { errno: value }),
        _ => return None,
    };
    Some((exit, word(24)?.saturating_add(word(32)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an init of version 1 writes, from the crate that owns it.
    const GOLDEN_V1: &[u8] = include_bytes!("../../../insula-sandbox/tests/golden/exit-v1.bin");

    #[test]
    fn the_end_is_read_as_the_init_writes_it_and_nothing_else_is_taken_for_one() {
        assert_eq!(decode(GOLDEN_V1), Some((Some(Exit::Code(7)), 74_096)));
        let mut running = GOLDEN_V1.to_vec();
        running[9] = 0;
        assert_eq!(decode(&running), Some((None, 74_096)));
        for (at, value) in [(0, b'X'), (8, 2), (9, 9)] {
            let mut odd = GOLDEN_V1.to_vec();
            odd[at] = value;
            assert_eq!(decode(&odd), None, "byte {at}");
        }
        assert_eq!(decode(&GOLDEN_V1[..63]), None);
    }

    #[test]
    fn the_record_of_a_sandbox_names_its_init() {
        let record = include_str!("../../../insula-sandbox/tests/golden/record-v1.json");
        let dir = tempfile::tempdir().unwrap();
        assert!(init(dir.path()).unwrap().is_none());
        std::fs::write(dir.path().join("record.json"), record).unwrap();
        assert_eq!(init(dir.path()).unwrap().unwrap().pid, 4242);
    }
}
