//! Cuts what a node says in words to what people read. It is kept, goes into histories and to every
//! server's view; without a bound one node could fill all of them with one sentence.

use insula_model::deployment::Cause;
use insula_model::limits::{CAUSE_TAIL_LINE_LEN_MAX, CAUSE_TAIL_LINES_MAX};
use insula_model::observed::{BuildPhase, Exit, InstancePhase, InstanceReport, NodeReport};

/// A sentence of an agent names a file, a rule, an error of the system or two.
const SENTENCE_LEN_MAX: usize = 2_000;
/// One for each thing about an app that is odd and works all the same.
const WARNINGS_MAX: usize = 20;

pub(super) fn cut(report: &mut NodeReport) {
    report.instances.iter_mut().for_each(cut_instance);
    for build in &mut report.builds {
        match &mut build.phase {
            BuildPhase::Running { step } => cut_text(step, SENTENCE_LEN_MAX),
            BuildPhase::Failed { cause } => cut_cause(cause),
            BuildPhase::Waiting | BuildPhase::Done { .. } => {}
        }
    }
}

fn cut_instance(report: &mut InstanceReport) {
    match &mut report.phase {
        InstancePhase::Unready { reason } => cut_text(reason, SENTENCE_LEN_MAX),
        InstancePhase::Stuck { cause } => cut_cause(cause),
        InstancePhase::Preparing
        | InstancePhase::Starting
        | InstancePhase::Ready
        | InstancePhase::BackingOff { .. }
        | InstancePhase::Stopping
        | InstancePhase::Finished => {}
    }
    if let Some(note) = &mut report.last_exit {
        cut_exit(&mut note.exit);
        cut_tail(&mut note.tail);
    }
    report.warnings.truncate(WARNINGS_MAX);
    report.warnings.iter_mut().for_each(|warning| cut_text(warning, SENTENCE_LEN_MAX));
}

fn cut_cause(cause: &mut Cause) {
    cut_text(&mut cause.message, SENTENCE_LEN_MAX);
    if let Some(hint) = &mut cause.hint {
        cut_text(hint, SENTENCE_LEN_MAX);
    }
    if let Some(exit) = &mut cause.exit {
        cut_exit(exit);
    }
    cut_tail(&mut cause.tail);
}

fn cut_exit(exit: &mut Exit) {
    match exit {
        Exit::NotStarted { reason } => cut_text(reason, SENTENCE_LEN_MAX),
        Exit::Code { .. } | Exit::Signal { .. } | Exit::OutOfMemory | Exit::Lost => {}
    }
}

/// Of too many lines the last ones, which say what happened.
fn cut_tail(tail: &mut Vec<String>) {
    tail.drain(..tail.len().saturating_sub(CAUSE_TAIL_LINES_MAX));
    tail.iter_mut().for_each(|line| cut_text(line, CAUSE_TAIL_LINE_LEN_MAX));
}

fn cut_text(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use insula_model::Timestamp;
    use insula_model::deployment::CauseCode;
    use insula_model::observed::{BuildReport, ExitNote};
    use insula_model::{BuildId, Generation, InstanceId};

    use super::*;

    /// Longer than anything, and with a letter of three bytes at each place where it may be cut.
    fn endless() -> String {
        "€".repeat(1 << 20)
    }

    fn endless_cause() -> Cause {
        Cause {
            hint: Some(endless()),
            exit: Some(Exit::NotStarted { reason: endless() }),
            tail: vec![endless(); 100],
            ..Cause::new(CauseCode::Exited, endless())
        }
    }

    #[test]
    fn however_much_a_node_says_of_an_instance_little_is_kept() {
        let instance = |phase| InstanceReport {
            id: InstanceId::from_u128(1),
            phase,
            endpoint: None,
            restarts: 0,
            exits_before_ready: 0,
            last_exit: Some(ExitNote {
                exit: Exit::NotStarted { reason: endless() },
                at: Timestamp::from_millis(1),
                tail: vec![endless(); 100],
            }),
            started: None,
            ready_since: None,
            warnings: vec![endless(); 100],
        };
        let build = |phase| BuildReport { id: BuildId::from_u128(1), phase };
        let mut report = NodeReport {
            generation: Generation(1),
            instances: vec![
                instance(InstancePhase::Unready { reason: endless() }),
                instance(InstancePhase::Stuck { cause: endless_cause() }),
            ],
            builds: vec![
                build(BuildPhase::Running { step: endless() }),
                build(BuildPhase::Failed { cause: endless_cause() }),
            ],
            ailments: vec![],
        };
        cut(&mut report);
        let kept = serde_json::to_string(&report).unwrap();
        assert!(kept.len() < 250_000, "{}", kept.len());
        let again = report.clone();
        cut(&mut report);
        assert_eq!(report, again, "what is said again is the same");
    }

    #[test]
    fn what_honest_agents_say_is_left_as_it_is() {
        let mut cause = Cause::new(CauseCode::Exited, "it ended");
        cause.tail = (0..CAUSE_TAIL_LINES_MAX).map(|n| format!("line {n}")).collect();
        let before = cause.clone();
        cut_cause(&mut cause);
        assert_eq!(cause, before);
        cause.tail.insert(0, "an older line".into());
        cut_cause(&mut cause);
        assert_eq!(cause, before);
    }
}
