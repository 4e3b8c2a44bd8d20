//! Notes what is wrong with nodes, and how burdened they are. Giving up and welcoming is decided in
//! `insula_plan::nodes`, from the presence that `presence` measures. Takes no input but the World
//! and what the sessions said.

use insula_model::node::{AilmentKind, Capacity};
use insula_model::{Bytes, MilliCpu};
use insula_plan::Measured;

use super::clocks::Said;
use super::flight::Cargo;
use super::mutation::What;
use super::report::Reconciler;
use super::{Core, Now, Turn, ailments};

/// Measured use is told in so many steps of what a node has. Finer ones would change the World, and
/// nothing else, with each breath of a fleet.
const MEASURED_STEPS: u64 = 16;

impl Core {
    pub(super) fn pass_nodes(&mut self, now: Now, turn: &mut Turn) {
        self.look_at_clocks(now);
        let mut pass = self.pass();
        for node in std::mem::take(&mut self.ailing) {
            let Some(session) = self.sessions.get(&node) else { continue };
            let contested = self.contested.get(&node);
            let said = match &session.ailments {
                Some(said) => said.as_slice(),
                // Who keeps the rightful one out may never say anything.
                None if contested.is_some() => &[],
                None => continue,
            };
            let Some(row) = self.world.nodes.get(&node) else { continue };
            let is_marked = |kind| row.ailments.iter().any(|ailment| ailment.kind == kind);
            let clock = self.clocks.verdict().said(session.away(now));
            let may =
                is_marked(AilmentKind::Clock) || self.clocks.may_mark(self.world.nodes.len(), now);
            let clock = if may { clock } else { Said::Nothing };
            let ailments = ailments::all(said, clock, contested);
            if row.ailments == ailments {
                continue;
            }
            pass.did("ailments noted", 1);
            let event = self.event_id(now);
            let flight = self.fly(Cargo::Ailments { node });
            self.write(flight, What::Ail { node, ailments, event }, now, turn);
        }
        if let Some(report) = self.status.get_mut(&Reconciler::Nodes) {
            pass.waits.clone_from(&report.waits);
            pass.waiting = report.waiting;
        }
        if !pass.did.is_empty() {
            self.note(Reconciler::Nodes, pass, now);
        }
    }
}

/// Measured use, in steps. What stays within a step of what was told before stays as it was told.
pub(super) fn coarse(capacity: &Capacity, used: Measured, before: Option<&Measured>) -> Measured {
    let step = |all: u64| (all / MEASURED_STEPS).max(1);
    let coarse = |used: u64, all: u64, before: Option<u64>| match before {
        Some(before) if before.abs_diff(used) < step(all) => before,
        Some(_) | None => used - used % step(all),
    };
    let cpu = coarse(
        u64::from(used.cpu.0),
        u64::from(capacity.cpu.0),
        before.map(|before| u64::from(before.cpu.0)),
    );
    let memory = coarse(used.memory.0, capacity.memory.0, before.map(|before| before.memory.0));
    Measured { cpu: MilliCpu(u32::try_from(cpu).unwrap_or(u32::MAX)), memory: Bytes(memory) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(cpu: u32) -> Measured {
        Measured { cpu: MilliCpu(cpu), memory: Bytes::mib(u64::from(cpu)) }
    }

    #[test]
    fn what_a_node_uses_is_told_in_sixteenths_and_does_not_tremble() {
        let capacity =
            Capacity { cpu: MilliCpu(1_600), memory: Bytes::mib(1_600), ..Capacity::default() };
        let first = coarse(&capacity, measured(730), None);
        assert_eq!(first, measured(700));
        for used in [601, 650, 700, 799] {
            assert_eq!(coarse(&capacity, measured(used), Some(&first)), first);
        }
        assert_eq!(coarse(&capacity, measured(800), Some(&first)), measured(800));
        assert_eq!(coarse(&capacity, measured(599), Some(&first)), measured(500));
    }

    #[test]
    fn a_node_that_says_it_has_nothing_divides_nothing_by_nothing() {
        assert_eq!(coarse(&Capacity::default(), measured(7), None), measured(7));
    }
}
