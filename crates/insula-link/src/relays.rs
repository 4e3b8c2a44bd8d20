//! What the relays of connected nodes and gateways carry, as this server's metrics tell it.
//!
//! A report says totals, so one that was lost changes nothing. Who leaves is told of no more.

use insula_kit::metrics::Metrics;
use insula_model::fleet::Member;
use insula_wire::node as wire;

use crate::hub::Hub;

const HANDSHAKES: &str = "insula_relay_handshakes_total";
const OPENS: &str = "insula_relay_opens_total";
const ENDED: &str = "insula_relay_ended_total";
const BYTES: &str = "insula_relay_bytes_total";

/// One number of a report.
struct Figure {
    name: &'static str,
    help: &'static str,
    /// Beside whose it is.
    label: Option<(&'static str, &'static str)>,
    /// Whether it is of now, and not a total.
    now: bool,
    value: u64,
}

impl Figure {
    fn total(
        name: &'static str,
        label: Option<(&'static str, &'static str)>,
        value: u64,
        help: &'static str,
    ) -> Self {
        Self { name, help, label, now: false, value }
    }

    fn now(name: &'static str, value: u64, help: &'static str) -> Self {
        Self { name, help, label: None, now: true, value }
    }

    fn show(&self, metrics: &Metrics, member: &str) {
        let labels = self.labels(member);
        if self.now {
            let value = i64::try_from(self.value).unwrap_or(i64::MAX);
            return metrics.gauge(self.name, self.help, &labels).set(value);
        }
        let mut shown = metrics.counter(self.name, self.help, &labels);
        if self.value < shown.value() {
            // Its process is another.
            metrics.forget(self.name, &labels);
            shown = metrics.counter(self.name, self.help, &labels);
        }
        shown.add(self.value.saturating_sub(shown.value()));
    }

    fn labels<'a>(&self, member: &'a str) -> Vec<(&'static str, &'a str)> {
        [("member", member)].into_iter().chain(self.label).collect()
    }
}

fn figures(usage: &wire::RelayUsage) -> Vec<Figure> {
    let mut all = Vec::new();
    if let Some(calls) = &usage.calls {
        let help = "Handshakes of a relay, by who began them.";
        all.extend([
            Figure::total(HANDSHAKES, Some(("with", "called")), calls.handshakes, help),
            Figure::total(
                "insula_relay_reused_total",
                None,
                calls.reused,
                "Streams that were opened on a connection that was there.",
            ),
            Figure::total(
                "insula_relay_dials_failed_total",
                None,
                calls.failed,
                "Connections to relays that could not be made.",
            ),
            Figure::total(
                "insula_relay_deaths_total",
                None,
                calls.deaths,
                "Times that a relay stopped answering.",
            ),
        ]);
    }
    if let Some(answers) = &usage.answers {
        let help = "Handshakes of a relay, by who began them.";
        all.push(Figure::total(HANDSHAKES, Some(("with", "caller")), answers.handshakes, help));
        let help = "Connections of members to a relay.";
        all.push(Figure::now("insula_relay_connections", answers.connections, help));
        let help = "Streams open through a relay.";
        all.push(Figure::now("insula_relay_streams", answers.streams, help));
        let help = "Openings of streams through a relay, by answer.";
        all.extend(
            [
                ("ok", answers.opened),
                ("gone", answers.gone),
                ("denied", answers.denied),
                ("refused", answers.refused),
            ]
            .map(|(answer, value)| Figure::total(OPENS, Some(("answer", answer)), value, help)),
        );
        let help = "Connections and streams that a relay ended, by reason.";
        all.extend(
            [
                ("turned_away", answers.turned_away),
                ("misbehaved", answers.misbehaved),
                ("cut", answers.cut),
            ]
            .map(|(why, value)| Figure::total(ENDED, Some(("why", why)), value, help)),
        );
        let help = "Bytes carried by a relay, by direction.";
        all.extend(
            [("instance", answers.bytes_to_instances), ("member", answers.bytes_from_instances)]
                .map(|(to, value)| Figure::total(BYTES, Some(("to", to)), value, help)),
        );
    }
    all
}

