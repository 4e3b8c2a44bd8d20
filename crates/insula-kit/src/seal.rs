//! Sealing: bytes that only the holder of a key can read, and that nobody can move or change.
//!
//! ChaCha20-Poly1305 from ring, because it is as fast as we need and constant in time on every
//! processor. Nonces are 96 random bits: one key may seal 2³² messages before a collision is
//! likelier than one in 2³²; we seal secrets and Targets, which is far from that.
//!
//! An envelope is `version (1) ‖ key id (8) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`. Version and key
//! id are authenticated with the caller's associated data, which must name the place of the
//! secret (org, environment, name), so that a sealed value cannot be put in another's place.

use std::fmt;
use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, Zeroizing};

use crate::digest::{equal_in_constant_time, hex, sha256, unhex};
use crate::files::{self, Access, FileError};
use crate::random::Random;

const ENVELOPE_VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_BYTES;

/// What a key file begins with; the rest of its line is the key in hexadecimal.
const KEY_FILE_PREFIX: &str = "insula-key-1 ";
/// Ten times a key file, so that a wrong file is recognised and not read.
const KEY_FILE_BYTES_MAX: u64 = 1_024;

/// A 256-bit key. Never printed; wiped when dropped (ring's own expanded copy lives only for the
/// length of one call and is beyond the reach of safe Rust).
pub struct Key {
    id: KeyId,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

/// Names a key without telling anything of it: the start of a hash over it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; KEY_ID_BYTES]);

/// An envelope whose form, not yet whose content, was checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

/// What was sealed. Never printed, wiped when dropped.
#[derive(Clone)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

/// The key to seal with, and those that may still be needed to open what was sealed before.
#[derive(Debug)]
pub struct Keyring {
    current: Key,
    older: Vec<Key>,
}

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("read an envelope of {bytes} bytes: too short to be one")]
    TooShort { bytes: usize },
    #[error("read an envelope of version {version}; this program knows {ENVELOPE_VERSION}")]
    Version { version: u8 },
    #[error("open an envelope sealed with key {needed}, which is not at hand")]
    OtherKey { needed: KeyId },
    #[error("open an envelope sealed with key {key}: it was changed, or belongs to another place")]
    NotAuthentic { key: KeyId },
    #[error("read a key of {bytes} bytes; a key has {KEY_BYTES}")]
    KeyLength { bytes: usize },
}

#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("load or create a key")]
    File(#[from] FileError),
    #[error("{path} is not a key file of this program")]
    Form { path: String },
}

impl Key {
    pub fn generate(random: &dyn Random) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        random.fill(&mut *bytes);
        Self::new(bytes)
    }

    pub fn from_bytes(secret: &SecretBytes) -> Result<Self, SealError> {
        let bytes: [u8; KEY_BYTES] = secret
            .expose()
            .try_into()
            .map_err(|_| SealError::KeyLength { bytes: secret.expose().len() })?;
        Ok(Self::new(Zeroizing::new(bytes)))
    }

    /// Reads the key in `path`, which only its owner may be able to read; makes one if there is
    /// none. Of two processes that do so at once, both get the same key.
    pub fn load_or_create(path: &Path, random: &dyn Random) -> Result<Self, KeyFileError> {
        match Self::load(path) {
            Err(KeyFileError::File(error)) if error.is_missing() => {}
            loaded => return loaded,
        }
        let key = Self::generate(random);
        let text = Zeroizing::new(format!("{KEY_FILE_PREFIX}{}\n", hex(&*key.bytes)));
        if files::create_durably(path, text.as_bytes(), Access::Private)? {
            return Ok(key);
        }
        Self::load(path)
    }

    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let text = Zeroizing::new(files::read_private(path, KEY_FILE_BYTES_MAX)?);
        let key = str::from_utf8(&text)
            .ok()
            .and_then(|text| text.trim_end().strip_prefix(KEY_FILE_PREFIX))
            .and_then(unhex);
        match key {
            Some(bytes) => Ok(Self::new(Zeroizing::new(bytes))),
            None => Err(KeyFileError::Form { path: path.display().to_string() }),
        }
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    /// This key, sealed with another one: how data keys are kept under a master key.
    pub fn seal_under(&self, master: &Self, aad: &[u8], random: &dyn Random) -> Sealed {
        seal(master, aad, &*self.bytes, random)
    }

    pub fn open_under(master: &Keyring, aad: &[u8], sealed: &Sealed) -> Result<Self, SealError> {
        Self::from_bytes(&master.open(aad, sealed)?)
    }

    fn new(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        let mut named = Zeroizing::new(b"insula key id 1:".to_vec());
        named.extend_from_slice(&*bytes);
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&sha256(&named)[..KEY_ID_BYTES]);
        Self { id: KeyId(id), bytes }
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*self.bytes).expect("a key has 32 bytes");
        LessSafeKey::new(key)
    }
}

