//! Every limit of the API, with its unit and its reason.

use std::time::Duration;

/// A JSON body. The largest that people write is a set of variables.
pub const JSON_BODY_BYTES_MAX: usize = 1 << 20;
/// A manifest of 100,000 files with long paths.
pub const MANIFEST_BODY_BYTES_MAX: usize = 64 << 20;
/// A compressed archive; what it unpacks to has the limits of a source.
pub const ARCHIVE_BODY_BYTES_MAX: u64 = 512 << 20;
/// Digests in one question for what is lacking: all files of the largest source.
pub const MISSING_CHUNKS_MAX: usize = 100_000;
/// What `FindMissing` with that many digests is long.
pub const MISSING_BODY_BYTES_MAX: usize = 10 << 20;
/// Small chunks that are written together.
pub const CHUNK_BATCH_BYTES: usize = 8 << 20;
/// As many as the blob store takes comfortably at once.
pub const CHUNK_BATCH_COUNT: usize = 512;

/// Headers are short; who takes longer holds a connection for its own sake.
pub const HEADERS_TIME: Duration = Duration::from_secs(10);
/// A body that stands still for so long is not coming.
pub const BODY_STALL: Duration = Duration::from_secs(30);
/// A JSON body as a whole, so that one byte every 29 seconds is no way to stay.
pub const JSON_BODY_TIME: Duration = Duration::from_secs(120);
/// The whole body of a request without a credential: a few hundred bytes, in one packet. Whoever
/// sends it drop by drop holds a place that somebody with a credential wants.
pub const STRANGER_BODY_TIME: Duration = Duration::from_secs(5);
/// An address, a password, the secret of an invitation; times all places, 16 MiB and not a gigabyte.
pub const STRANGER_BODY_BYTES_MAX: usize = 16 * 1024;
/// All headers of a request together.
pub const HEADERS_BYTES_MAX: usize = 32 * 1024;
pub const HEADERS_MAX: usize = 100;
/// Connections at once: each costs a few tens of KiB.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Of one address: who holds them open without reading does so to itself.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 256;
/// How long requests may finish once the server is asked to end.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Requests a second that one credential may make, for as long as it likes.
pub const CREDENTIAL_RATE: f64 = 50.0;
/// And at once, before the rate counts: a script that walks everything.
pub const CREDENTIAL_BURST: f64 = 1_000.0;
/// Requests without a valid credential from one address: a stranger who tries tokens.
pub const STRANGER_RATE: f64 = 5.0;
pub const STRANGER_BURST: f64 = 200.0;
/// Attempts to sign in as one user from one address: five, then one every 30 seconds.
pub const SIGN_IN_PAIR_RATE: f64 = 1.0 / 30.0;
pub const SIGN_IN_PAIR_BURST: f64 = 5.0;
/// From all addresses together: more, so that one stranger cannot keep the user out.
pub const SIGN_IN_EMAIL_RATE: f64 = 0.2;
pub const SIGN_IN_EMAIL_BURST: f64 = 30.0;
/// Attempts to sign in from one address: an office behind one address, not a botnet.
pub const SIGN_IN_ADDRESS_RATE: f64 = 0.5;
pub const SIGN_IN_ADDRESS_BURST: f64 = 30.0;
/// Keys that a limiter remembers; the fullest buckets are forgotten first, which costs nothing.
pub const LIMITER_KEYS_MAX: usize = 65_536;

/// Streams of logs and events that one credential may have open.
pub const STREAMS_PER_CREDENTIAL_MAX: usize = 20;
/// Bodies of sources that one credential may send at once; the CLI sends a few beside each other.
pub const HEAVY_PER_CREDENTIAL_MAX: usize = 8;
/// And all together: each may hold a manifest or a batch of chunks in memory.
pub const HEAVY_MAX: usize = 32;
/// Bytes of sources that an org may send: at first what its disk holds by default, then the same
/// again every day. What no deployment names is cleared away later, so this is what bounds it.
pub const UPLOAD_BURST: f64 = (20_u64 << 30) as f64;
pub const UPLOAD_RATE: f64 = UPLOAD_BURST / (24.0 * 3_600.0);
/// A comment on a quiet stream, so that nothing between us closes it.
pub const STREAM_KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a question that only the server that decides can answer is held while there is none: the
/// lease of one that died, and a second for the next one to take over.
pub const LEADER_WAIT: Duration = Duration::from_secs(4);
/// Before the same server is asked again, which refused or was not reached.
pub const LEADER_AGAIN: Duration = Duration::from_millis(100);
/// Until an answer of the server that decides begins; a page of logs is what takes longest.
pub const LEADER_ANSWER_TIME: Duration =
    Duration::from_secs(LOG_PAGE_TIME.as_secs() + LEADER_WAIT.as_secs());
/// After a server has begun to decide: nodes dial it anew within milliseconds, and those that have
/// not until then are away.
pub const NODES_BACK_TIME: Duration = Duration::from_secs(1);
/// Between looks whether they have.
pub const NODES_BACK_LOOK: Duration = Duration::from_millis(50);
/// How long a page of logs waits for nodes that do not answer.
pub const LOG_PAGE_TIME: Duration = Duration::from_secs(10);
/// Lines in one JSON page of a log.
pub const LOG_PAGE_LINES_MAX: u32 = 10_000;
pub const LOG_TAIL_DEFAULT: u32 = 1_000;
/// Bytes of the lines that are held while nodes tell theirs: what a page of usual lines has several
/// times over. Every node of a fleet may send a page of its own, and one may send without end.
pub const LOG_PAGE_BYTES_MAX: usize = 16 << 20;
/// What nodes cut lines at, in the most bytes that it has as text.
pub const LOG_LINE_BYTES_MAX: usize = 48 << 10;
/// A pattern that is looked for in lines.
pub const LOG_GREP_BYTES_MAX: usize = 256;

/// Length is what protects a password.
pub const PASSWORD_CHARS_MIN: usize = 12;
/// Longer ones only cost hashing.
pub const PASSWORD_BYTES_MAX: usize = 512;
/// Passwords hashed at once. Two cores: the other one serves.
pub const PASSWORDS_AT_ONCE: usize = 1;
/// Attempts that wait for it; with 50 ms each, a second.
pub const PASSWORDS_WAITING_MAX: usize = 20;
/// argon2id as OWASP recommends it: 19 MiB, two passes, one lane; about 30 ms.
pub const ARGON_MEMORY_KIB: u32 = 19 * 1024;
pub const ARGON_PASSES: u32 = 2;
pub const ARGON_LANES: u32 = 1;

/// A session: a working month.
pub const SESSION_DAYS: u64 = 30;
/// An invitation is a credential: it should be used or forgotten.
pub const INVITATION_DAYS: u64 = 7;
/// An `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// An answer that is kept for a repetition; deployments and tokens are far smaller.
pub const IDEMPOTENCY_ANSWER_BYTES_MAX: usize = 1 << 20;

/// Arguments of a run.
pub const RUN_ARGUMENTS_MAX: usize = 256;
/// All arguments together.
pub const RUN_COMMAND_BYTES_MAX: usize = 64 * 1024;
/// Of an app; a few brands with and without `www`.
pub const DOMAINS_PER_APP_MAX: usize = 50;
/// The value of a secret: a key file with its chain.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;
/// Apps that one change of a project's or an environment's config starts anew.
pub const RECONFIGURED_APPS_MAX: usize = 200;
