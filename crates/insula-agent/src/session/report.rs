//! Writes a report down so that its message is one that the server takes. Pure.
//!
//! What is wrong with an app is told in its own words, and they have no end; a server refuses a
//! message beyond its bound, and with it the session. A report that is too long leaves out words,
//! never an instance: of those who say more than their share, and of nobody else. Nothing is lost by
//! that: every report says everything anew, so what was cut is said by the next that has room, and
//! the log of the app has all of it. Whoever was cut says so in its warnings.

use std::io;

use insula_model::deployment::Cause;
use insula_model::observed::{
    BuildPhase, BuildReport, Exit, ExitNote, InstancePhase, InstanceReport, NodeReport,
};
use insula_wire::node::REPORT_SHARE_LEN;
use serde::Serialize;

const CUT: &str =
    "its node has more to say than a report may carry: what it said last is cut short";

/// How many words are left to one that says too much.
struct Bounds {
    tail_lines: usize,
    line_len: usize,
    sentence_len: usize,
    warnings: usize,
}

/// From what people still read with pleasure to what fits in any case: a byte is six in JSON at worst.
const LEVELS: [Bounds; 3] = [
    Bounds { tail_lines: 20, line_len: 300, sentence_len: 1_000, warnings: 4 },
    Bounds { tail_lines: 5, line_len: 160, sentence_len: 300, warnings: 1 },
    Bounds { tail_lines: 1, line_len: 160, sentence_len: 160, warnings: 0 },
];

#[derive(Debug)]
pub struct Written {
    pub document: String,
    /// Instances, builds and ailments that could not say all.
    pub cut: usize,
}

/// In `len_max` bytes, if it names no more than a node may hold.
pub fn write(mut report: NodeReport, len_max: usize) -> Result<Written, serde_json::Error> {
    if is_within(&report, len_max)? {
        return Ok(Written { document: serde_json::to_string(&report)?, cut: 0 });
    }
    let mut cut = 0;
    for instance in &mut report.instances {
        cut += usize::from(fit(instance, cut_instance)?);
    }
    for build in &mut report.builds {
        cut += usize::from(fit(build, cut_build)?);
    }
    let [_, .., least] = &LEVELS;
    for ailment in &mut report.ailments {
        cut += usize::from(cut_text(&mut ailment.message, least.sentence_len));
    }
    Ok(Written { document: serde_json::to_string(&report)?, cut })
}

/// Looks no further than that: what is too long may be longer than anybody wants to write down.
fn is_within<T: Serialize>(named: &T, len_max: usize) -> Result<bool, serde_json::Error> {
    match serde_json::to_writer(Room(len_max), named) {
        Err(error) if error.is_io() => Ok(false),
        written => written.map(|()| true),
    }
}

/// Takes so many bytes and keeps none.
struct Room(usize);

impl io::Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says whether it had to be cut.
fn fit<T: Serialize>(
    named: &mut T,
    cut: impl Fn(&mut T, &Bounds),
) -> Result<bool, serde_json::Error> {
    let mut levels = LEVELS.iter();
    let mut was_cut = false;
    while !is_within(named, REPORT_SHARE_LEN)? {
        let Some(bounds) = levels.next() else { break };
        cut(named, bounds);
        was_cut = true;
    }
    Ok(was_cut)
}

fn cut_instance(report: &mut InstanceReport, bounds: &Bounds) {
    match &mut report.phase {
        InstancePhase::Unready { reason } => {
            cut_text(reason, bounds.sentence_len);
        }
        InstancePhase::Stuck { cause } => cut_cause(cause, bounds),
        InstancePhase::Preparing
        | InstancePhase::Starting
        | InstancePhase::Ready
        | InstancePhase::BackingOff { .. }
        | InstancePhase::Stopping
        | InstancePhase::Finished => {}
    }
    if let Some(ExitNote { exit, at: _, tail }) = &mut report.last_exit {
        cut_exit(exit, bounds);
        cut_tail(tail, bounds);
    }
    report.warnings.retain(|warning| warning != CUT);
    report.warnings.truncate(bounds.warnings);
    for warning in &mut report.warnings {
        cut_text(warning, bounds.sentence_len);
    }
    report.warnings.push(CUT.to_owned());
}

fn cut_build(report: &mut BuildReport, bounds: &Bounds) {
    match &mut report.phase {
        BuildPhase::Running { step } => {
            cut_text(step, bounds.sentence_len);
        }
        BuildPhase::Failed { cause } => cut_cause(cause, bounds),
        BuildPhase::Waiting | BuildPhase::Done { .. } => {}
    }
}

fn cut_cause(cause: &mut Cause, bounds: &Bounds) {
    cut_text(&mut cause.message, bounds.sentence_len);
    if let Some(hint) = &mut cause.hint {
        cut_text(hint, bounds.sentence_len);
    }
    if let Some(exit) = &mut cause.exit {
        cut_exit(exit, bounds);
    }
    cut_tail(&mut cause.tail, bounds);
}

fn cut_exit(exit: &mut Exit, bounds: &Bounds) {
    match exit {
        Exit::NotStarted { reason } => {
            cut_text(reason, bounds.sentence_len);
        }
        Exit::Code { .. } | Exit::Signal { .. } | Exit::OutOfMemory | Exit::Lost => {}
    }
}