pub fn seal(key: &Key, aad: &[u8], plaintext: &[u8], random: &dyn Random) -> Sealed {
    let mut nonce = [0; NONCE_BYTES];
    random.fill(&mut nonce);
    // Room for everything at once: a vector that grew would leave plaintext behind in freed memory.
    let mut envelope = Vec::with_capacity(HEADER_BYTES + plaintext.len() + TAG_BYTES);
    envelope.push(ENVELOPE_VERSION);
    envelope.extend_from_slice(&key.id.0);
    envelope.extend_from_slice(&nonce);
    envelope.extend_from_slice(plaintext);
    let bound = bound_data(key.id, aad);
    let tag = key
        .cipher()
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(&bound),
            &mut envelope[HEADER_BYTES..],
        )
        // ring refuses messages over 2³⁸ bytes alone, which do not fit in memory.
        .expect("a message shorter than 256 GiB");
    envelope.extend_from_slice(tag.as_ref());
    Sealed(envelope)
}

pub fn open(key: &Key, aad: &[u8], sealed: &Sealed) -> Result<SecretBytes, SealError> {
    let needed = sealed.key_id();
    if needed != key.id {
        return Err(SealError::OtherKey { needed });
    }
    let mut nonce = [0; NONCE_BYTES];
    nonce.copy_from_slice(&sealed.0[1 + KEY_ID_BYTES..HEADER_BYTES]);
    let mut text = Zeroizing::new(sealed.0[HEADER_BYTES..].to_vec());
    let plain = key
        .cipher()
        .open_in_place(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(bound_data(key.id, aad)),
            &mut text,
        )
        .map_err(|_| SealError::NotAuthentic { key: needed })?
        .len();
    text[plain..].zeroize();
    text.truncate(plain);
    Ok(SecretBytes(text))
}

impl Keyring {
    pub fn new(current: Key) -> Self {
        Self { current, older: Vec::new() }
    }

    #[must_use]
    pub fn with_older(mut self, older: Key) -> Self {
        self.older.push(older);
        self
    }

    pub fn current(&self) -> &Key {
        &self.current
    }

    pub fn seal(&self, aad: &[u8], plaintext: &[u8], random: &dyn Random) -> Sealed {
        seal(&self.current, aad, plaintext, random)
    }

    pub fn open(&self, aad: &[u8], sealed: &Sealed) -> Result<SecretBytes, SealError> {
        let needed = sealed.key_id();
        let mut keys = std::iter::once(&self.current).chain(&self.older);
        let key = keys.find(|key| key.id == needed).ok_or(SealError::OtherKey { needed })?;
        open(key, aad, sealed)
    }
}

impl Sealed {
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SealError> {
        match bytes.first() {
            Some(&version) if version != ENVELOPE_VERSION => Err(SealError::Version { version }),
            Some(_) if bytes.len() >= HEADER_BYTES + TAG_BYTES => Ok(Self(bytes)),
            _ => Err(SealError::TooShort { bytes: bytes.len() }),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Which key opens it: what a rotation looks for.
    pub fn key_id(&self) -> KeyId {
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&self.0[1..=KEY_ID_BYTES]);
        KeyId(id)
    }
}

impl SecretBytes {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves. Whoever calls this answers for where they go.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        equal_in_constant_time(&self.0, &other.0)
    }
}

impl Eq for SecretBytes {}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, hidden)", self.id)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes with key {})", self.0.len(), self.key_id())
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(hidden)")
    }
}

