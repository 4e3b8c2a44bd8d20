//! Which versions of the protocol are spoken, and what the others are told.

use insula_wire::node::{PROTOCOL, PROTOCOL_OLDEST};
use tonic::Status;

/// What a program says of itself; longer is not a version.
const VERSION_LEN_MAX: usize = 64;

/// This version and the one before understand each other; everybody else hears what to upgrade.
pub(crate) fn check(who: &str, version: &str, protocol: u32) -> Result<(), Status> {
    // It is stored and shown; a database may refuse some of what is no letter at all.
    let readable = version.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if version.len() > VERSION_LEN_MAX || !readable {
        return Err(Status::invalid_argument("that is not a version"));
    }
    let what = match protocol {
        PROTOCOL_OLDEST..=PROTOCOL => return Ok(()),
        later if later > PROTOCOL => "upgrade the server first",
        _ => "upgrade it",
    };
    let ours = env!("CARGO_PKG_VERSION");
    Err(Status::failed_precondition(format!(
        "this server ({ours}) speaks protocol {PROTOCOL_OLDEST} to {PROTOCOL}; the {who} ({}) \
         speaks {protocol}: {what}",
        version.escape_debug()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_else_hears_what_to_upgrade() {
        assert!(check("agent", "0.1.0", PROTOCOL).is_ok());
        assert!(check("agent", "0.1.0", PROTOCOL_OLDEST).is_ok());
        let words = |protocol| check("agent", "9", protocol).unwrap_err().message().to_owned();
        assert!(words(PROTOCOL + 1).ends_with("the agent (9) speaks 2: upgrade the server first"));
        assert!(words(PROTOCOL_OLDEST - 1).ends_with("upgrade it"));
        assert!(words(u32::MAX).contains("upgrade the server first"));
        assert!(check("agent", &"9".repeat(65), PROTOCOL).is_err());
        for stored_nowhere in ["0.1\0", "0.1\n", "0.1\u{1b}[2J", "\u{202e}1.0"] {
            assert!(check("agent", stored_nowhere, PROTOCOL).is_err(), "{stored_nowhere:?}");
        }
    }
}
