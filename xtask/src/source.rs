//! Rust source with everything that is not code blanked out.
//!
//! Rules that look for a word must not trip over prose about it. This is not a parser: it knows
//! comments, strings and character literals, and that is all it needs to know.

/// The same text, line for line, with comments and literals replaced by spaces.
pub fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let after_word = at > 0 && is_word(chars[at - 1]);
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => end_of_line(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => end_of_block_comment(&chars, at),
            '"' => end_of_string(&chars, at),
            'r' if !after_word => end_of_raw_string(&chars, at + 1).unwrap_or(at),
            'b' | 'c' if !after_word && chars.get(at + 1) == Some(&'r') => {
                end_of_raw_string(&chars, at + 2).unwrap_or(at)
            }
            '\'' => end_of_char(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// The lines (from 1) in which the word stands by itself.
pub fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let has = |line: &str| {
        line.match_indices(word).any(|(start, _)| {
            let before = line[..start].chars().next_back();
            let after = line[start + word.len()..].chars().next();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
    };
    let lines = code.lines().enumerate();
    lines.filter(|(_, line)| has(line)).map(|(index, _)| index + 1).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn end_of_line(chars: &[char], from: usize) -> usize {
    (from..chars.len()).find(|&at| chars[at] == '\n').unwrap_or(chars.len())
}

fn end_of_block_comment(chars: &[char], from: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = from;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `None` when no raw string begins here, as in `r#type` or a variable called `r`.
fn end_of_raw_string(chars: &[char], from: usize) -> Option<usize> {
    let hashes = chars[from.min(chars.len())..].iter().take_while(|c| **c == '#').count();
    let open = from + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |at: usize| {
        chars[at] == '"' && chars[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes
    };
    let close = (open + 1..chars.len()).find(|&at| closes(at));
    Some(close.map_or(chars.len(), |at| at + 1 + hashes))
}

/// `None` for a lifetime.
fn end_of_char(chars: &[char], from: usize) -> Option<usize> {
    if chars.get(from + 1) == Some(&'\\') {
        let close = (from + 3..chars.len()).find(|&at| chars[at] == '\'');
        return close.map(|at| at + 1);
    }
    (chars.get(from + 2) == Some(&'\'')).then_some(from + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn words(source: &str, lines: &[usize]) {
        assert_eq!(lines_with(&code_only(source), "unsafe"), lines, "in: {source}");
    }

    #[test]
    fn a_word_in_code_is_found_with_its_line() {
        words("fn f() {\n    unsafe { g() }\n}", &[2]);
        words("#[unsafe(no_mangle)]\nfn f() {}", &[1]);
    }

    #[test]
    fn prose_is_not_code() {
        words("// unsafe\n/* unsafe /* unsafe */ unsafe */ fn f() {}", &[]);
        words("/// unsafe\n//! unsafe", &[]);
        words(r#"let a = "unsafe \" unsafe"; unsafe {}"#, &[1]);
        words("let a = r#\"unsafe \" unsafe\"#;\nunsafe {}", &[2]);
        words("let a = b\"unsafe\"; let b = br\"unsafe\\\"; let c = c\"unsafe\";", &[]);
    }

    #[test]
    fn literals_that_hold_quotes_do_not_swallow_what_follows() {
        words("let q = '\"'; unsafe {} let p = '\"';", &[1]);
        words("let q = '\\''; unsafe {}", &[1]);
        words("let q = '\\u{22}'; unsafe {}", &[1]);
        words("fn f<'a>(x: &'a str) { unsafe {} }", &[1]);
        words("let r = 1; let r#type = 2; unsafe {}", &[1]);
    }

    #[test]
    fn part_of_a_word_is_not_the_word() {
        words("unsafe_code(); not_unsafe(); unsafely();", &[]);
    }
}
