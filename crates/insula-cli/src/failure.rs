//! What went wrong, in words: one sentence, a way out, a code with its page, and an exit code.
//!
//! The only file that turns errors into text for people. Everything else passes them on.

use std::error::Error;
use std::fmt::Write as _;
use std::io::ErrorKind;

use insula_model::limits::{SOURCE_FILE_MAX, SOURCE_FILES_MAX, SOURCE_TOTAL_MAX};
use insula_wire::problem::{Code, Mistake, Problem};
use insula_wire::rest::deployment::Cause;

use crate::client::{AddressError, ClientError};
use crate::show::clean;
use crate::show::paint::Paint;

/// How a command ends, for whoever called it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    pub const OK: Self = Self(0);
    /// A deploy that did not go live, a server that cannot be reached, a folder that is refused.
    pub const FAILED: Self = Self(1);
    pub const USAGE: Self = Self(2);
    pub const NOT_SIGNED_IN: Self = Self(3);
    pub const NOT_FOUND: Self = Self(4);
    /// Not allowed, not possible in this state, or over a limit.
    pub const REFUSED: Self = Self(5);
    /// Ctrl-C, as shells count it: what was begun goes on.
    pub const INTERRUPTED: Self = Self(130);
    /// Of `run` only: the command's own code is not known, and it is not the command's fault.
    pub const RUN_FAILED: Self = Self(125);
}

/// The outcome of every command.
pub type Outcome = Result<Exit, Failure>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    pub hint: Option<String>,
    pub details: Box<Details>,
    /// Nobody reads any more: nothing is said, and it is no failure.
    pub silent: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// The stable code of a problem document, or `cause-` and that of a deployment's cause.
    pub code: Option<String>,
    /// Where the code is explained.
    pub page: Option<String>,
    pub mistakes: Vec<Mistake>,
    /// The last lines that a build or an app wrote.
    pub tail: Vec<String>,
    pub request: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, details: Box::default(), silent: false }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::FAILED, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::USAGE, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NOT_FOUND, message)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What was being done when `error` came, with everything below it.
    pub fn because(message: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let mut text = message.into();
        let mut next = Some(error);
        while let Some(error) = next {
            // Some errors repeat what is below them.
            let said = error.to_string();
            if !text.ends_with(&said) {
                let _ = write!(text, ": {said}");
            }
            next = error.source();
        }
        Self::failed(text)
    }

    pub fn not_signed_in() -> Self {
        Self::new(Exit::NOT_SIGNED_IN, "not signed in")
            .hint("insula login, or set INSULA_TOKEN; on the server's own machine, run as the user of `insula up`")
    }

    pub fn silently() -> Self {
        Self { silent: true, ..Self::new(Exit::OK, "") }
    }

    /// A deployment that ended otherwise than live.
    pub fn of_cause(cause: &Cause, server: &str) -> Self {
        let message = match &cause.component {
            Some(component) if !cause.message.contains(&format!("`{component}`")) => {
                format!("{component}: {}", cause.message)
            }
            Some(_) | None => cause.message.clone(),
        };
        let details = Details {
            page: Some(format!("{server}/errors/cause-{}", cause.code)),
            code: Some(format!("cause-{}", cause.code)),
            tail: cause.tail.clone(),
            ..Details::default()
        };
        Self { hint: cause.hint.clone(), details: Box::new(details), ..Self::failed(message) }
    }

    fn of_problem(problem: &Problem, server: &str) -> Self {
        let page = problem.kind.starts_with('/').then(|| format!("{server}{}", problem.kind));
        // A single mistake is often what the sentence says already.
        let mistakes = match problem.errors.as_slice() {
            [one] if problem.detail.contains(&one.message) && one.fix.is_none() => Vec::new(),
            all => all.to_vec(),
        };
        let details = Details {
            code: Some(problem.code.clone()),
            page,
            mistakes,
            request: problem.request_id.clone(),
            tail: Vec::new(),
        };
        let failure = Self {
            hint: problem.hint.clone(),
            details: Box::new(details),
            ..Self::new(exit_of(problem), problem.detail.clone())
        };
        match (&failure.hint, problem.known_code()) {
            (None, Some(Code::Unauthenticated)) => {
                failure.hint("insula login, or set INSULA_TOKEN")
            }
            (_, _) => failure,
        }
    }
}