/// Of too many lines the last ones, which say what happened.
fn cut_tail(tail: &mut Vec<String>, bounds: &Bounds) {
    tail.drain(..tail.len().saturating_sub(bounds.tail_lines));
    for line in tail {
        cut_text(line, bounds.line_len);
    }
}

fn cut_text(text: &mut String, len_max: usize) -> bool {
    let long = text.len() > len_max;
    if long {
        let end = (0..=len_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    long
}

#[cfg(test)]
mod tests {
    use insula_model::deployment::CauseCode;
    use insula_model::limits::{
        CAUSE_TAIL_LINE_LEN_MAX, CAUSE_TAIL_LINES_MAX, REPORT_INSTANCES_MAX,
    };
    use insula_model::{BuildId, Generation, InstanceId, Timestamp};
    use insula_wire::node::{FROM_NODE_LEN_MAX, REPORT_LEN_MAX};

    use super::*;

    fn crashed(number: usize, tail: Vec<String>) -> InstanceReport {
        let cause = Cause { tail: tail.clone(), ..Cause::new(CauseCode::Exited, "it crashed") };
        InstanceReport {
            id: InstanceId::from_u128(number as u128),
            phase: InstancePhase::Stuck { cause },
            endpoint: None,
            restarts: 2,
            exits_before_ready: 2,
            last_exit: Some(ExitNote {
                exit: Exit::Code { code: 1 },
                at: Timestamp::from_millis(1),
                tail,
            }),
            started: None,
            ready_since: None,
            warnings: vec!["it listens elsewhere".into()],
        }
    }

    fn node(instances: Vec<InstanceReport>) -> NodeReport {
        let ailments = vec![];
        NodeReport { generation: Generation(7), instances, builds: vec![], ailments }
    }

    /// As much as the tail of a log gives, of the letter that takes the most room in JSON.
    fn worst() -> Vec<String> {
        vec!["\u{1}".repeat(CAUSE_TAIL_LINE_LEN_MAX); CAUSE_TAIL_LINES_MAX]
    }

    fn read(written: &Written) -> NodeReport {
        serde_json::from_str(&written.document).unwrap()
    }

    #[test]
    fn what_fits_is_said_as_it_is() {
        let report = node(vec![crashed(1, worst()), crashed(2, vec!["boom".into()])]);
        let written = write(report.clone(), REPORT_LEN_MAX).unwrap();
        assert_eq!((read(&written), written.cut), (report, 0));
    }

    #[test]
    fn the_largest_node_whose_apps_all_crash_with_long_words_is_still_heard() {
        // A sixteenth of it, in a sixteenth of the room.
        let (many, room) = (REPORT_INSTANCES_MAX / 16, REPORT_LEN_MAX / 16);
        let report = node((0..many).map(|number| crashed(number, worst())).collect());
        assert!(!is_within(&report, 8 * room).unwrap());
        let written = write(report, room).unwrap();
        assert_eq!(written.cut, many);
        let told = read(&written);
        assert_eq!(told.instances.len(), many, "nobody is left out");
        for instance in &told.instances {
            assert_eq!(instance.warnings.last().map(String::as_str), Some(CUT));
            assert!(!instance.last_exit.as_ref().unwrap().tail.is_empty());
        }
        // Commas, brackets and the frame have the rest.
        let rest = (FROM_NODE_LEN_MAX - REPORT_LEN_MAX) / 16;
        assert!(written.document.len() < room + rest, "{}", written.document.len());
    }

    #[test]
    fn who_says_little_is_not_cut_for_who_says_much_and_later_all_is_said() {
        let quiet = crashed(1, vec!["boom".into()]);
        let report = node(vec![quiet.clone(), crashed(2, worst())]);
        let room = serde_json::to_string(&report).unwrap().len();
        let written = write(report.clone(), room - 1).unwrap();
        assert_eq!(written.cut, 1);
        let told = read(&written);
        assert_eq!(told.instances[0], quiet);
        assert_eq!(told.instances[1].restarts, 2, "only words are cut");
        assert!(serde_json::to_string(&told.instances[1]).unwrap().len() <= REPORT_SHARE_LEN);
        // The next report begins from what is, not from what was said.
        assert_eq!(read(&write(report.clone(), room).unwrap()), report);
    }

    #[test]
    fn words_without_any_end_are_cut_within_a_letter_of_their_bound() {
        let endless = || "\u{20ac}\"".repeat(1 << 13);
        let cause = Cause {
            hint: Some(endless()),
            exit: Some(Exit::NotStarted { reason: endless() }),
            tail: vec![endless(); 100],
            ..Cause::new(CauseCode::BuildFailed, endless())
        };
        let mut report = node(vec![InstanceReport {
            phase: InstancePhase::Unready { reason: endless() },
            warnings: vec![endless(); 100],
            ..crashed(1, vec![endless(); 100])
        }]);
        let build = |number, phase| BuildReport { id: BuildId::from_u128(number), phase };
        report.builds = vec![
            build(1, BuildPhase::Failed { cause }),
            build(2, BuildPhase::Running { step: endless() }),
        ];
        let written = write(report, 3 * REPORT_SHARE_LEN).unwrap();
        assert_eq!(written.cut, 3);
        assert!(written.document.len() <= 3 * REPORT_SHARE_LEN);
    }
}
