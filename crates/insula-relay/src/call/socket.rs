//! What a socket between relays is told.

use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// A machine that is gone without a word is noticed on a quiet stream after this and the probes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 3;
/// And on one with something to send, after this (the kernel's own answer is a quarter of an hour).
const UNACKNOWLEDGED_MS_MAX: u32 = 15_000;

/// A kernel that lacks one of these only notices later.
pub(crate) fn tune(tcp: &TcpStream) {
    let _ = tcp.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(tcp, true);
    let _ = sockopt::set_tcp_keepidle(tcp, KEEPALIVE_AFTER);
    let _ = sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_EVERY);
    let _ = sockopt::set_tcp_keepcnt(tcp, KEEPALIVE_PROBES);
    let _ = sockopt::set_tcp_user_timeout(tcp, UNACKNOWLEDGED_MS_MAX);
}