/// What each code means to a script.
fn exit_of(problem: &Problem) -> Exit {
    match problem.known_code() {
        Some(Code::Unauthenticated | Code::SignInFailed) => Exit::NOT_SIGNED_IN,
        Some(Code::NotFound) => Exit::NOT_FOUND,
        Some(
            Code::Forbidden
            | Code::SecondOrg
            | Code::NameTaken
            | Code::Conflict
            | Code::NotLive
            | Code::NotEmpty
            | Code::LastOwner
            | Code::ReleaseGone
            | Code::InvitationGone
            | Code::PreconditionFailed
            | Code::BodyTooLarge
            | Code::SourceTooLarge
            | Code::WeakPassword
            | Code::TooLargeForNodes
            | Code::QuotaExceeded
            | Code::RateLimited
            | Code::TooManySignIns
            | Code::TooManyStreams,
        ) => Exit::REFUSED,
        Some(Code::InvalidField) => Exit::USAGE,
        Some(
            Code::BadRequest
            | Code::InvalidJson
            | Code::IdempotencyKeyInvalid
            | Code::MethodNotAllowed
            | Code::Timeout
            | Code::UnsupportedMediaType
            | Code::IdempotencyKeyReused
            | Code::InvalidSpec
            | Code::InvalidManifest
            | Code::SourceIncomplete
            | Code::ChunkCorrupt
            | Code::ArchiveInvalid
            | Code::ArchiveUnsafe
            | Code::RuntimeMissing
            | Code::HeadersTooLarge
            | Code::Internal
            | Code::Unavailable
            | Code::DiskFull,
        ) => Exit::FAILED,
        // A server newer than this program: its status says the kind.
        None => match problem.status {
            401 => Exit::NOT_SIGNED_IN,
            404 => Exit::NOT_FOUND,
            403 | 409 | 410 | 412 | 413 | 429 => Exit::REFUSED,
            _ => Exit::FAILED,
        },
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Refused { server, problem } => {
                Self::of_problem(problem, &server.to_string())
            }
            ClientError::Insecure { server } => Self::new(
                Exit::REFUSED,
                format!("{server} speaks plain HTTP and is not this machine"),
            )
            .hint("use https://; --insecure-http lets anybody in between read your token"),
            ClientError::Unreachable { server, .. } => {
                let told = Self::because("reach the server", &error);
                let hint = if told.message.contains("certificate") {
                    "name a file with the certificates of a private authority in SSL_CERT_FILE"
                } else if server.is_loopback() {
                    "is it running? start it: insula up"
                } else {
                    "check the address and the network, or choose another with --server"
                };
                told.hint(hint)
            }
            ClientError::Strange { .. } => Self::because("use the server", &error)
                .hint("is --server the address of the API, and not of an app?"),
            ClientError::Tls { .. } => Self::because("talk to the server", &error)
                .hint("install ca-certificates, or name a file of them in SSL_CERT_FILE"),
            ClientError::Token { .. } => Self::usage(error.to_string())
                .hint("a token is one line of letters, digits and underscores"),
            ClientError::Lost { .. }
            | ClientError::TimedOut { .. }
            | ClientError::Answer { .. }
            | ClientError::TooLarge { .. }
            | ClientError::Stream(_)
            | ClientError::Request { .. } => Self::because("talk to the server", &error),
        }
    }
}

