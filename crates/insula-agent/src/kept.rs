//! The last Target, on disk: what the node obeys for as long as no server is there.
//!
//! Values of secrets lie beside it, sealed with the node's own key. Both files are durable before a
//! Target is obeyed. Where they cannot be, on a full disk say, it is obeyed all the same, for nobody
//! must be kept from stopping things; but then there is none on disk: an agent that begins again
//! would obey the one before, and start what was stopped since and runs elsewhere by now.

use std::collections::BTreeMap;
use std::fmt;

use insula_kit::files::{self, Access, FileError};
use insula_kit::random::Random;
use insula_kit::seal::{self, Key, SealError, Sealed, SecretBytes};
use insula_model::schema::{self, DocumentError};
use insula_model::target::{NodeTarget, Stale, accept};
use insula_model::{Generation, VariableName};
use insula_wire::node as wire;
use zeroize::Zeroizing;

use crate::error::chain;
use crate::layout::Layout;

/// Ties the envelope to its place.
const SEAL_PLACE: &[u8] = b"insula agent secrets";

#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("keep the Target on disk")]
    File(#[from] FileError),
    #[error("read a Target")]
    Document(#[from] DocumentError),
    #[error("refuse a Target")]
    Stale(#[from] Stale),
    #[error("refuse a Target: its envelope says generation {envelope}, its document {document}")]
    Generation { envelope: Generation, document: Generation },
    #[error("read a Target's secrets: `{name}` of {subject} is not a name for a variable")]
    SecretName { subject: String, name: String },
    #[error("open the sealed secrets")]
    Seal(#[from] SealError),
    #[error("read the sealed secrets as JSON")]
    Json(#[source] serde_json::Error),
    #[error("a thread that kept a Target ended early")]
    Thread,
}

/// Values by instance or build id. Never printed.
#[derive(Clone, Default, PartialEq)]
pub struct Secrets(BTreeMap<String, BTreeMap<VariableName, SecretBytes>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets of {} subjects", self.0.len())
    }
}

impl Secrets {
    /// Of an instance or a build.
    pub fn of(&self, subject: impl fmt::Display) -> BTreeMap<VariableName, SecretBytes> {
        self.0.get(&subject.to_string()).cloned().unwrap_or_default()
    }

    fn from_wire(bundles: Vec<wire::SecretBundle>) -> Result<Self, KeptError> {
        let mut secrets = BTreeMap::new();
        for bundle in bundles {
            let mut values = BTreeMap::new();
            for (name, value) in bundle.values {
                let value = SecretBytes::new(value.into_bytes());
                let name = name.parse().map_err(|_| KeptError::SecretName {
                    subject: bundle.subject.clone(),
                    name: insula_model::names::excerpt(&name),
                })?;
                values.insert(name, value);
            }
            secrets.insert(bundle.subject, values);
        }
        Ok(Self(secrets))
    }

    fn seal(&self, key: &Key, random: &dyn Random) -> Result<Sealed, KeptError> {
        let plain: BTreeMap<&str, BTreeMap<&str, &[u8]>> = self
            .0
            .iter()
            .map(|(subject, values)| {
                let values = values.iter().map(|(name, value)| (name.as_str(), value.expose()));
                (subject.as_str(), values.collect())
            })
            .collect();
        let bytes = Zeroizing::new(serde_json::to_vec(&plain).map_err(KeptError::Json)?);
        Ok(seal::seal(key, SEAL_PLACE, &bytes, random))
    }

    fn open(key: &Key, sealed: &Sealed) -> Result<Self, KeptError> {
        let bytes = seal::open(key, SEAL_PLACE, sealed)?;
        let plain: BTreeMap<String, BTreeMap<VariableName, Vec<u8>>> =
            serde_json::from_slice(bytes.expose()).map_err(KeptError::Json)?;
        let secrets = plain.into_iter().map(|(subject, values)| {
            let values = values.into_iter().map(|(name, v)| (name, SecretBytes::new(v)));
            (subject, values.collect())
        });
        Ok(Self(secrets.collect()))
    }
}

#[derive(Debug, Clone)]
pub struct Kept {
    pub target: NodeTarget,
    pub secrets: Secrets,
}

/// What came over the wire, unless it is from the past.
pub fn receive(held: Generation, message: wire::Target) -> Result<Kept, KeptError> {
    let offered = Generation(message.generation);
    accept(held, offered)?;
    let target: NodeTarget = schema::decode(&message.document)?;
    if target.generation != offered {
        let (envelope, document) = (offered, target.generation);
        return Err(KeptError::Generation { envelope, document });
    }
    Ok(Kept { target, secrets: Secrets::from_wire(message.secrets)? })
}

/// Durable when it returns; after a failure nothing is. Secrets that did not change since `before`,
/// which are on disk, are not written again.
pub fn store(
    layout: &Layout,
    kept: &Kept,
    before: Option<&Secrets>,
    key: &Key,
    random: &dyn Random,
) -> Result<(), KeptError> {
    let written = write(layout, kept, before, key, random);
    if written.is_err()
        // It takes no room to take something away.
        && let Err(error) = files::remove_durably(&layout.target())
    {
        tracing::error!(error = %chain(&error), "a Target of before is still on disk");
    }
    written
}

fn write(
    layout: &Layout,
    kept: &Kept,
    before: Option<&Secrets>,
    key: &Key,
    random: &dyn Random,
) -> Result<(), KeptError> {
    // Secrets first: a Target on disk must find the values that it names.
    if before != Some(&kept.secrets) {
        let sealed = kept.secrets.seal(key, random)?;
        files::write_durably(&layout.secrets(), sealed.as_bytes(), Access::Private)?;
    }
    let document = schema::encode(&kept.target)?;
    files::write_durably(&layout.target(), document.as_bytes(), Access::Private)?;
    Ok(())
}

/// What was stored last; nothing on a new node.
pub fn load(layout: &Layout, key: &Key) -> Result<Option<Kept>, KeptError> {
    let document = match files::read(&layout.target(), files::DOCUMENT_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let target = schema::decode(&String::from_utf8_lossy(&document))?;
    let secrets = match files::read_private(&layout.secrets(), files::DOCUMENT_BYTES_MAX) {
        Ok(bytes) => Secrets::open(key, &Sealed::from_bytes(bytes)?)?,
        Err(error) if error.is_missing() => Secrets::default(),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(Kept { target, secrets }))
}

#[cfg(test)]
mod tests {
    use insula_kit::random::SeededRandom;
    use insula_model::{NodeId, Timestamp};

    use super::*;

    fn message(generation: u64, secret: &str) -> wire::Target {
        let target = NodeTarget {
            node: NodeId::from_parts(Timestamp::from_millis(1), [1; 10]),
            generation: Generation(generation),
            instances: vec![],
            builds: vec![],
            fleet: Default::default(),
        };
        wire::Target {
            generation,
            document: schema::encode(&target).unwrap(),
            secrets: vec![wire::SecretBundle {
                subject: "ins_1".into(),
                values: [("API_KEY".to_owned(), secret.to_owned())].into(),
            }],
        }
    }

    #[test]
    fn what_is_kept_is_read_again_and_a_secret_lies_nowhere_in_the_open() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        std::fs::create_dir(layout.agent()).unwrap();
        let random = SeededRandom::new(1);
        let key = Key::generate(&random);
        assert!(load(&layout, &key).unwrap().is_none());

        let kept = receive(Generation(0), message(7, "hunter2-hunter2")).unwrap();
        assert!(!format!("{kept:?}").contains("hunter2"));
        store(&layout, &kept, None, &key, &random).unwrap();
        for file in [layout.target(), layout.secrets()] {
            let bytes = std::fs::read(file).unwrap();
            assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        }
        let read = load(&layout, &key).unwrap().unwrap();
        assert_eq!(read.target, kept.target);
        let name: VariableName = "API_KEY".parse().unwrap();
        assert_eq!(read.secrets.of("ins_1")[&name].expose(), b"hunter2-hunter2");
        assert!(read.secrets.of("ins_2").is_empty());

        let other = Key::generate(&random);
        assert!(matches!(load(&layout, &other), Err(KeptError::Seal(_))));
    }

    #[test]
    fn a_target_that_cannot_be_kept_takes_the_one_before_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        std::fs::create_dir(layout.agent()).unwrap();
        let random = SeededRandom::new(1);
        let key = Key::generate(&random);
        let before = receive(Generation(0), message(7, "old")).unwrap();
        store(&layout, &before, None, &key, &random).unwrap();
        // Nothing can be put in the place of a folder.
        std::fs::remove_file(layout.secrets()).unwrap();
        std::fs::create_dir(layout.secrets()).unwrap();
        let next = receive(Generation(7), message(8, "new")).unwrap();
        let failed = store(&layout, &next, Some(&before.secrets), &key, &random);
        assert!(matches!(failed, Err(KeptError::File(_))), "{failed:?}");
        assert!(load(&layout, &key).unwrap().is_none(), "what was stopped since stays stopped");
        std::fs::remove_dir(layout.secrets()).unwrap();
        store(&layout, &next, None, &key, &random).unwrap();
        assert_eq!(load(&layout, &key).unwrap().unwrap().target, next.target);
    }

    #[test]
    fn the_past_is_refused_and_a_resend_is_not() {
        assert!(receive(Generation(7), message(7, "x")).is_ok());
        assert!(matches!(receive(Generation(8), message(7, "x")), Err(KeptError::Stale(_))));
        let mut odd = message(7, "x");
        odd.generation = 9;
        assert!(matches!(receive(Generation(0), odd), Err(KeptError::Generation { .. })));
        let mut hostile = message(7, "x");
        hostile.secrets[0].values.insert("A=B".into(), "x".into());
        assert!(matches!(receive(Generation(0), hostile), Err(KeptError::SecretName { .. })));
    }
}
