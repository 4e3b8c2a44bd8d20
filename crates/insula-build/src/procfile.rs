//! Reads a `Procfile`: `type: command`, one to a line. Pure.
//!
//! What the types mean is not decided here (see `detect::procfile`).

use insula_model::limits::{COMMAND_LEN_MAX, COMPONENTS_MAX};
use insula_model::names::excerpt;

use crate::problem::{Problem, Problems};

pub const PROCFILE: &str = "Procfile";
/// A DNS label.
const TYPE_LEN_MAX: usize = 63;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub kind: String,
    pub command: String,
    pub line: usize,
}

/// The processes in the order of the file. One wrong line makes the whole file invalid: it may be
/// what a merge has left behind.
pub fn parse(text: &str) -> Result<Vec<Process>, Problems> {
    let mut processes: Vec<Process> = Vec::new();
    let mut problems = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        match parse_line(raw) {
            Ok(None) => {}
            Ok(Some((kind, command))) => {
                if let Some(first) = processes.iter().find(|p| p.kind == kind) {
                    let message = format!("`{kind}` stands here and in line {}", first.line);
                    problems.push(at(line, message).fix("keep one of them"));
                } else if processes.len() == COMPONENTS_MAX {
                    let message = format!("more than {COMPONENTS_MAX} process types");
                    problems.push(at(line, message).fix("make two apps of it"));
                    break;
                } else {
                    processes.push(Process { kind: kind.into(), command: command.into(), line });
                }
            }
            Err(problem) => problems.push(problem.at_line(Some(line))),
        }
    }
    Problems::check(problems)?;
    Ok(processes)
}

fn at(line: usize, message: String) -> Problem {
    Problem::new(message).in_file(PROCFILE).at_line(Some(line))
}

fn parse_line(raw: &str) -> Result<Option<(&str, &str)>, Problem> {
    let line = raw.trim();
    if line.is_empty() || line.starts_with('#') || line.starts_with("//") {
        return Ok(None);
    }
    let refuse = |message: String, fix: &str| Err(Problem::new(message).in_file(PROCFILE).fix(fix));
    if ["<<<<<<<", "=======", ">>>>>>>", "|||||||"].iter().any(|mark| line.starts_with(mark)) {
        return refuse(
            format!("`{}` was left behind by a merge", excerpt(line)),
            "resolve the conflict",
        );
    }
    let is_type = |kind: &str| {
        (1..=TYPE_LEN_MAX).contains(&kind.len())
            && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    let Some((kind, command)) = line.split_once(':').filter(|(kind, _)| is_type(kind)) else {
        return refuse(
            format!("`{}` is not `type: command`", excerpt(line)),
            "begin the line with a type of letters, digits, - and _, and a colon, as in `web: ./serve`",
        );
    };
    let command = without_comment(command).trim();
    if command.is_empty() {
        return refuse(format!("`{kind}` has no command"), "write it after the colon");
    }
    if command.len() > COMMAND_LEN_MAX {
        return refuse(
            format!("the command of `{kind}` is longer than {COMMAND_LEN_MAX} bytes"),
            "put it into a file of its own",
        );
    }
    if command.contains('\0') {
        return refuse(format!("the command of `{kind}` holds a NUL"), "leave it out");
    }
    Ok(Some((kind, command)))
}

/// A comment at the end of a line begins after white space, and outside of quotes: `echo "# 1"`
/// prints what it says, as does `curl http://host`.
fn without_comment(command: &str) -> &str {
    let bytes = command.as_bytes();
    let mut quote = None;
    let mut escaped = false;
    for (n, &byte) in bytes.iter().enumerate() {
        if escaped {
            escaped = false;
        } else if byte == b'\\' && quote != Some(b'\'') {
            escaped = true;
        } else if let Some(open) = quote {
            if byte == open {
                quote = None;
            }
        } else if byte == b'\'' || byte == b'"' {
            quote = Some(byte);
        } else {
            let begins = byte == b'#' || bytes[n..].starts_with(b"// ") || &bytes[n..] == b"//";
            if begins && n > 0 && bytes[n - 1].is_ascii_whitespace() {
                return &command[..n];
            }
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().map(|p| (p.kind, p.command)).collect()
    }

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn lines_are_read_with_their_comments_and_quotes() {
        let text = "# shop\n\nweb: gunicorn shop.wsgi --bind 0.0.0.0:$PORT  # not this\r\n\
                    // nor this\ncustom: echo -n\nRun_2-x: echo \"# 1\" 'a # b' http://a //b\n";
        assert_eq!(
            read(text),
            [
                ("web".into(), "gunicorn shop.wsgi --bind 0.0.0.0:$PORT".into()),
                ("custom".into(), "echo -n".into()),
                ("Run_2-x".into(), "echo \"# 1\" 'a # b' http://a //b".into()),
            ]
        );
    }

    #[test]
    fn every_wrong_line_is_named() {
        expect_test::expect![[r#"
            Procfile:1: `<<<<<<< HEAD` was left behind by a merge
              fix: resolve the conflict
            Procfile:3: `=======` was left behind by a merge
              fix: resolve the conflict
            Procfile:4: `web` stands here and in line 2
              fix: keep one of them
            Procfile:5: `>>>>>>> other` was left behind by a merge
              fix: resolve the conflict
            Procfile:6: `web worker` is not `type: command`
              fix: begin the line with a type of letters, digits, - and _, and a colon, as in `web: ./serve`
            Procfile:7: `empty` has no command
              fix: write it after the colon"#]]
        .assert_eq(&refused(
            "<<<<<<< HEAD\nweb: a\n=======\nweb: b\n>>>>>>> other\nweb worker\nempty: # nothing\n",
        ));
    }

    #[test]
    fn what_is_beyond_the_limits_is_refused() {
        assert!(refused(&format!("{}: a", "x".repeat(64))).contains("is not `type: command`"));
        assert!(refused(&format!("web: {}", "x".repeat(9000))).contains("longer than 8192"));
        let many: String = (0..40).map(|n| format!("t{n}: a\n")).collect();
        assert!(refused(&many).contains("more than 32"));
        assert!(refused("web: a\0b").contains("NUL"));
    }
}