impl Hub {
    /// Where relays are told of. Without it nobody asks.
    pub fn show_relays(&self, metrics: Metrics) {
        // The first one counts; nobody says it twice.
        let _ = self.shared.usage.relays.set(metrics);
    }

    pub(crate) fn note_relay(&self, member: Member, usage: Option<&wire::RelayUsage>) {
        let (Some(metrics), Some(usage)) = (self.shared.usage.relays.get(), usage) else { return };
        let id = member.to_string();
        figures(usage).iter().for_each(|figure| figure.show(metrics, &id));
    }

    pub(crate) fn forget_relay(&self, member: Member) {
        let Some(metrics) = self.shared.usage.relays.get() else { return };
        let (id, all) = (
            member.to_string(),
            wire::RelayUsage {
                calls: Some(wire::RelayCalls::default()),
                answers: Some(wire::RelayAnswers::default()),
            },
        );
        for figure in figures(&all) {
            metrics.forget(figure.name, &figure.labels(&id));
        }
    }
}

#[cfg(test)]
mod tests {
    use insula_model::{GatewayId, NodeId};

    use super::*;

    const NODE: Member = Member::Node(NodeId::from_u128(1));

    fn usage(handshakes: u64, reused: u64, connections: u64) -> wire::RelayUsage {
        let calls = wire::RelayCalls { handshakes, reused, ..Default::default() };
        let answers = wire::RelayAnswers { connections, denied: 3, ..Default::default() };
        wire::RelayUsage { calls: Some(calls), answers: Some(answers) }
    }

    fn line(metrics: &Metrics, starts: &str) -> Option<String> {
        let text = metrics.render();
        let found = text.lines().find(|line| line.starts_with(starts));
        found.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    }

    #[test]
    fn an_operator_sees_that_the_steady_state_has_no_handshakes() {
        let (hub, _inbound) = Hub::new();
        let metrics = Metrics::new();
        hub.note_relay(NODE, Some(&usage(1, 1, 1)));
        hub.show_relays(metrics.clone());
        for reused in [40, 900, 900, 70_000] {
            hub.note_relay(NODE, Some(&usage(2, reused, 5)));
        }
        let of =
            |name: &str, more: &str| line(&metrics, &format!("{name}{{member=\"{NODE}\"{more}}}"));
        assert_eq!(of(HANDSHAKES, ",with=\"called\"").as_deref(), Some("2"));
        assert_eq!(of("insula_relay_reused_total", "").as_deref(), Some("70000"));
        assert_eq!(of("insula_relay_connections", "").as_deref(), Some("5"));
        assert_eq!(of(OPENS, ",answer=\"denied\"").as_deref(), Some("3"));
        // Its agent was replaced and counts anew.
        hub.note_relay(NODE, Some(&usage(1, 7, 0)));
        assert_eq!(of("insula_relay_reused_total", "").as_deref(), Some("7"));
        assert_eq!(of("insula_relay_connections", "").as_deref(), Some("0"));
    }

    #[test]
    fn who_has_left_is_told_of_no_more_and_others_are() {
        let (hub, _inbound) = Hub::new();
        let metrics = Metrics::new();
        hub.show_relays(metrics.clone());
        let gateway = Member::Gateway(GatewayId::from_u128(2));
        let calls = wire::RelayUsage { answers: None, ..usage(1, 1, 1) };
        hub.note_relay(NODE, Some(&usage(1, 1, 1)));
        hub.note_relay(gateway, Some(&calls));
        hub.forget_relay(NODE);
        let text = metrics.render();
        assert!(!text.contains(&NODE.to_string()), "{text}");
        assert!(text.contains(&format!("insula_relay_reused_total{{member=\"{gateway}\"}} 1")));
        assert!(!text.contains("insula_relay_streams{"), "nobody calls a gateway: {text}");
    }
}
