//! Passwords: argon2id, on few threads, with the same answer and the same time for strangers.
//!
//! Hashing is slow and takes memory on purpose, so it must not be what a storm of sign-ins can use
//! to stop everything else: few are hashed at once, some wait, the rest is refused.

use std::sync::{Arc, OnceLock};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use insula_kit::digest::equal_in_constant_time;
use insula_kit::random::Random;
use insula_wire::problem::Code;
use tokio::sync::Semaphore;

use crate::error::ApiError;
use crate::limits;

const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// Clones share the same places.
#[derive(Debug, Clone)]
pub struct Passwords {
    places: Arc<Semaphore>,
    at_once: Arc<Semaphore>,
    random: Arc<dyn Random>,
    /// What a stranger's password is compared with, so that it takes as long.
    decoy: Arc<OnceLock<String>>,
}

impl Passwords {
    pub fn new(random: Arc<dyn Random>) -> Self {
        let places = limits::PASSWORDS_AT_ONCE + limits::PASSWORDS_WAITING_MAX;
        Self {
            places: Arc::new(Semaphore::new(places)),
            at_once: Arc::new(Semaphore::new(limits::PASSWORDS_AT_ONCE)),
            random,
            decoy: Arc::default(),
        }
    }

    /// The text to store of a new password, unless it is too weak to be one.
    pub async fn hash(&self, password: &str) -> Result<String, ApiError> {
        check(password)?;
        let (password, mut salt) = (password.to_owned(), [0; SALT_BYTES]);
        self.random.fill(&mut salt);
        self.work(move || encode(&password, &salt)).await?
    }

    /// Whether `password` is the one behind `stored`. Without `stored` it is not, just as slowly.
    pub async fn verify(&self, password: &str, stored: Option<String>) -> Result<bool, ApiError> {
        if password.len() > limits::PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        let (password, known) = (password.to_owned(), stored.is_some());
        let decoy = Arc::clone(&self.decoy);
        let same = self
            .work(move || {
                let decoy =
                    || decoy.get_or_init(|| encode("", &[0; SALT_BYTES]).unwrap_or_default());
                let stored = stored.as_deref().unwrap_or_else(|| decoy());
                matches(&password, stored)
            })
            .await??;
        Ok(same && known)
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            ApiError::new(Code::TooManySignIns, "too many people sign in at this moment")
                .hint("try again in a moment")
                .retry_after_s(2)
        })?;
        let turn = Arc::clone(&self.at_once).acquire_owned().await.map_err(ApiError::internal)?;
        let done = tokio::task::spawn_blocking(move || {
            // Kept until the work is done, even if whoever asked has gone.
            let _held = (place, turn);
            work()
        });
        done.await.map_err(ApiError::internal)
    }
}

fn check(password: &str) -> Result<(), ApiError> {
    let long_enough = password.chars().count() >= limits::PASSWORD_CHARS_MIN;
    if long_enough && password.len() <= limits::PASSWORD_BYTES_MAX {
        return Ok(());
    }
    let (min, max) = (limits::PASSWORD_CHARS_MIN, limits::PASSWORD_BYTES_MAX);
    Err(ApiError::new(Code::WeakPassword, format!("a password has {min} to {max} characters"))
        .hint("a few words in a row are easy to keep in mind and hard to guess"))
}

fn argon(memory_kib: u32, passes: u32, lanes: u32) -> Result<Argon2<'static>, argon2::Error> {
    let params = Params::new(memory_kib, passes, lanes, Some(HASH_BYTES))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[derive(Debug, thiserror::Error)]
enum PasswordError {
    #[error("hash a password: {0}")]
    Hash(argon2::Error),
    #[error("read a stored password: it is not in PHC form")]
    Stored,
}

