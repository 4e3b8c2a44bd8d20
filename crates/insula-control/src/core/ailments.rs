//! What is wrong with a node, from what it says and from what `clocks` finds.

use insula_model::limits;
use insula_model::node::{Ailment, AilmentKind};

use super::clocks::Said;

/// How far a node's clock may be from ours. Times in logs and histories are compared by people;
/// certificates are backdated by far more.
pub const CLOCK_SKEW_MAX_MS: u64 = 5_000;
/// More than this is not a list of ailments but a broken agent.
const AILMENTS_MAX: usize = 16;
/// One sentence.
const MESSAGE_LEN_MAX: usize = 300;

/// What of a node's list is kept: one ailment of a kind with a sentence of decent length, in a
/// determined order, so that a list in another order is the same list.
pub(super) fn sane(said: &[Ailment]) -> Vec<Ailment> {
    let mut kept: Vec<Ailment> = said
        .iter()
        .take(AILMENTS_MAX)
        .map(|ailment| Ailment { kind: ailment.kind, message: sentence(&ailment.message) })
        .collect();
    kept.sort_by(|a, b| (a.kind, &a.message).cmp(&(b.kind, &b.message)));
    kept.dedup();
    kept
}

fn sentence(said: &str) -> String {
    said.chars().filter(|c| !c.is_control()).take(MESSAGE_LEN_MAX).collect()
}

/// What it says, and what it does not know of itself: that its clock is wrong, or that others speak
/// in its name, who call from `contested`.
pub(super) fn all(said: &[Ailment], clock: Said, contested: Option<&String>) -> Vec<Ailment> {
    let mut all = said.to_vec();
    match clock {
        Said::Itself => {}
        Said::Nothing => all.retain(|ailment| ailment.kind != AilmentKind::Clock),
        Said::Away(_) if all.iter().any(|ailment| ailment.kind == AilmentKind::Clock) => {}
        Said::Away(ms) => {
            let way = if ms > 0 { "ahead of" } else { "behind" };
            let seconds = ms.unsigned_abs() / 1_000;
            let message = format!("its clock is {seconds} s {way} the server's");
            all.push(Ailment { kind: AilmentKind::Clock, message });
        }
    }
    if let Some(from) = contested {
        let message = format!("more than one machine speaks in its name, from {from}");
        all.push(Ailment { kind: AilmentKind::Host, message: sentence(&message) });
    }
    all.sort_by(|a, b| (a.kind, &a.message).cmp(&(b.kind, &b.message)));
    all
}

/// A report that names more than any node holds is not read any further.
pub(super) fn too_long(named: usize) -> Ailment {
    let max = limits::REPORT_INSTANCES_MAX;
    let message = format!(
        "it reports {named} instances or builds at once, and {max} are the most: its reports are not read"
    );
    Ailment { kind: AilmentKind::Host, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ailment(kind: AilmentKind, message: &str) -> Ailment {
        Ailment { kind, message: message.to_owned() }
    }

    #[test]
    fn of_its_clock_a_node_knows_best_unless_it_is_ours_that_is_wrong() {
        let ahead = all(&[], Said::Away(3_600_000), None);
        assert_eq!(
            ahead,
            [ailment(AilmentKind::Clock, "its clock is 3600 s ahead of the server's")]
        );
        let behind = all(&[], Said::Away(-5_001), None);
        assert_eq!(behind, [ailment(AilmentKind::Clock, "its clock is 5 s behind the server's")]);
        let known = [ailment(AilmentKind::Clock, "not in step with NTP")];
        assert_eq!(all(&known, Said::Away(9_000), None), known);
        assert_eq!(all(&known, Said::Itself, None), known);
        assert_eq!(all(&known, Said::Nothing, None), []);
        assert_eq!(all(&[], Said::Away(i64::MIN), None).len(), 1);
    }

    #[test]
    fn two_machines_with_one_name_are_told_of_with_where_they_are() {
        let from = "10.0.0.1, 10.0.0.2".to_owned();
        let said = all(&[], Said::Itself, Some(&from));
        let message = "more than one machine speaks in its name, from 10.0.0.1, 10.0.0.2";
        assert_eq!(said, [ailment(AilmentKind::Host, message)]);
    }

    #[test]
    fn order_repetition_and_endless_sentences_do_not_count() {
        let (disk, rules) =
            (ailment(AilmentKind::Disk, "full"), ailment(AilmentKind::Rules, "gone"));
        let said = [rules.clone(), disk.clone(), rules.clone()];
        assert_eq!(sane(&said), [disk, rules]);
        let long = sane(&[ailment(AilmentKind::Host, &"x\n".repeat(1_000))]);
        assert_eq!(long[0].message, "x".repeat(MESSAGE_LEN_MAX));
    }
}
