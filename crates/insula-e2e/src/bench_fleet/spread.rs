//! A median and what lies around it.

use std::time::Duration;

/// `median (least–most)`, in milliseconds.
pub fn millis(times: &[Duration]) -> String {
    of(times.iter().map(|time| time.as_secs_f64() * 1_000.0).collect(), "ms")
}

pub fn of(mut values: Vec<f64>, unit: &str) -> String {
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    let digits = if at(values.len() / 2) < 10.0 { 2 } else { 0 };
    format!(
        "{:.digits$} {unit} ({:.digits$}–{:.digits$})",
        at(values.len() / 2),
        at(0),
        at(values.len().saturating_sub(1)),
    )
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_both_ends_are_told() {
        let ms = |ms| Duration::from_millis(ms);
        assert_eq!(millis(&[ms(300), ms(20), ms(100)]), "100 ms (20–300)");
        assert_eq!(of(vec![1.0, 4.0], "µs"), "4.00 µs (1.00–4.00)");
    }
}