/// Associated data as authenticated: version and key id before what the caller gave.
fn bound_data(key: KeyId, aad: &[u8]) -> Vec<u8> {
    let mut bound = Vec::with_capacity(1 + KEY_ID_BYTES + aad.len());
    bound.push(ENVELOPE_VERSION);
    bound.extend_from_slice(&key.0);
    bound.extend_from_slice(aad);
    bound
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::random::SystemRandom;

    fn key() -> Key {
        Key::generate(&SystemRandom::new())
    }

    fn sealed(key: &Key, aad: &[u8], text: &[u8]) -> Sealed {
        seal(key, aad, text, &SystemRandom::new())
    }

    #[test]
    fn what_was_sealed_opens_in_its_place_alone() {
        let key = key();
        for text in [b"".as_slice(), b"x", &[7; 100_000]] {
            let envelope = sealed(&key, b"org_1/prod/TOKEN", text);
            assert_eq!(open(&key, b"org_1/prod/TOKEN", &envelope).unwrap().expose(), text);
            let moved = open(&key, b"org_2/prod/TOKEN", &envelope);
            assert!(matches!(moved, Err(SealError::NotAuthentic { .. })));
        }
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let key = key();
        let envelope = sealed(&key, b"a", b"text");
        for byte in 0..envelope.as_bytes().len() {
            for bit in 0..8 {
                let mut bytes = envelope.as_bytes().to_vec();
                bytes[byte] ^= 1 << bit;
                let opened = Sealed::from_bytes(bytes).and_then(|bad| open(&key, b"a", &bad));
                assert!(opened.is_err(), "bit {bit} of byte {byte}");
            }
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let key = key();
        let envelope = sealed(&key, b"a", b"text").into_bytes();
        for length in 0..envelope.len() {
            let cut = Sealed::from_bytes(envelope[..length].to_vec());
            assert!(cut.and_then(|cut| open(&key, b"a", &cut)).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn the_same_text_never_looks_the_same() {
        let key = key();
        assert_ne!(sealed(&key, b"a", b"text"), sealed(&key, b"a", b"text"));
    }

    #[test]
    fn a_rotated_keyring_still_opens_what_is_old_and_a_strange_key_does_not() {
        let (old, new) = (key(), key());
        let random = SystemRandom::new();
        let before = sealed(&old, b"a", b"text");
        let (old_id, new_id) = (old.id(), new.id());
        let ring = Keyring::new(new).with_older(old);
        assert_eq!(before.key_id(), old_id);
        let after = ring.seal(b"a", ring.open(b"a", &before).unwrap().expose(), &random);
        assert_eq!(after.key_id(), new_id);
        assert_eq!(ring.open(b"a", &after).unwrap().expose(), b"text");
        let strange = Keyring::new(key()).open(b"a", &after);
        assert!(matches!(strange, Err(SealError::OtherKey { needed }) if needed == new_id));
    }

    #[test]
    fn a_data_key_lives_under_its_master() {
        let random = SystemRandom::new();
        let (master, data) = (key(), key());
        let kept = data.seal_under(&master, b"org_1", &random);
        let ring = Keyring::new(master);
        assert_eq!(Key::open_under(&ring, b"org_1", &kept).unwrap().id(), data.id());
        assert!(Key::open_under(&ring, b"org_2", &kept).is_err());
        let short = ring.seal(b"org_1", b"not a key", &random);
        let error = Key::open_under(&ring, b"org_1", &short).unwrap_err();
        assert!(matches!(error, SealError::KeyLength { bytes: 9 }));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let key = Key::new(Zeroizing::new([0xAB; KEY_BYTES]));
        let envelope = sealed(&key, b"a", b"open sesame");
        let secret = open(&key, b"a", &envelope).unwrap();
        let all = format!("{key:?} {envelope:?} {secret:?}") + &format!("{:?}", Keyring::new(key));
        assert!(!all.contains("abab") && !all.contains("171") && !all.contains("sesame"), "{all}");
    }

    #[test]
    fn a_key_file_is_made_once_private_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let random = SystemRandom::new();
        let first = Key::load_or_create(&path, &random).unwrap();
        assert_eq!(Key::load_or_create(&path, &random).unwrap().id(), first.id());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Key::load(&path), Err(KeyFileError::File(FileError::NotPrivate { .. }))));
    }

    #[test]
    fn a_damaged_key_file_is_refused_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        for text in ["", "insula-key-1 00ff\n", "insula-key-2 00\n"] {
            files::write_durably(&path, text.as_bytes(), Access::Private).unwrap();
            let error = Key::load_or_create(&path, &SystemRandom::new()).unwrap_err();
            assert!(matches!(error, KeyFileError::Form { .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
