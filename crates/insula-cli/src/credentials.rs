//! What `insula login` remembers, and the operator's credential of an installation on this machine.
//!
//! One token for each server. A token is sent to the server it came from and to no other: a file in
//! somebody's repository that names a server must not be able to collect it (see `settings`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use insula_kit::files::{self, Access, FileError};
use insula_model::Timestamp;
use insula_wire::rest::page::Hidden;
use serde::{Deserialize, Serialize};

use crate::client::Server;
use crate::failure::Failure;

const FILE: &str = "credentials.json";
const OPERATOR_FILE: &str = "operator.json";
/// Far more than a few hundred servers.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// By the server's one spelling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Where one signed in last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default)]
    pub servers: BTreeMap<String, SignIn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignIn {
    pub token: Hidden,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// By name, the orgs that it opened when it was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orgs: Vec<String>,
}

impl SignIn {
    /// The org that is meant where nobody says which: there is no other.
    pub fn only_org(&self) -> Option<&str> {
        match self.orgs.as_slice() {
            [only] => Some(only),
            [] | [_, _, ..] => None,
        }
    }
}

impl Saved {
    pub fn of(&self, server: &Server) -> Option<&SignIn> {
        self.servers.get(&server.to_string())
    }

    pub fn add(&mut self, server: &Server, sign_in: SignIn) {
        self.current = Some(server.to_string());
        self.servers.insert(server.to_string(), sign_in);
    }

    /// Whether there was one.
    pub fn remove(&mut self, server: &Server) -> bool {
        let server = server.to_string();
        if self.current.as_ref() == Some(&server) {
            self.current = None;
        }
        self.servers.remove(&server).is_some()
    }
}

/// Nothing saved yet is an empty file; one that others can read is refused.
pub fn load(folder: Option<&Path>) -> Result<Saved, Failure> {
    let Some(path) = folder.map(|folder| folder.join(FILE)) else { return Ok(Saved::default()) };
    let bytes = match files::read_private(&path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Ok(Saved::default()),
        Err(error) => return Err(error.into()),
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::because(format!("read {}", path.display()), &error)
            .hint("remove it and sign in again")
    })
}

pub fn store(folder: Option<&Path>, saved: &Saved) -> Result<PathBuf, Failure> {
    let folder = folder.ok_or_else(|| {
        Failure::failed("neither XDG_CONFIG_HOME nor HOME says where to remember a sign-in")
    })?;
    files::create_private_folder(folder)?;
    let path = folder.join(FILE);
    files::write_json(&path, saved, Access::Private)?;
    Ok(path)
}

/// What `insula up` writes for whoever may read its data folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Operator {
    pub server: String,
    pub token: Hidden,
}

/// Nothing if there is no such installation, or it is somebody else's; `asked` for it by name makes
/// that an error.
pub fn operator(data: &Path, asked: bool) -> Result<Option<Operator>, Failure> {
    let path = data.join(OPERATOR_FILE);
    let unreadable = |error: &FileError| {
        let denied = matches!(error, FileError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied);
        error.is_missing() || denied || matches!(error, FileError::NotOurs { .. })
    };
    match files::read_private(&path, FILE_BYTES_MAX) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Failure::because(format!("read {}", path.display()), &error)),
        Err(error) if unreadable(&error) && !asked => Ok(None),
        Err(error) => {
            Err(Failure::from(error).hint("is it the folder that `insula up --data` was given?"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn server(text: &str) -> Server {
        text.parse().unwrap()
    }

    fn sign_in(token: &str) -> SignIn {
        SignIn { token: Hidden(token.into()), email: None, expires: None, orgs: Vec::new() }
    }

    #[test]
    fn what_is_remembered_is_there_again_and_private() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("insula");
        assert_eq!(load(Some(&folder)).unwrap(), Saved::default());
        let mut saved = Saved::default();
        saved.add(&server("https://a.example"), sign_in("1"));
        saved.add(&server("https://b.example"), sign_in("2"));
        let path = store(Some(&folder), &saved).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let mut again = load(Some(&folder)).unwrap();
        assert_eq!(again, saved);
        assert_eq!(again.current.as_deref(), Some("https://b.example"));
        assert!(again.remove(&server("b.example")) && again.current.is_none());
        assert!(!again.remove(&server("b.example")));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = store(Some(folder.path()), &Saved::default()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load(Some(folder.path())).unwrap_err().message.contains("chmod 600"));
    }

    #[test]
    fn an_installation_that_is_not_there_is_an_error_only_if_it_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(operator(folder.path(), false).unwrap(), None);
        assert!(operator(folder.path(), true).is_err());
        let path = folder.path().join(OPERATOR_FILE);
        let text = br#"{"server":"http://127.0.0.1:7070","token":"t"}"#;
        files::write_durably(&path, text, Access::Private).unwrap();
        assert_eq!(operator(folder.path(), true).unwrap().unwrap().token.0, "t");
    }

    #[test]
    fn tokens_are_not_printed_by_accident() {
        let mut saved = Saved::default();
        saved.add(&server("https://a.example"), sign_in("hunter2"));
        assert!(!format!("{saved:?}").contains("hunter2"));
    }
}