/// In PHC form, so that the costs can be raised later without losing anybody.
fn encode(password: &str, salt: &[u8; SALT_BYTES]) -> Result<String, ApiError> {
    use limits::{ARGON_LANES as p, ARGON_MEMORY_KIB as m, ARGON_PASSES as t};
    let hash = hash_with(password, salt, m, t, p).map_err(ApiError::internal)?;
    let (salt, hash) = (BASE64.encode(salt), BASE64.encode(hash));
    Ok(format!("$argon2id$v=19$m={m},t={t},p={p}${salt}${hash}"))
}

fn hash_with(
    password: &str,
    salt: &[u8],
    memory_kib: u32,
    passes: u32,
    lanes: u32,
) -> Result<[u8; HASH_BYTES], PasswordError> {
    let mut hash = [0; HASH_BYTES];
    argon(memory_kib, passes, lanes)
        .and_then(|argon| argon.hash_password_into(password.as_bytes(), salt, &mut hash))
        .map_err(PasswordError::Hash)?;
    Ok(hash)
}

fn matches(password: &str, stored: &str) -> Result<bool, ApiError> {
    let (costs, salt, want) =
        decode(stored).ok_or(PasswordError::Stored).map_err(ApiError::internal)?;
    let [memory_kib, passes, lanes] = costs;
    let got = hash_with(password, &salt, memory_kib, passes, lanes).map_err(ApiError::internal)?;
    Ok(equal_in_constant_time(&got, &want))
}

fn decode(stored: &str) -> Option<([u32; 3], Vec<u8>, Vec<u8>)> {
    let mut parts = stored.strip_prefix("$argon2id$v=19$")?.split('$');
    let mut costs = parts.next()?.split(',');
    let mut cost = |name| costs.next()?.strip_prefix(name)?.parse().ok();
    let read = [cost("m=")?, cost("t=")?, cost("p=")?];
    let salt = BASE64.decode(parts.next()?).ok()?;
    let hash = BASE64.decode(parts.next()?).ok()?;
    Some((read, salt, hash))
}

#[cfg(test)]
mod tests {
    use insula_kit::random::SystemRandom;

    use super::*;

    fn passwords() -> Passwords {
        Passwords::new(Arc::new(SystemRandom::new()))
    }

    #[tokio::test]
    async fn a_password_is_known_again_and_no_other_is() {
        let passwords = passwords();
        let stored = passwords.hash("correct horse battery").await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(passwords.verify("correct horse battery", Some(stored.clone())).await.unwrap());
        assert!(!passwords.verify("correct horse batterY", Some(stored.clone())).await.unwrap());
        assert!(!passwords.verify("", Some(stored)).await.unwrap());
        // The decoy's own password opens nothing.
        assert!(!passwords.verify("", None).await.unwrap());
    }

    #[tokio::test]
    async fn two_people_with_one_password_look_different() {
        let passwords = passwords();
        let one = passwords.hash("correct horse battery").await.unwrap();
        let two = passwords.hash("correct horse battery").await.unwrap();
        assert_ne!(one, two);
    }

    #[tokio::test]
    async fn weak_and_endless_passwords_are_refused_before_any_work() {
        let passwords = passwords();
        for weak in ["", "eleven char", &"x".repeat(513)] {
            let refused = passwords.hash(weak).await.unwrap_err();
            assert_eq!(refused.code(), Code::WeakPassword);
        }
        assert!(!passwords.verify(&"x".repeat(1 << 20), Some("no".into())).await.unwrap());
    }

    #[tokio::test]
    async fn a_storm_is_refused_beyond_the_places_and_passes() {
        let passwords = passwords();
        let storm = (0..60).map(|_| {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.verify("guess", None).await })
        });
        let (mut refused, mut served) = (0, 0);
        for attempt in storm.collect::<Vec<_>>() {
            match attempt.await.unwrap() {
                Ok(_) => served += 1,
                Err(error) => {
                    assert_eq!(error.code(), Code::TooManySignIns);
                    refused += 1;
                }
            }
        }
        assert!(refused > 0 && served >= 21, "{refused} refused, {served} served");
        assert!(!passwords.verify("guess", None).await.unwrap(), "and then all is well again");
    }
}
