//! What was acknowledged stays: asked for by people, decided as a verdict, held by a node.

use insula_model::Generation;
use insula_model::feed::Change;
use insula_model::node::Duty;
use insula_plan::World;

use super::Property;
use crate::sim::Sim;
use crate::words::short;

impl Sim {
    pub(super) fn keeps_what_was_acknowledged(&mut self, changes: &[Change], before: &World) {
        self.checked(Property::Acknowledged);
        for change in changes {
            match change {
                Change::App(row) => {
                    let Some(known) = self.known.apps.get(&row.id) else { continue };
                    if row.running != known.running || row.scale != known.scale {
                        let said = format!(
                            "{}: running {}, scale {:?}; asked for {known:?}",
                            row.name, row.running, row.scale
                        );
                        self.violate(Property::Acknowledged, said);
                    }
                }
                Change::Node(row) => {
                    self.checked(Property::Removed);
                    if self.store.removed.contains(&row.id) {
                        self.violate(Property::Removed, format!("{} is there again", row.name));
                    }
                    let duty = self.known.duties.get(&row.id).copied().unwrap_or(Duty::Serve);
                    if row.duty != duty {
                        let said = format!("{} is {:?}; asked for {duty:?}", row.name, row.duty);
                        self.violate(Property::Acknowledged, said);
                    }
                }
                Change::Deployment(row) => {
                    let was = before.deployments.get(&row.id);
                    if was.is_some_and(|was| was.state.is_final() && was.state != row.state) {
                        let said =
                            format!("{} had a verdict and has another", short(&row.id.to_string()));
                        self.violate(Property::Acknowledged, said);
                    }
                }
                _ => {}
            }
        }
    }

    pub fn after_target(&mut self, n: usize, before: Generation) {
        self.checked(Property::Generations);
        let after = self.machines[n].generation();
        if after < before {
            self.violate(
                Property::Generations,
                format!("node {n} held {before} and holds {after}"),
            );
        }
    }
}
