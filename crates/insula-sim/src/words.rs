//! Events in words, for whoever reads what led to a violation.

use insula_control::core::ingest::Seen;
use insula_control::core::mutation::{Mutation, Outcome, What};
use insula_model::observed::Observed;

pub fn mutation(mutation: &Mutation, outcome: Outcome) -> String {
    let what = match &mutation.what {
        What::Greet { greeting, .. } => format!("{} greets", greeting.name),
        What::Saw { node, seen } => {
            let seen: Vec<String> = seen.iter().map(|sight| self::seen(&sight.seen)).collect();
            format!("{} reports {}", short(&node.to_string()), seen.join(", "))
        }
        What::Ail { node, ailments, .. } => {
            format!("{} ails: {}", short(&node.to_string()), ailments.len())
        }
        What::Act { steps } => {
            let steps: Vec<String> =
                steps.iter().map(|step| shortened(&step.action.to_string())).collect();
            steps.join("; ")
        }
    };
    match outcome {
        Outcome::Done => format!("commit: {what}"),
        Outcome::Overtaken => format!("overtaken: {what}"),
        Outcome::Failed => format!("failed: {what}"),
    }
}

fn seen(seen: &Seen) -> String {
    match seen {
        Seen::Instance { id, observed, .. } => {
            let said = match observed {
                Observed::Unknown => "unknown",
                Observed::Absent { .. } => "absent",
                Observed::Present { value, .. } => value.phase.as_str(),
            };
            format!("{} {said}", short(&id.to_string()))
        }
        Seen::Build { row, .. } | Seen::Turn { row, .. } => {
            format!("{} changed", short(&row.id.to_string()))
        }
    }
}

/// The end of an id tells it apart from others of the same moment.
pub fn short(id: &str) -> String {
    let (prefix, digits) = id.split_once('_').unwrap_or(("", id));
    let from = digits.len().saturating_sub(5);
    format!("{prefix}_{}", &digits[from..])
}

fn shortened(text: &str) -> String {
    let word = |word: &str| match word.split_once('_') {
        Some((_, digits)) if digits.len() >= 26 => {
            let (id, rest) = word.split_at(word.len() - (digits.len() - 26));
            format!("{}{rest}", short(id))
        }
        Some(_) | None => word.to_owned(),
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}
