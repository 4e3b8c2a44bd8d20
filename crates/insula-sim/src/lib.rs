//! A whole fleet in one thread, from one number: the real decisions (`insula_control::core` and
//! `insula_plan`), everything else simulated.
//!
//! Store, servers, nodes, gateways, the network between them, the clocks and the people all follow
//! from a 64-bit seed; the same seed does the same, step for step. What has to hold stands in
//! `property`, in sentences. Planted bugs (`bugs`) show that a mistake in the real code is found.
//! Not here: sockets, SQL, sandboxes; those have tests of their own.

pub mod behaviour;
pub mod bugs;
pub mod chance;
pub mod fault;
mod fleet;
pub mod gateway;
pub mod link;
pub mod machine;
mod operator;
pub mod property;
mod round;
mod server;
pub mod setup;
pub mod sim;
pub mod store;
pub mod trace;
mod words;

use machine::Habit;
use property::Violation;
use setup::Setup;
use sim::{Counts, Sim};
use trace::Trace;

/// What became of a seed.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    /// Simulated, in milliseconds.
    pub lasted: u64,
    pub counts: Counts,
    /// Two runs with the same went the same way.
    pub digest: u64,
    pub violation: Option<Violation>,
    /// The last events, in words, if something was violated.
    pub last: Vec<String>,
}

/// Runs a seed to its end. One that breaks something is run once more, with words.
pub fn run(seed: u64) -> Outcome {
    run_with(seed, Habit::Sound)
}

/// The same among nodes that do not keep their promises.
pub fn run_with(seed: u64, habit: Habit) -> Outcome {
    let outcome = run_once(seed, habit, Trace::new(false, false));
    match outcome.violation {
        Some(_) => run_once(seed, habit, Trace::new(true, false)),
        None => outcome,
    }
}

/// A seed, saying every event as it happens.
pub fn run_aloud(seed: u64) -> Outcome {
    run_once(seed, Habit::Sound, Trace::new(true, true))
}

fn run_once(seed: u64, habit: Habit, trace: Trace) -> Outcome {
    let mut sim = Sim::new(seed, Setup { habit, ..Setup::of(seed) }, trace);
    sim.run();
    Outcome {
        seed,
        lasted: sim.now,
        digest: sim.trace.digest(),
        violation: sim.violation.take(),
        last: sim.trace.lines().map(str::to_owned).collect(),
        counts: sim.counts,
    }
}
