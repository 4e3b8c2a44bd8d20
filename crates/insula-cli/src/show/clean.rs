//! Keeps what others wrote from driving the terminal it is shown on.
//!
//! Names, messages and log lines come from tenants and from their apps. Escape sequences in them
//! could hide text, rewrite what stands above, or make some terminals type. On a terminal nothing
//! of the kind is passed on, except, in log lines, colours. What is piped stays as it was written:
//! there it is data.

use std::borrow::Cow;

/// Shown for what is left out.
const REPLACED: char = '\u{fffd}';
/// Longer ones are not colours.
const SGR_CHARS_MAX: usize = 20;

/// Text for one line, without anything that moves a cursor or turns the direction of writing.
pub fn line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if is_harmful(c) { REPLACED } else { c }).collect())
}

/// A line of a log for a terminal. Colours stay if there are any to be seen, and end with the line.
pub fn log_line(text: &str, colours: bool) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut coloured = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(length) = sgr(rest) {
            if colours {
                out.push_str(&rest[..length]);
                coloured = true;
            }
            rest = &rest[length..];
            continue;
        }
        // Windows ends a line with it; a progress bar means to start again.
        if c != '\r' {
            out.push(if is_harmful(c) { REPLACED } else { c });
        }
        rest = &rest[c.len_utf8()..];
    }
    if coloured {
        out.push_str("\x1b[0m");
    }
    Cow::Owned(out)
}

fn is_harmful(c: char) -> bool {
    (c.is_control() && c != '\t')
        // They turn the direction in which text is read, or hide.
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
}

/// The length of a colour (`ESC [ digits and semicolons m`) at the beginning of `text`.
fn sgr(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("\x1b[")?;
    let end = inner.find(|c: char| !(c.is_ascii_digit() || c == ';'))?;
    (end <= SGR_CHARS_MAX && inner[end..].starts_with('m')).then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in ["", "hello", "\ttab", "ünï — 漢字 🏝"] {
            assert!(matches!(line(text), Cow::Borrowed(same) if same == text));
            assert!(matches!(log_line(text, true), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn what_drives_a_terminal_does_not_reach_it() {
        let attacks = [
            "\x1b[2J\x1b[H",
            "\x1b]0;title\x07",
            "\x1b]52;c;ZXZpbA==\x07",
            "\x1bP+q544e\x1b\\",
            "\u{9b}2J",
            "\x1b[6n",
            "a\x08\x08b",
            "shown\rhidden",
            "a\nb",
            "\u{202e}gpj.exe",
            "\x1b[1;1Hx",
            "\x1b[31",
            "\x7f",
        ];
        for attack in attacks {
            for shown in [line(attack), log_line(attack, true), log_line(attack, false)] {
                assert!(!shown.chars().any(is_harmful), "{attack:?} became {shown:?}");
            }
        }
    }

    #[test]
    fn colours_of_an_app_are_kept_where_they_can_be_seen_and_end_with_its_line() {
        let text = "\x1b[1;31mred\x1b[0m \x1b[2Jx";
        assert_eq!(log_line(text, true), "\x1b[1;31mred\x1b[0m \u{fffd}[2Jx\x1b[0m");
        assert_eq!(log_line(text, false), "red \u{fffd}[2Jx");
    }
}
