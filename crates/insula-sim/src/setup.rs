//! What a seed plays with: how many of everything, which faults, and how often. Not every seed has
//! everything: a fleet in which all goes wrong at once hides what one fault alone would show.

use std::collections::BTreeSet;

use crate::chance::Chance;
use crate::fault::Kind;
use crate::machine::Habit;

#[derive(Debug, Clone)]
pub struct Setup {
    pub servers: usize,
    pub nodes: usize,
    pub gateways: usize,
    pub apps: usize,
    pub faults: BTreeSet<Kind>,
    /// Between faults, on average.
    pub fault_every: u64,
    /// Between what people do, on average.
    pub operation_every: u64,
    /// There is not room for everything.
    pub tight: bool,
    /// Nodes come and go.
    pub moving: bool,
    pub rounds: usize,
    /// Of all nodes.
    pub habit: Habit,
}

impl Setup {
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let share = *chance.pick(&[0, 15, 30, 60, 100]).unwrap_or(&30);
        let faults = Kind::ALL.into_iter().filter(|_| chance.percent(share)).collect();
        Self {
            servers: 1 + chance.below(3),
            nodes: 2 + chance.below(4),
            gateways: 1 + chance.below(2),
            apps: 1 + chance.below(3),
            faults,
            fault_every: *chance.pick(&[4_000, 10_000, 25_000]).unwrap_or(&10_000),
            operation_every: *chance.pick(&[3_000, 8_000, 20_000]).unwrap_or(&8_000),
            tight: chance.percent(15),
            moving: chance.percent(50),
            rounds: 2,
            habit: Habit::Sound,
        }
    }
}
