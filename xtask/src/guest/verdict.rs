//! Decides from the console's text whether the proof holds. Pure.
//!
//! Each part of the proof prints one line when it is over. A part that says nothing has failed: the
//! guest may have died before it.

use anyhow::{Result, bail};

/// What stands before a part's name and its outcome, as in `PART service: ok`.
const MARK: &str = "PART ";

/// The parts, in order, and what each shows.
pub const PARTS: &[(&str, &str)] = &[
    ("root", "no service manager: our process stands in the top group itself"),
    ("service", "a unit of systemd, the whole test suite"),
    ("crowded", "a container whose top group holds processes: refused, with the fix"),
    ("container", "the same with its processes in a group below"),
    ("platform", "the unit of docs/operators.md: an app outlives restart and stop, in its limits"),
    ("leftovers", "afterwards there is no group, mount or process of ours"),
];

pub fn judge(console: &str) -> Result<()> {
    let mut failed = Vec::new();
    println!();
    for (part, shows) in PARTS {
        let outcome = outcome(console, part);
        println!("{part:<10} {:<8} {shows}", outcome.unwrap_or("missing"));
        if outcome != Some("ok") {
            failed.push(*part);
        }
    }
    for line in console.lines().filter(|line| line.contains("SKIPPED: ")) {
        println!("{}", line.trim());
    }
    if failed.is_empty() { Ok(()) } else { bail!("not proved: {}", failed.join(", ")) }
}

fn outcome<'a>(console: &'a str, part: &str) -> Option<&'a str> {
    let said =
        |line: &'a str| line.trim().strip_prefix(MARK)?.strip_prefix(part)?.strip_prefix(": ");
    console.lines().find_map(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ok_from_every_part_is_a_proof() {
        let all: String = PARTS.iter().map(|(part, _)| format!("PART {part}: ok\r\n")).collect();
        assert!(judge(&all).is_ok());
        let broken = judge(&all.replace("service: ok", "service: failed")).unwrap_err();
        assert_eq!(broken.to_string(), "not proved: service");
        let cut = all.split_once("PART container").map_or("", |(before, _)| before);
        let died = judge(cut).unwrap_err().to_string();
        assert_eq!(died, "not proved: container, platform, leftovers");
    }
}
