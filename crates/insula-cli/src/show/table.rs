//! Tables: columns as wide as they need, the last one cut at the edge of the terminal.

use super::clean;
use super::paint::Paint;

const GAP: usize = 2;
/// A last column narrower than this says nothing; then lines may wrap.
const LAST_WIDTH_MIN: usize = 8;

#[derive(Debug, Clone)]
struct Cell {
    text: String,
    is_state: bool,
}

/// A table of text that is cleaned as it goes in.
#[derive(Debug, Clone)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Cells as text. One that begins with `=` … is text, too: see `row_with_state` for colours.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.push(cells, None);
    }

    /// The same, with the cell `state` in the colour of what it says.
    pub fn row_with_state<const N: usize>(&mut self, state: usize, cells: [String; N]) {
        self.push(cells, Some(state));
    }

    fn push<const N: usize>(&mut self, cells: [String; N], state: Option<usize>) {
        debug_assert_eq!(N, self.header.len());
        let cells = cells.into_iter().enumerate().map(|(at, text)| Cell {
            text: clean::line(&text).into_owned(),
            is_state: state == Some(at),
        });
        self.rows.push(cells.collect());
    }

    pub fn render(&self, paint: Paint, width: Option<usize>) -> String {
        let columns = self.header.len();
        let widths: Vec<usize> = (0..columns)
            .map(|at| {
                let cells = self.rows.iter().map(|row| chars(&row[at].text));
                cells.chain([chars(self.header[at])]).max().unwrap_or(0)
            })
            .collect();
        let before_last: usize = widths[..columns - 1].iter().map(|width| width + GAP).sum();
        let last_max = width
            .map(|width| width.saturating_sub(before_last))
            .filter(|left| *left >= LAST_WIDTH_MIN)
            .unwrap_or(usize::MAX);
        let mut out = String::new();
        let header: Vec<Cell> = self
            .header
            .iter()
            .map(|text| Cell { text: (*text).to_owned(), is_state: false })
            .collect();
        line(&mut out, &header, &widths, last_max, |cell, text| {
            debug_assert!(!cell.is_state);
            paint.dim(text)
        });
        for row in &self.rows {
            line(&mut out, row, &widths, last_max, |cell, text| {
                if cell.is_state { paint.state(text) } else { text.to_owned() }
            });
        }
        out
    }
}

fn line(
    out: &mut String,
    cells: &[Cell],
    widths: &[usize],
    last_max: usize,
    painted: impl Fn(&Cell, &str) -> String,
) {
    let last = cells.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
    for (at, cell) in cells.iter().enumerate().take(last + 1) {
        let max = if at + 1 == cells.len() { last_max } else { usize::MAX };
        let text = cut(&cell.text, max);
        out.push_str(&painted(cell, &text));
        if at < last {
            out.extend(std::iter::repeat_n(' ', widths[at].saturating_sub(chars(&text)) + GAP));
        }
    }
    out.push('\n');
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

fn cut(text: &str, max: usize) -> String {
    if chars(text) <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "STATE", "WHY"]);
        table.row_with_state(1, ["web".into(), "ready".into(), String::new()]);
        table.row_with_state(
            1,
            [
                "a-long-name".into(),
                "backing off".into(),
                "exited with 1\u{1b}[2J and so on and on".into(),
            ],
        );
        table
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        expect![[r#"
            NAME         STATE        WHY
            web          ready
            a-long-name  backing off  exited with 1�[2J and so on and on
        "#]]
        .assert_eq(&table().render(Paint::PLAIN, None));
    }

    #[test]
    fn the_last_one_ends_at_the_edge() {
        let narrow = table().render(Paint::PLAIN, Some(40));
        assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
        assert!(narrow.contains("exited with 1…"), "{narrow}");
        assert_eq!(table().render(Paint::PLAIN, Some(20)), table().render(Paint::PLAIN, None));
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let plain = table().render(Paint::PLAIN, None);
        let painted = table().render(Paint::new(true), None);
        assert!(painted.contains("\x1b[32mready\x1b[0m"));
        let stripped: String = painted
            .lines()
            .map(|line| format!("{}\n", super::super::clean::log_line(line, false)))
            .collect();
        assert_eq!(stripped, plain);
    }
}
