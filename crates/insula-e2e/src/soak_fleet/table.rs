//! What a long story prints.

use std::time::{Duration, Instant};

use super::visitors::Met;

/// What visitors met, seen from that moment.
pub fn visits(met: &[Met], since: Instant) {
    println!(
        "{:<14} {:<8} {:>9} {:>7} {:>9}  failures",
        "app", "gateway", "answered", "failed", "worst"
    );
    for met in met {
        let worst = format!("{} ms", met.worst.as_millis());
        let (app, gateway, excuse) = (&met.app, &met.gateway, met.excuse(since));
        println!("{app:<14} {gateway:<8} {:>9} {:>7} {worst:>9}  {excuse}", met.good, met.failed);
    }
}

pub fn row(what: &str, figure: &str) {
    println!("{what:<40} {figure}");
}

pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f32())
}
