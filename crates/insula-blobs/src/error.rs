//! What can go wrong with a blob, and the rule that no credential goes into it.

use std::io;
use std::path::{Path, PathBuf};

use insula_model::{Bytes, Digest};

use crate::config::S3Config;
use crate::key::Shelf;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("{digest} is not among the {} of {}", .shelf.kind, .shelf.org)]
    Missing { shelf: Shelf, digest: Digest },
    #[error("more than the {max} that this blob may have")]
    TooLarge { max: Bytes },
    #[error(
        "a batch of {blobs} blobs and {size}; at most {blobs_max} and {size_max} are taken at once"
    )]
    BatchTooLarge { blobs: usize, size: Bytes, blobs_max: usize, size_max: Bytes },
    #[error("announced as {want}, but what came is {got}")]
    Mismatch { want: Digest, got: Digest },
    #[error("{digest} is damaged: its bytes have the digest {got}")]
    Damaged { digest: Digest, got: Digest },
    #[error("no space left for blobs in {}", folder.display())]
    Full {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{doing} in the object store: it refused our credentials ({code})")]
    Refused { doing: &'static str, code: String },
    #[error("{doing} in the object store")]
    Remote {
        doing: &'static str,
        #[source]
        source: RemoteError,
    },
    #[error("{doing} in the object store: nothing came for {waited_s} s")]
    Silent { doing: &'static str, waited_s: u64 },
    #[error("receive a blob")]
    Sender {
        #[source]
        source: AnyError,
    },
    #[error("configure the blob store: {what}")]
    Config { what: String },
    #[error("a thread that worked on blobs ended early")]
    Thread,
}

/// What an object store answered, as text without our credentials. The original error is not
/// kept, because its text repeats what the server repeated.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct RemoteError {
    text: String,
}

impl BlobError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { folder: path.parent().unwrap_or(&path).to_owned(), source }
            }
            _ => Self::Io { doing, path, source },
        }
    }

    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// Longer answers are pages meant for a browser.
const REMOTE_TEXT_CHARS_MAX: usize = 1_000;

/// Turns an error of the object store into ours. `s3` tells what must not be repeated.
pub(crate) fn remote(
    doing: &'static str,
    s3: Option<&S3Config>,
    error: object_store::Error,
) -> BlobError {
    use object_store::Error::{PermissionDenied, Unauthenticated};
    let text = scrubbed(&error.to_string(), s3);
    // Listings and uploads in parts report a refusal as any other failure, and their type is
    // private; what is left is the text of the status.
    let refused = matches!(error, PermissionDenied { .. } | Unauthenticated { .. })
        || text.contains("status code: 401 ")
        || text.contains("status code: 403 ");
    if refused {
        return BlobError::Refused { doing, code: error_code(&text) };
    }
    BlobError::Remote { doing, source: RemoteError { text } }
}

fn scrubbed(text: &str, s3: Option<&S3Config>) -> String {
    let mut text = text.to_owned();
    for secret in s3.iter().flat_map(|s3| [s3.secret_key.expose(), s3.access_key.as_str()]) {
        if !secret.is_empty() {
            text = text.replace(secret, "(hidden)");
        }
    }
    text.chars().take(REMOTE_TEXT_CHARS_MAX).collect()
}

/// The `<Code>` of an S3 error document, which is all of it that is safe and of use.
fn error_code(text: &str) -> String {
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let code = code
        .map(|(code, _)| code)
        .filter(|code| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    code.unwrap_or("AccessDenied").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretKey;

    #[test]
    fn what_a_server_repeats_is_not_repeated_by_us() {
        let s3 = S3Config {
            endpoint: "http://localhost".into(),
            bucket: "b".into(),
            region: "r".into(),
            access_key: "AKIAEXAMPLE".into(),
            secret_key: SecretKey::new("tops3cret".into()),
            allow_http: true,
            path_style: true,
            spool: "/tmp".into(),
        };
        let text = "<Code>SlowDown</Code><Key>AKIAEXAMPLE</Key> tops3cret";
        let source = Box::new(io::Error::other(text));
        let error =
            remote("put a blob", Some(&s3), object_store::Error::Generic { store: "S3", source });
        let told = format!("{error:?} {error}");
        assert!(told.contains("SlowDown"), "{told}");
        assert!(!told.contains("AKIA") && !told.contains("tops3"), "{told}");
        let told = format!("{s3:?}");
        assert!(!told.contains("tops3"), "{told}");
    }

    #[test]
    fn a_code_that_is_not_a_code_is_not_passed_on() {
        assert_eq!(error_code("x <Code>InvalidAccessKeyId</Code> y"), "InvalidAccessKeyId");
        assert_eq!(error_code("x <Code>\u{1b}[31m</Code> y"), "AccessDenied");
        assert_eq!(error_code("nothing"), "AccessDenied");
    }
}
