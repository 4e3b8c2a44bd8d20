//! How answers look: tables, colours, units, and what is kept from a terminal.

pub mod clean;
pub mod paint;
pub mod table;
pub mod terminal;
pub mod units;

pub use table::Table;
pub use terminal::Terminal;

/// Names and values, one pair on a line. Values are painted and cleaned by who gives them.
pub fn pairs(pairs: &[(&str, String)], paint: paint::Paint) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        format!("{}  {value}\n", paint.dim(&format!("{name:width$}")))
    };
    pairs.iter().map(line).collect()
}
