//! The simulation itself: seeds that were chosen, seeds that nobody chose, and proof that it sees.

use std::collections::BTreeSet;
use std::path::Path;

use insula_sim::bugs::BUGS;
use insula_sim::fault::Kind;
use insula_sim::machine::Habit;
use insula_sim::property::Property;
use insula_sim::{Outcome, run, run_with};

/// Run each time: seeds that found something once, and enough others that everything occurs.
const CHOSEN: [u64; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 33, 243, 472, 1104, 20, 77, 1_234, 352_313_697];
/// Seeds that nobody has seen before.
const FRESH: u64 = 12;
/// Within so many seeds a node that breaks its promises is found.
const BUDGET: u64 = 200;

fn told(outcome: &Outcome) -> String {
    let Some(violation) = &outcome.violation else { return String::new() };
    format!(
        "seed {} breaks `{}`: {}\n  {}\n  at {} ms: {}\n{}\n  again: cargo run --release -p insula-sim -- --seed {}",
        outcome.seed,
        violation.property.as_str(),
        violation.property.sentence(),
        violation.step,
        violation.at,
        violation.detail,
        outcome.last.join("\n"),
        outcome.seed,
    )
}

#[test]
fn the_chosen_seeds_hold_and_see_every_fault_and_every_property() {
    let (mut faults, mut checked) = (BTreeSet::new(), BTreeSet::new());
    for seed in CHOSEN {
        let outcome = run(seed);
        assert!(outcome.violation.is_none(), "{}", told(&outcome));
        faults.extend(outcome.counts.faults.keys().copied());
        checked.extend(outcome.counts.checks.keys().copied());
    }
    let missing = Kind::ALL.into_iter().filter(|kind| !faults.contains(kind.as_str()));
    assert_eq!(missing.collect::<Vec<_>>(), [], "these never happened");
    let missing = Property::ALL.into_iter().filter(|property| !checked.contains(property));
    assert_eq!(missing.collect::<Vec<_>>(), [], "these were never looked at");
}

#[test]
fn fresh_seeds_hold() {
    let first = match std::env::var("INSULA_SIM_SEED") {
        Ok(seed) => seed.parse().expect("INSULA_SIM_SEED is a number"),
        Err(_) => {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            u64::from(since.expect("the clock is after 1970").subsec_nanos())
        }
    };
    println!("seeds {first} to {}; again: INSULA_SIM_SEED={first}", first + FRESH - 1);
    for seed in first..first + FRESH {
        let outcome = run(seed);
        assert!(outcome.violation.is_none(), "{}", told(&outcome));
    }
}

#[test]
fn a_seed_is_a_run() {
    let (one, again, other) = (run(7), run(7), run(8));
    assert_eq!((one.digest, one.lasted), (again.digest, again.lasted));
    assert_eq!(one.counts.steps, again.counts.steps);
    assert_ne!(one.digest, other.digest);
}

/// What finds it first, and with which seed.
fn found(habit: Habit) -> Outcome {
    let mut broken = (1..=BUDGET).map(|seed| run_with(seed, habit));
    broken
        .find(|outcome| outcome.violation.is_some())
        .unwrap_or_else(|| panic!("nobody noticed {habit:?}"))
}

#[test]
fn a_node_that_breaks_its_promises_is_found_and_told_with_its_seed() {
    for (habit, property) in
        [(Habit::IgnoresLeases, Property::Single), (Habit::Panics, Property::Innocent)]
    {
        let outcome = found(habit);
        let violation = outcome.violation.as_ref().expect("found");
        assert_eq!(violation.property, property, "{habit:?}: {}", told(&outcome));
        println!("{habit:?} is found by seed {}", outcome.seed);
        let words = told(&outcome);
        assert!(words.contains(&format!("--seed {}", outcome.seed)), "{words}");
        assert!(!outcome.last.is_empty(), "no events are told");
        // Nothing else of that seed is wrong.
        assert!(run(outcome.seed).violation.is_none());
    }
}

#[test]
fn every_bug_can_still_be_planted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut names = BTreeSet::new();
    for bug in BUGS {
        assert!(names.insert(bug.name), "`{}` twice", bug.name);
        assert_ne!(bug.text, bug.planted, "`{}` changes nothing", bug.name);
        let known = Property::ALL.iter().any(|property| property.as_str() == bug.property);
        assert!(known, "`{}` breaks `{}`, which is no property", bug.name, bug.property);
        let source = std::fs::read_to_string(root.join(bug.file)).expect(bug.file);
        let times = source.matches(bug.text).count();
        assert_eq!(times, 1, "`{}`: its text stands {times} times in {}", bug.name, bug.file);
    }
    assert!(names.len() >= 20, "{} bugs", names.len());
}
