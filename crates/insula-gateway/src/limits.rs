//! What one visitor, or one app, can cost everybody else. Injected, so that tests can be quick.

use std::time::Duration;

/// Room for the largest cookies and tokens in use (nginx: 32 KiB in four buffers).
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Browsers send about twenty; more than a hundred is a mistake or an attack.
const HEADERS_MAX: usize = 100;
/// From the first byte of a head to its last: a phone on a bad line needs two, a slow-loris more.
const HEAD_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// As nginx and browsers have it: long enough for the next click.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Between two pieces of a request's body, and while a visitor takes nothing of an answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Instances are on a local network; one that does not answer a SYN and its repetition is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// From the last byte sent to an app to the first of its answer. As long as nginx waits; work
/// that takes longer belongs into a job.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two pieces of an answer: long, because event streams are silent by nature.
const ANSWER_IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Without a byte in either direction; what wants to live longer sends a ping.
const UPGRADE_IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// The gateway streams and needs no memory for it; the limit saves an app's disk from a loop.
const BODY_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// At about 20 KB each, 200 MB in the worst case; file descriptors may set less.
const CONNECTIONS_PER_THREAD_MAX: usize = 10_000;
/// What RFC 9113 advises as the least, and enough for any page.
const STREAMS_MAX: u32 = 100;
/// Enough that a burst need not connect anew; more would only occupy the app's own backlog.
const UPSTREAM_IDLE_MAX: usize = 64;
/// Shorter than what most servers wait on their side (Node 5 s, nginx 75 s, Go for ever).
const UPSTREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an endpoint that refused a connection is asked last.
const AVOID: Duration = Duration::from_secs(2);
/// A request may meet this many dead endpoints before its visitor is told.
const ATTEMPTS_MAX: u32 = 3;
/// An agent that begins again is away for less than half a second on a busy machine, and for one
/// more if it fell and systemd waits before it starts it. Who is away for longer is not waited for.
const HOLD: Duration = Duration::from_secs(2);
/// Requests that wait for a node at once: with heads as large as they may be, 32 MiB.
const HELD_PER_THREAD_MAX: usize = 1_024;
/// A quarter of them, so that one app's visitors do not take the places of all others'.
const HELD_PER_APP_MAX: usize = HELD_PER_THREAD_MAX / 4;
/// What an orderly end waits for requests: the time systemd gives by default is 90 s.
const DRAIN: Duration = Duration::from_secs(30);
/// Traffic is told this often, if there was any.
const TRAFFIC_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Limits {
    pub head_bytes_max: usize,
    pub headers_max: usize,
    pub head_read_timeout: Duration,
    pub idle_timeout: Duration,
    pub stall_timeout: Duration,
    pub connect_timeout: Duration,
    pub answer_timeout: Duration,
    pub answer_idle_timeout: Duration,
    pub upgrade_idle_timeout: Duration,
    pub body_bytes_max: u64,
    pub connections_per_thread_max: usize,
    pub streams_max: u32,
    pub upstream_idle_max: usize,
    pub upstream_idle_timeout: Duration,
    pub avoid: Duration,
    pub attempts_max: u32,
    pub hold: Duration,
    pub held_per_thread_max: usize,
    pub held_per_app_max: usize,
    pub drain: Duration,
    pub traffic_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: HEAD_BYTES_MAX,
            headers_max: HEADERS_MAX,
            head_read_timeout: HEAD_READ_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            stall_timeout: STALL_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            answer_timeout: ANSWER_TIMEOUT,
            answer_idle_timeout: ANSWER_IDLE_TIMEOUT,
            upgrade_idle_timeout: UPGRADE_IDLE_TIMEOUT,
            body_bytes_max: BODY_BYTES_MAX,
            connections_per_thread_max: CONNECTIONS_PER_THREAD_MAX,
            streams_max: STREAMS_MAX,
            upstream_idle_max: UPSTREAM_IDLE_MAX,
            upstream_idle_timeout: UPSTREAM_IDLE_TIMEOUT,
            avoid: AVOID,
            attempts_max: ATTEMPTS_MAX,
            hold: HOLD,
            held_per_thread_max: HELD_PER_THREAD_MAX,
            held_per_app_max: HELD_PER_APP_MAX,
            drain: DRAIN,
            traffic_interval: TRAFFIC_INTERVAL,
        }
    }
}
