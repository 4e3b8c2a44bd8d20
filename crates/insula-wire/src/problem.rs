//! Problem documents (RFC 9457) with a stable code, and the list of all codes.
//!
//! A code is for ever: programs compare it. Its page under `docs/errors/` is part of the program,
//! so a code without a page does not compile. Deployment causes are codes of another kind (they
//! are told in a deployment, not by a refusal) and have pages of their own, `cause-<code>.md`.

use std::fmt;

use insula_model::deployment::CauseCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of a problem document.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $title:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// Its page: what it means, the usual causes, what to do.
            pub fn page(self) -> &'static str {
                match self {
                    $(Self::$name => include_str!(concat!("../../../docs/errors/", $text, ".md")),)*
                }
            }
        }
    };
}

codes! {
    BadRequest = "bad_request", 400, "The request could not be read";
    InvalidJson = "invalid_json", 400, "The body is not the JSON that was expected";
    IdempotencyKeyInvalid = "idempotency_key_invalid", 400, "The idempotency key cannot be used";
    Unauthenticated = "unauthenticated", 401, "Not signed in";
    SignInFailed = "sign_in_failed", 401, "Wrong e-mail address or password";
    Forbidden = "forbidden", 403, "Not allowed";
    SecondOrg = "second_org", 403, "This installation keeps one org only";
    NotFound = "not_found", 404, "Not found";
    MethodNotAllowed = "method_not_allowed", 405, "This path does not take that method";
    Timeout = "timeout", 408, "The request took too long to arrive";
    NameTaken = "name_taken", 409, "The name is taken";
    Conflict = "conflict", 409, "Not possible in this state";
    NotLive = "not_live", 409, "Nothing is live yet";
    NotEmpty = "not_empty", 409, "Something is still in it";
    LastOwner = "last_owner", 409, "An org needs an owner";
    ReleaseGone = "release_gone", 409, "The release's files are gone";
    InvitationGone = "invitation_gone", 410, "The invitation cannot be used";
    PreconditionFailed = "precondition_failed", 412, "It has changed in the meantime";
    BodyTooLarge = "body_too_large", 413, "The body is too large";
    SourceTooLarge = "source_too_large", 413, "The source is too large";
    UnsupportedMediaType = "unsupported_media_type", 415, "Another kind of body is needed";
    InvalidField = "invalid_field", 422, "A value cannot be used";
    WeakPassword = "weak_password", 422, "The password is too weak";
    IdempotencyKeyReused = "idempotency_key_reused", 422, "The idempotency key belongs to another request";
    InvalidSpec = "invalid_spec", 422, "The app's description has mistakes";
    InvalidManifest = "invalid_manifest", 422, "The manifest cannot be used";
    SourceIncomplete = "source_incomplete", 422, "Parts of the source have not arrived";
    ChunkCorrupt = "chunk_corrupt", 422, "A chunk is not what its digest says";
    ArchiveInvalid = "archive_invalid", 422, "The archive cannot be read";
    ArchiveUnsafe = "archive_unsafe", 422, "The archive holds something that is not accepted";
    RuntimeMissing = "runtime_missing", 422, "A runtime is not installed";
    TooLargeForNodes = "too_large_for_nodes", 422, "No node is large enough";
    QuotaExceeded = "quota_exceeded", 422, "Over the org's quota";
    RateLimited = "rate_limited", 429, "Too many requests";
    TooManySignIns = "too_many_sign_ins", 429, "Too many attempts to sign in";
    TooManyStreams = "too_many_streams", 429, "Too many open streams";
    HeadersTooLarge = "headers_too_large", 431, "The headers are too large";
    Internal = "internal", 500, "Something went wrong on our side";
    Unavailable = "unavailable", 503, "Not possible right now";
    DiskFull = "disk_full", 507, "The disk of the server is full";
}

impl Code {
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! causes {
    ($($name:ident = $text:literal;)*) => {
        /// All causes that a failed deployment may name.
        pub const CAUSES: &[CauseCode] = &[$(CauseCode::$name,)*];

        /// The page of a deployment's cause.
        pub fn cause_page(cause: CauseCode) -> &'static str {
            match cause {
                $(CauseCode::$name =>
                    include_str!(concat!("../../../docs/errors/cause-", $text, ".md")),)*
            }
        }
    };
}

causes! {
    BuildFailed = "build_failed";
    BuildTimeout = "build_timeout";
    BuildInterrupted = "build_interrupted";
    RuntimeMissing = "runtime_missing";
    SourceLost = "source_lost";
    StartFailed = "start_failed";
    Exited = "exited";
    OutOfMemory = "out_of_memory";
    NotListening = "not_listening";
    ListensOnLoopback = "listens_on_loopback";
    ProbeFailed = "probe_failed";
    NoCapacity = "no_capacity";
    QuotaExceeded = "quota_exceeded";
    DiskFull = "disk_full";
    Internal = "internal";
}

/// The page behind `/errors/{name}`: of a code, or of a cause as `cause-<code>`.
pub fn page(name: &str) -> Option<&'static str> {
    match name.strip_prefix("cause-") {
        Some(cause) => CAUSES.iter().copied().find(|c| c.as_str() == cause).map(cause_page),
        None => Code::parse(name).map(Code::page),
    }
}

/// A refusal, for people and for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Where the code is explained, relative to the server: `/errors/<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of this code.
    pub title: String,
    pub status: u16,
    /// Stable; compare this. Expect codes that you do not know.
    pub code: String,
    /// What happened this time.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Names this request in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Every mistake at once, where there can be several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Mistake>,
}

/// One mistake in what was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mistake {
    /// The file of the source that holds it, if it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Counted from 1, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The key in that file, or the field of the body: `components.web.port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub message: String,
    /// What to write instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("/errors/{code}"),
            title: code.title().into(),
            status: code.status(),
            code: code.as_str().into(),
            detail: detail.into(),
            hint: None,
            request_id: None,
            errors: Vec::new(),
        }
    }

    /// The code, unless the server is newer than this program.
    pub fn known_code(&self) -> Option<Code> {
        Code::parse(&self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_page_has_a_code_and_every_code_a_page_worth_reading() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        let pages: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let codes = Code::ALL.iter().map(|code| format!("{code}.md"));
        let causes = CAUSES.iter().map(|cause| format!("cause-{}.md", cause.as_str()));
        assert_eq!(pages, codes.chain(causes).collect());
        for name in pages {
            let name = name.trim_end_matches(".md");
            let text = page(name).unwrap();
            assert!(text.starts_with(&format!("# {name}\n\n")), "{name} begins with its name");
            assert!((5..=25).contains(&text.lines().count()), "{name} is 5 to 25 lines long");
        }
    }

    #[test]
    fn a_code_is_spelled_once_and_has_the_status_of_an_error() {
        let spelled: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(spelled.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!((400..600).contains(&code.status()), "{code}");
            assert_eq!(Code::parse(code.as_str()), Some(*code));
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
    }

    #[test]
    fn a_problem_of_a_newer_server_is_still_read() {
        let text =
            r#"{"type":"/errors/x","title":"X","status":418,"code":"x","detail":"d","new":1}"#;
        let problem: Problem = serde_json::from_str(text).unwrap();
        assert_eq!((problem.known_code(), problem.status), (None, 418));
    }

    #[test]
    fn a_page_is_found_by_its_name_alone() {
        assert!(page("not_found").is_some() && page("cause-exited").is_some());
        for wrong in ["", "cause-", "../not_found", "NOT_FOUND", "not_found.md"] {
            assert!(page(wrong).is_none(), "{wrong}");
        }
    }
}
