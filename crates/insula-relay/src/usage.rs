//! What the counters of a relay say, as its node or gateway tells a server.

use insula_kit::metrics::Gauge;
use insula_wire::node as wire;

use crate::{AnswerCounts, CallCounts};

/// `answers` of who is called as well.
pub fn usage(calls: &CallCounts, answers: Option<&AnswerCounts>) -> wire::RelayUsage {
    let calls = wire::RelayCalls {
        handshakes: calls.dialled.value(),
        reused: calls.reused.value(),
        failed: calls.dials_failed.value(),
        deaths: calls.deaths.value(),
    };
    let answers = answers.map(|it| wire::RelayAnswers {
        connections: now(&it.connections),
        streams: now(&it.streams),
        handshakes: it.handshakes.value(),
        opened: it.opened.value(),
        gone: it.gone.value(),
        denied: it.denied.value(),
        refused: it.refused.value(),
        turned_away: it.turned_away.value(),
        misbehaved: it.misbehaved.value(),
        cut: it.cut.value(),
        bytes_to_instances: it.bytes_to_instances.value(),
        bytes_from_instances: it.bytes_from_instances.value(),
    });
    wire::RelayUsage { calls: Some(calls), answers }
}

/// Never below nothing, whatever moment it was read in.
fn now(gauge: &Gauge) -> u64 {
    u64::try_from(gauge.value()).unwrap_or(0)
}
