//! What a member keeps of itself: its key, its certificate, and whom it believes.
//!
//! One private file, replaced as a whole, so that a renewal never leaves a key beside another's
//! certificate.

use std::path::Path;

use zeroize::Zeroizing;

use super::{KeyPair, PkiError};
use crate::digest::hex;
use crate::files::{self, Access};
use crate::seal::SecretBytes;

const FIRST_LINE: &str = "insula-identity-1";
/// A key, a certificate and a handful of authorities are 4 KiB.
const IDENTITY_BYTES_MAX: u64 = 256 * 1024;

#[derive(Debug)]
pub struct Identity {
    pub key: KeyPair,
    /// DER.
    pub certificate: Vec<u8>,
    /// DER. Whoever one of them signed is believed.
    pub authorities: Vec<Vec<u8>>,
}

impl Identity {
    pub fn save(&self, path: &Path) -> Result<(), PkiError> {
        let key = Zeroizing::new(hex(self.key.to_pkcs8().expose()));
        let certificate = hex(&self.certificate);
        let mut text =
            Zeroizing::new(format!("{FIRST_LINE}\nkey {}\ncertificate {certificate}\n", *key));
        for authority in &self.authorities {
            text.push_str("authority ");
            text.push_str(&hex(authority));
            text.push('\n');
        }
        Ok(files::write_durably(path, text.as_bytes(), Access::Private)?)
    }

    /// Refused if anybody but its owner could have read or written it.
    pub fn load(path: &Path) -> Result<Self, PkiError> {
        let bytes = Zeroizing::new(files::read_private(path, IDENTITY_BYTES_MAX)?);
        Self::parse(&bytes).ok_or_else(|| PkiError::Form { path: path.display().to_string() })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let mut value = |word: &str| unhex(lines.next()?.strip_prefix(word)?.strip_prefix(' ')?);
        let key = KeyPair::from_pkcs8(&SecretBytes::new(value("key")?)).ok()?;
        let certificate = value("certificate")?;
        let authorities = lines.map(|line| unhex(line.strip_prefix("authority ")?));
        Some(Self { key, certificate, authorities: authorities.collect::<Option<_>>()? })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::files::FileError;

    #[test]
    fn an_identity_is_private_and_comes_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let identity = Identity {
            key: KeyPair::generate(),
            certificate: vec![1, 2, 255],
            authorities: vec![vec![3], vec![]],
        };
        identity.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let again = Identity::load(&path).unwrap();
        assert_eq!(again.key.public_key(), identity.key.public_key());
        assert_eq!(
            (again.certificate, again.authorities),
            (identity.certificate, identity.authorities)
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = Identity::load(&path);
        assert!(matches!(open, Err(PkiError::File(FileError::NotPrivate { .. }))), "{open:?}");
        files::write_durably(&path, b"{}", Access::Private).unwrap();
        assert!(matches!(Identity::load(&path), Err(PkiError::Form { .. })));
    }
}
