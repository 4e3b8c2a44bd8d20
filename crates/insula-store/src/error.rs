//! What can go wrong, in three sizes: opening a store, running a statement, refusing a mutation.

use std::fmt;
use std::io;
use std::path::PathBuf;

use insula_model::fleet::Member;
use insula_model::schema::DocumentError;
use insula_model::{Email, HostName, ServerId};

use crate::database::DbError;

/// A statement did not do its work, and it is nobody's wish that was at fault.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The mutation is undone. Writes succeed again as soon as there is room.
    #[error("the disk that holds the database is full")]
    DiskFull(#[source] DbError),
    #[error("read or write the database's file")]
    Io(#[source] DbError),
    /// Somebody outside of this process holds the database.
    #[error("the database is locked by another process")]
    Locked(#[source] DbError),
    #[error("the database's file is damaged; restore a backup")]
    Damaged(#[source] DbError),
    /// Nothing was done. It was waited for, for as long as a request is worth.
    #[error("the database cannot be reached")]
    Unavailable(#[source] DbError),
    /// Neither done nor not done, as far as anybody can tell: read before trying again.
    #[error("the database went away while it committed, and may have done it or not")]
    Unknown(#[source] DbError),
    #[error("run `{statement}`")]
    Statement {
        statement: String,
        #[source]
        source: DbError,
    },
    #[error("read column {column} of `{statement}`: {problem}")]
    Column { statement: String, column: usize, problem: String },
    #[error("read or write a stored document")]
    Document(#[from] DocumentError),
    #[error("read or write the JSON of {what}")]
    Json {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// The one mistake of a caller that is found only here.
    #[error("the cursor is not one of this list")]
    Cursor,
    #[error("the transaction was undone by an earlier error")]
    Undone,
    #[error("a mutation or a query panicked; it is undone")]
    Panicked,
    #[error("the store is closed")]
    Closed,
}

/// A mutation that was refused, or that failed. What was begun of it is undone if the closure
/// returns it.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("there is no such {kind}")]
    NotFound { kind: Kind },
    #[error("the name `{name}` is taken by another {kind}")]
    NameTaken { kind: Kind, name: String },
    /// In use, or kept for the org that used it before.
    #[error("the host `{host}` is taken")]
    HostTaken { host: HostName },
    #[error("`{email}` is taken by another user")]
    EmailTaken { email: Email },
    #[error("the {kind} with this id exists already")]
    Exists { kind: Kind },
    #[error("the {kind} still has {has}")]
    NotEmpty { kind: Kind, has: &'static str },
    /// Somebody else was faster: read again, decide again.
    #[error("the {kind} has changed since it was read: expected {expected}, found {found}")]
    Moved { kind: Kind, expected: String, found: String },
    #[error("an org keeps at least one owner")]
    LastOwner,
    #[error("the platform keeps at least one operator")]
    LastOperator,
    #[error("the invitation has expired or was used")]
    InvitationSpent,
    /// It was removed from the fleet, which is for ever.
    #[error("{member} was removed from this fleet")]
    Revoked { member: Member },
    /// Who writes was too slow: another server has taken over from it.
    #[error("the lease `{lease}` is held by another server")]
    Superseded { lease: String, by: Option<ServerId> },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a row is one of, for errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Org,
    User,
    Member,
    Invitation,
    Token,
    Project,
    Environment,
    App,
    Domain,
    Variable,
    Secret,
    DataKey,
    Deployment,
    Build,
    Release,
    Instance,
    Run,
    Node,
    Gateway,
    Join,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Org => "org",
            Self::User => "user",
            Self::Member => "member",
            Self::Invitation => "invitation",
            Self::Token => "token",
            Self::Project => "project",
            Self::Environment => "environment",
            Self::App => "app",
            Self::Domain => "domain",
            Self::Variable => "variable",
            Self::Secret => "secret",
            Self::DataKey => "data key",
            Self::Deployment => "deployment",
            Self::Build => "build",
            Self::Release => "release",
            Self::Instance => "instance",
            Self::Run => "run",
            Self::Node => "node",
            Self::Gateway => "gateway",
            Self::Join => "join token",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a database could not be opened, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("create {}", path.display())]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: DbError,
    },
    #[error("{} is a database of something else", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "{} has format {found}, and this version of insula knows formats up to {known}; \
         start the newer version that wrote it, or restore an older backup",
        path.display()
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("copy {} to {} before migrating it", path.display(), copy.display())]
    Copy {
        path: PathBuf,
        copy: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("migrate {} to format {to}; it is unchanged", path.display())]
    Migrate {
        path: PathBuf,
        to: u32,
        #[source]
        source: DbError,
    },
    #[error("connect to {place}")]
    Connect {
        place: String,
        #[source]
        source: DbError,
    },
    #[error(
        "the schema `{schema}` of {place} holds tables of something else; name another by ?schema="
    )]
    ForeignSchema { place: String, schema: String },
    #[error(
        "{place} has format {found}, and this version of insula knows formats up to {known}; \
         start the newer version that wrote it"
    )]
    NewerSchema { place: String, found: u32, known: u32 },
    #[error("bring {place} to the format of this version; it is unchanged")]
    Prepare {
        place: String,
        #[source]
        source: StoreError,
    },
    #[error("start a thread for the database")]
    Thread(#[source] io::Error),
    #[error("read the head of the feed")]
    Head(#[source] StoreError),
}
