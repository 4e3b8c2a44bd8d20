//! Every limit and default of the platform, with its unit and its reason.

use crate::units::{Bytes, MilliCpu, Millis};

/// What frameworks bind to when nobody says otherwise; each instance has a network of its own.
pub const PORT_DEFAULT: u16 = 8080;
/// Half a core starts an interpreter without a noticeable wait.
pub const CPU_DEFAULT: MilliCpu = MilliCpu(500);
/// A Python or Node service with a framework fits, with room.
pub const MEMORY_DEFAULT: Bytes = Bytes::mib(256);
/// Our file server needs a few MiB; the rest is page cache.
pub const STATIC_MEMORY_DEFAULT: Bytes = Bytes::mib(64);
/// Enough for a pre-forking server with threads; a fork bomb stops here.
pub const PIDS_DEFAULT: u32 = 100;
/// Caches and uploads in passing. It is memory, see decision 0004.
pub const DISK_DEFAULT: Bytes = Bytes::mib(128);
/// Slow starters exist; a minute is what people wait before they look.
pub const STARTUP_DEFAULT: Millis = Millis::secs(60);
/// Between readiness probes of an instance that is ready.
pub const HEALTH_INTERVAL_DEFAULT: Millis = Millis::secs(5);
/// A probe that takes longer than this is a failure.
pub const HEALTH_TIMEOUT_DEFAULT: Millis = Millis::secs(3);
/// Between readiness probes of an instance that is not ready yet.
pub const HEALTH_INTERVAL_STARTING: Millis = Millis(20);
/// Requests in flight when an instance leaves the routes.
pub const DRAIN_DEFAULT: Millis = Millis::secs(15);
/// What Docker and Kubernetes taught people to expect.
pub const GRACE_DEFAULT: Millis = Millis::secs(30);

/// A component beyond this is a mistake in a file, not a wish.
pub const INSTANCES_MAX: u32 = 250;
pub const CPU_MIN: MilliCpu = MilliCpu(10);
pub const CPU_MAX: MilliCpu = MilliCpu(256_000);
/// Below this an interpreter does not start.
pub const MEMORY_MIN: Bytes = Bytes::mib(8);
pub const MEMORY_MAX: Bytes = Bytes::gib(1024);
pub const PIDS_MIN: u32 = 4;
pub const PIDS_MAX: u32 = 32_768;
pub const DISK_MIN: Bytes = Bytes::mib(1);
pub const DISK_MAX: Bytes = Bytes::gib(64);
/// An app is something that one team can hold in its head.
pub const COMPONENTS_MAX: usize = 32;
pub const ROUTES_PER_COMPONENT_MAX: usize = 32;
/// One path of a route or a probe; longer ones are somebody's mistake.
pub const PATH_LEN_MAX: usize = 1_024;
/// A shell line beyond this belongs in a file.
pub const COMMAND_LEN_MAX: usize = 8_192;
pub const STARTUP_MAX: Millis = Millis::secs(3_600);
pub const GRACE_MAX: Millis = Millis::secs(600);
pub const DRAIN_MAX: Millis = Millis::secs(600);

/// The environment of a process must fit in `execve`, with room for ours.
pub const VARIABLES_MAX: usize = 512;
pub const VARIABLE_VALUE_LEN_MAX: usize = 64 * 1024;
/// All values of a release together; Linux allows 2 MiB, a quarter of the stack limit.
pub const VARIABLES_TOTAL_LEN_MAX: usize = 1024 * 1024;

/// A node with more instances than this is not one we have seen; a longer report is a broken agent.
pub const REPORT_INSTANCES_MAX: usize = 1_024;
/// The last lines of an app that a failed deployment shows.
pub const CAUSE_TAIL_LINES_MAX: usize = 20;
/// One such line.
pub const CAUSE_TAIL_LINE_LEN_MAX: usize = 1_000;

/// Law 5: an exit of a new instance before it was ready, for the second time, fails the deployment.
pub const EXITS_BEFORE_READY_MAX: u32 = 2;
/// A build that takes longer hangs more often than it works.
pub const BUILD_TIME_MAX: Millis = Millis::secs(15 * 60);
pub const BUILD_MEMORY: Bytes = Bytes::gib(2);
pub const BUILD_CPU: MilliCpu = MilliCpu(2_000);
pub const BUILD_PIDS: u32 = 1_024;
/// What a build may add to the source.
pub const BUILD_OUTPUT_MAX: Bytes = Bytes::gib(2);
/// A build that was interrupted by us (not failed by itself) is tried again this often.
pub const BUILD_ATTEMPTS_MAX: u32 = 3;

/// One file of a source.
pub const SOURCE_FILE_MAX: Bytes = Bytes::mib(512);
/// A source beyond this holds data, not code.
pub const SOURCE_TOTAL_MAX: Bytes = Bytes::gib(1);
pub const SOURCE_FILES_MAX: usize = 100_000;
pub const SOURCE_PATH_LEN_MAX: usize = 1_024;
pub const SOURCE_DEPTH_MAX: usize = 64;

/// Items on a page of a list when the caller does not say, and at most.
pub const PAGE_DEFAULT: usize = 50;
pub const PAGE_MAX: usize = 200;
/// How long an `Idempotency-Key` is remembered.
pub const IDEMPOTENCY_KEPT: Millis = Millis::secs(24 * 3_600);
/// Artifacts of this many releases stay, beside those of anything live.
pub const RELEASES_KEPT_DEFAULT: u32 = 20;

/// What is assumed of a node whose agent does not say: the kernel's own bound.
pub const NODE_PIDS_UNKNOWN: u32 = 4_194_304;
/// Likewise; a node that is short of disk says so itself.
pub const NODE_DISK_UNKNOWN: Bytes = Bytes::gib(1 << 20);
/// Labels are for people and for choosing; more than this is somebody's database.
pub const NODE_LABELS_MAX: usize = 64;
/// Between heartbeats, unless the operator says otherwise.
pub const HEARTBEAT: Millis = Millis::secs(1);
/// Heartbeats missed in a row after which a node counts as lost.
pub const HEARTBEATS_MISSED_MAX: u32 = 3;
/// How long an instance with `failover = "lease"` goes on after its node heard the server last.
/// Ten heartbeats: a server that is replaced by another is heard again long before.
pub const FAILOVER_LEASE: Millis = Millis::secs(10);
/// How long a join token works, unless the operator says otherwise.
pub const JOIN_TIME_DEFAULT: Millis = Millis::secs(3_600);
pub const JOIN_TIME_MAX: Millis = Millis::secs(7 * 24 * 3_600);
