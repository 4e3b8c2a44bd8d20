//! Refusals: a code, a sentence, a way out; and what only the log gets.

use std::fmt;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use insula_blobs::BlobError;
use insula_kit::trace::RequestId;
use insula_store::{Kind, StoreError, WriteError};
use insula_wire::problem::{Code, Mistake, PROBLEM_MEDIA_TYPE, Problem};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a request is not answered as wished.
#[derive(Debug)]
pub struct ApiError {
    problem: Box<Problem>,
    code: Code,
    retry_after_s: Option<u64>,
    log_only: Option<Source>,
}

impl ApiError {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let problem = Box::new(Problem::new(code, detail));
        Self { problem, code, retry_after_s: None, log_only: None }
    }

    /// The same whether it is not there or somebody else's.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}"))
    }

    /// An org that is not there, or that is not the caller's.
    pub fn no_such_org() -> Self {
        Self::not_found("org").hint("`insula whoami` says which orgs you are in")
    }

    /// One field of the body, or one parameter of the query, that cannot be used.
    pub fn field(key: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(Code::InvalidField, format!("`{key}`: {message}")).mistakes(vec![Mistake {
            key: Some(key.into()),
            message,
            ..Mistake::default()
        }])
    }

    pub fn query(key: &str, message: impl fmt::Display) -> Self {
        Self::new(Code::BadRequest, format!("query parameter `{key}`: {message}"))
    }

    /// What we cannot explain to the one who asked.
    pub fn internal(source: impl Into<Source>) -> Self {
        Self::new(Code::Internal, "the request could not be carried out")
            .hint("try again; if it stays, tell the operator the request id")
            .log_only(source)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem.hint = Some(hint.into());
        self
    }

    pub fn mistakes(mut self, mistakes: Vec<Mistake>) -> Self {
        self.problem.errors = mistakes;
        self
    }

    pub fn retry_after_s(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds.max(1));
        self
    }

    pub fn log_only(mut self, source: impl Into<Source>) -> Self {
        self.log_only = Some(source.into());
        self
    }

    pub fn code(&self) -> Code {
        self.code
    }

    /// The document without a request id, for a stream that ends early.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Logs what is ours to mend, once, and makes the answer.
    pub fn answer(self, request: &RequestId) -> Response {
        if let Some(source) = &self.log_only {
            let causes = chain(source.as_ref());
            // What the one who asked did wrong is no news: a stranger who hangs up in the middle of
            // every body would fill the log, and bury what is ours to mend.
            if self.problem.status >= 500 {
                tracing::error!(code = %self.code, error = causes, "a request failed");
            } else {
                tracing::debug!(code = %self.code, error = causes, "a request was refused");
            }
        }
        let mut problem = self.problem;
        problem.request_id = Some(request.as_str().into());
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An error and what it comes from, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DiskFull(_) => {
                Self::new(Code::DiskFull, "the server's disk is full; nothing was changed")
                    .log_only(error)
            }
            StoreError::Cursor => Self::query("cursor", "it is not a cursor of this list")
                .hint("pass on `next` of the page before, unchanged"),
            StoreError::Closed => {
                Self::new(Code::Unavailable, "the server is ending").retry_after_s(2)
            }
            StoreError::Unavailable(_) => {
                Self::new(Code::Unavailable, "the database cannot be reached; nothing was done")
                    .retry_after_s(2)
            }
            StoreError::Unknown(_) => {
                Self::new(Code::Unavailable, "the connection to the database broke in the last moment: nobody knows whether this was done")
                    .hint("look before you try again; with the same Idempotency-Key trying again is safe")
                    .retry_after_s(2)
            }
            StoreError::Locked(_) => Self::new(Code::Unavailable, "the database is busy")
                .retry_after_s(2)
                .log_only(error),
            StoreError::Io(_)
            | StoreError::Damaged(_)
            | StoreError::Statement { .. }
            | StoreError::Column { .. }
            | StoreError::Document(_)
            | StoreError::Json { .. }
            | StoreError::Undone
            | StoreError::Panicked => Self::internal(error),
        }
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        let said = error.to_string();
        match error {
            WriteError::NotFound { kind } => Self::not_found(kind.as_str()),
            WriteError::NameTaken { .. } => Self::new(Code::NameTaken, said),
            WriteError::HostTaken { .. } => Self::new(Code::NameTaken, said)
                .hint("a host is never handed to another org, even after it was removed"),
            WriteError::EmailTaken { .. } => Self::new(Code::NameTaken, said),
            // What can exist already without a name is asked for twice.
            WriteError::Exists { kind: Kind::Member } => Self::new(Code::NameTaken, said),
            WriteError::Exists { .. } | WriteError::Moved { .. } => Self::new(Code::Conflict, said)
                .hint("something else changed it at the same moment; look and try again"),
            WriteError::NotEmpty { .. } => {
                Self::new(Code::NotEmpty, said).hint("delete what is in it first")
            }
            WriteError::LastOwner => {
                Self::new(Code::LastOwner, said).hint("make another member an owner first")
            }
            WriteError::LastOperator => Self::new(Code::Conflict, said),
            WriteError::Revoked { .. } => Self::new(Code::Conflict, said)
                .hint("what was removed from the fleet never comes back under its old identity"),
            // Only the control plane's writes are bound to a lease.
            WriteError::Superseded { .. } => Self::new(Code::Unavailable, said).retry_after_s(1),
            WriteError::InvitationSpent => {
                Self::new(Code::InvitationGone, said).hint("ask for a new invitation")
            }
            WriteError::Store(error) => error.into(),
        }
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Full { .. } => {
                Self::new(Code::DiskFull, "the disk that holds sources is full").log_only(error)
            }
            BlobError::TooLarge { max } => {
                Self::new(Code::SourceTooLarge, format!("one file may have {max}"))
            }
            BlobError::Mismatch { want, got } => {
                Self::new(Code::ChunkCorrupt, format!("announced as {want}, but it is {got}"))
            }
            BlobError::Sender { .. } => {
                Self::new(Code::Timeout, "the body did not arrive whole").log_only(error)
            }
            BlobError::Silent { .. } | BlobError::Remote { .. } => {
                Self::new(Code::Unavailable, "the object store does not answer")
                    .retry_after_s(5)
                    .log_only(error)
            }
            BlobError::Missing { .. }
            | BlobError::BatchTooLarge { .. }
            | BlobError::Damaged { .. }
            | BlobError::Io { .. }
            | BlobError::Refused { .. }
            | BlobError::Config { .. }
            | BlobError::Thread => Self::internal(error),
        }
    }
}

impl From<insula_vault::VaultError> for ApiError {
    fn from(error: insula_vault::VaultError) -> Self {
        match error {
            insula_vault::VaultError::Write(error) => error.into(),
            error => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the log of an operator, who sees `INFO`, says of an error that is answered.
    fn logged(error: ApiError) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let request = "req_0123456789abcdef01234567".parse().unwrap();
        tracing::subscriber::with_default(log, || drop(error.answer(&request)));
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_stranger_who_hangs_up_does_not_fill_the_log() {
        let cause = || io::Error::other("cut off");
        for code in [Code::BadRequest, Code::Timeout] {
            assert_eq!(logged(ApiError::new(code, "not whole").log_only(cause())), "", "{code}");
        }
        for code in [Code::Internal, Code::Unavailable, Code::DiskFull] {
            let said = logged(ApiError::new(code, "ours").log_only(cause()));
            assert!(said.contains("ERROR") && said.contains("cut off"), "{code}: {said:?}");
        }
    }
}