impl From<AddressError> for Failure {
    fn from(error: AddressError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<insula_model::names::NameError> for Failure {
    fn from(error: insula_model::names::NameError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<insula_kit::files::FileError> for Failure {
    fn from(error: insula_kit::files::FileError) -> Self {
        Self::because("use a file", &error)
    }
}

impl Failure {
    /// A folder of which something cannot be sent.
    fn of_folder(problems: &insula_build::Problems) -> Self {
        let mistakes: Vec<Mistake> = problems.iter().map(mistake).collect();
        let message = match mistakes.len() {
            1 => "the folder cannot be deployed".to_owned(),
            n => format!("the folder cannot be deployed: {n} mistakes"),
        };
        // As the server would refuse it.
        let code = match problems.iter().any(is_too_large) {
            true => Code::SourceTooLarge,
            false => Code::InvalidManifest,
        };
        let code = Some(code.to_string());
        let details = Box::new(Details { code, mistakes, ..Details::default() });
        Self { details, ..Self::failed(message) }
    }

    /// A description of an app that says what cannot be: the server would say the same.
    pub fn of_spec(problems: &insula_build::Problems) -> Self {
        let mut failure = Self::of_folder(problems);
        failure.details.code = Some(Code::InvalidSpec.to_string());
        failure
    }
}

/// Told by the limit that its sentence names; a test holds the two sentences together.
fn is_too_large(problem: &insula_build::Problem) -> bool {
    [
        format!("a file may be {SOURCE_FILE_MAX}"),
        format!("a source may be {SOURCE_TOTAL_MAX}"),
        format!("more than {SOURCE_FILES_MAX} files"),
    ]
    .iter()
    .any(|limit| problem.message.contains(limit.as_str()))
}

fn mistake(problem: &insula_build::Problem) -> Mistake {
    Mistake {
        file: problem.file.clone(),
        line: problem.line.and_then(|line| line.try_into().ok()),
        key: problem.key.clone(),
        message: problem.message.clone(),
        fix: problem.fix.clone(),
    }
}

impl From<insula_build::folder::FolderError> for Failure {
    fn from(error: insula_build::folder::FolderError) -> Self {
        use insula_build::folder::FolderError;
        match &error {
            FolderError::Problems(problems) => Self::of_folder(problems),
            FolderError::Open { path, source } if source.kind() == ErrorKind::NotFound => {
                Self::usage(format!("{} is not there", path.display()))
                    .hint("give the folder that holds the app")
            }
            FolderError::Open { .. } => {
                Self { exit: Exit::USAGE, ..Self::because("read the folder", &error) }
            }
            FolderError::NotAFolder { .. } => {
                Self::usage(error.to_string()).hint("give the folder that holds the app")
            }
        }
    }
}

/// As it is shown, on stderr. `paint` is plain where colours have no place.
pub fn words(failure: &Failure, paint: Paint) -> String {
    let details = &failure.details;
    let mut text = String::new();
    if !details.tail.is_empty() {
        let _ = writeln!(text, "{}", paint.dim("last lines:"));
        for line in &details.tail {
            let _ = writeln!(text, "  {}", clean::line(line));
        }
    }
    let _ = writeln!(text, "{} {}", paint.red("error:"), clean::line(&failure.message));
    for mistake in &details.mistakes {
        let _ = writeln!(text, "  {}", clean::line(&mistake_line(mistake)));
        if let Some(fix) = &mistake.fix {
            let _ = writeln!(text, "    {} {}", paint.green("fix:"), clean::line(fix));
        }
    }
    if let Some(hint) = &failure.hint {
        let _ = writeln!(text, "{} {}", paint.green("hint:"), clean::line(hint));
    }
    if let Some(code) = &details.code {
        let page = details.page.as_deref().map(|page| format!(" ({page})")).unwrap_or_default();
        let line = format!("code: {code}{page}");
        let _ = writeln!(text, "{}", paint.dim(&clean::line(&line)));
    }
    if let (Some(request), Some("internal")) = (&details.request, details.code.as_deref()) {
        let line = format!("request: {request} (the server's log has the rest)");
        let _ = writeln!(text, "{}", paint.dim(&clean::line(&line)));
    }
    text
}

fn mistake_line(mistake: &Mistake) -> String {
    let file = mistake.file.as_ref().map(|file| match mistake.line {
        Some(line) => format!("{file}:{line}"),
        None => file.clone(),
    });
    let parts = [file.as_deref(), mistake.key.as_deref(), Some(mistake.message.as_str())];
    parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(failure: &Failure, expected: Expect) {
        expected.assert_eq(&words(failure, Paint::PLAIN));
    }

    fn refused(problem: Problem) -> Failure {
        let server = "http://127.0.0.1:7070".parse().unwrap();
        ClientError::Refused { server, problem: Box::new(problem) }.into()
    }

    #[test]
    fn a_refusal_has_a_sentence_a_way_out_and_a_page() {
        let mut problem = Problem::new(Code::QuotaExceeded, "`acme` may run 4 instances");
        problem.hint = Some("scale `web` to 2".into());
        check(
            &refused(problem),
            expect![[r#"
            error: `acme` may run 4 instances
            hint: scale `web` to 2
            code: quota_exceeded (http://127.0.0.1:7070/errors/quota_exceeded)
        "#]],
        );
    }

    #[test]
    fn every_mistake_is_shown_with_its_place_and_its_fix() {
        let mut problem = Problem::new(Code::InvalidSpec, "insula.toml has 2 mistakes");
        problem.errors = vec![
            Mistake {
                file: Some("insula.toml".into()),
                line: Some(7),
                key: Some("components.web.port".into()),
                message: "70000 is no port".into(),
                fix: Some("write a number up to 65535".into()),
            },
            Mistake { message: "what?\u{1b}[2J".into(), ..Mistake::default() },
        ];
        check(
            &refused(problem),
            expect![[r#"
            error: insula.toml has 2 mistakes
              insula.toml:7: components.web.port: 70000 is no port
                fix: write a number up to 65535
              what?�[2J
            code: invalid_spec (http://127.0.0.1:7070/errors/invalid_spec)
        "#]],
        );
    }

    #[test]
    fn a_failed_deployment_shows_the_last_lines_first() {
        let cause = Cause {
            code: "exited".into(),
            message: "exited with 1 before it was ready, twice".into(),
            hint: Some("insula logs".into()),
            component: Some("web".parse().unwrap()),
            exit: None,
            tail: vec!["Traceback".into(), "boom\u{7}".into()],
        };
        check(
            &Failure::of_cause(&cause, "http://s"),
            expect![[r#"
            last lines:
              Traceback
              boom�
            error: web: exited with 1 before it was ready, twice
            hint: insula logs
            code: cause-exited (http://s/errors/cause-exited)
        "#]],
        );
    }

    #[test]
    fn each_code_has_the_exit_code_that_scripts_rely_on() {
        let told = |exit: Exit| {
            let all = Code::ALL.iter().filter(|code| exit_of(&Problem::new(**code, "")) == exit);
            all.map(|code| code.as_str()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(Exit::NOT_SIGNED_IN), "unauthenticated sign_in_failed");
        assert_eq!(told(Exit::NOT_FOUND), "not_found");
        assert_eq!(told(Exit::USAGE), "invalid_field");
        for code in ["forbidden", "quota_exceeded", "rate_limited", "conflict", "second_org"] {
            assert!(told(Exit::REFUSED).split(' ').any(|told| told == code), "{code}");
        }
        assert!(told(Exit::OK).is_empty());
    }

    /// What a real folder is refused with.
    fn of_real_folder(fill: impl FnOnce(&std::path::Path)) -> Failure {
        let top = tempfile::tempdir().unwrap();
        fill(top.path());
        insula_build::folder::read(top.path()).unwrap_err().into()
    }

    #[test]
    fn a_folder_that_is_too_large_is_refused_with_the_code_of_the_server() {
        let sparse = |top: &std::path::Path, name: &str, bytes: u64| {
            std::fs::File::create(top.join(name)).unwrap().set_len(bytes).unwrap();
        };
        let one = of_real_folder(|top| sparse(top, "disk.img", SOURCE_FILE_MAX.0 + 1));
        assert_eq!(one.details.code.as_deref(), Some("source_too_large"));
        assert_eq!(one.details.mistakes[0].file.as_deref(), Some("disk.img"));
        let many = of_real_folder(|top| {
            for n in 0..=SOURCE_TOTAL_MAX.0 / SOURCE_FILE_MAX.0 {
                sparse(top, &format!("{n}.img"), SOURCE_FILE_MAX.0);
            }
        });
        assert_eq!(many.details.code.as_deref(), Some("source_too_large"));
    }

    #[test]
    fn a_folder_with_what_cannot_be_sent_is_refused_with_a_code() {
        let link = |top: &std::path::Path| {
            std::os::unix::fs::symlink("/etc/passwd", top.join("passwd")).unwrap();
        };
        let socket = |top: &std::path::Path| {
            drop(std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap());
        };
        for (failure, name) in
            [(of_real_folder(link), "passwd"), (of_real_folder(socket), "socket")]
        {
            assert_eq!(failure.details.code.as_deref(), Some("invalid_manifest"), "{name}");
            assert_eq!(failure.details.mistakes[0].file.as_deref(), Some(name));
            assert_eq!(failure.exit, Exit::FAILED);
        }
    }

    #[test]
    fn a_code_of_a_newer_server_is_told_by_its_status() {
        let mut problem = Problem::new(Code::Internal, "new");
        problem.code = "from_the_future".into();
        for (status, exit) in [(401, 3), (403, 5), (404, 4), (409, 5), (429, 5), (500, 1), (418, 1)]
        {
            problem.status = status;
            assert_eq!(exit_of(&problem), Exit(exit), "{status}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_told_in_words() {
        let error = insula_build::folder::read(std::path::Path::new("/nonexistent")).unwrap_err();
        let failure = Failure::from(error);
        assert_eq!(
            (failure.exit, failure.message.as_str()),
            (Exit::USAGE, "/nonexistent is not there")
        );
    }

    #[test]
    fn an_error_is_told_to_its_root_and_nothing_twice() {
        let error = insula_kit::files::read(std::path::Path::new("/nonexistent/x"), 1).unwrap_err();
        let failure = Failure::from(error);
        assert!(failure.message.starts_with("use a file: open /nonexistent/x: No such file"));
        assert_eq!(failure.message.matches("No such file").count(), 1);
    }
}
