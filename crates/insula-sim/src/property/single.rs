//! Of a single component there is one process, or none.

use insula_model::InstanceId;

use super::Property;
use crate::sim::Sim;
use crate::words::short;

impl Sim {
    pub(super) fn is_alone(&mut self, n: usize, id: InstanceId) {
        let Some(held) = self.machines[n].held.get(&id) else { return };
        let of = (held.target.place.app, held.target.component.clone());
        if !self.singles.contains(&of) {
            return;
        }
        self.checked(Property::Single);
        // A machine that stands still does nothing; when it goes on, its lease is looked at first.
        let others = self.machines.iter().filter(|m| m.up && !m.removed && !m.frozen);
        let twin = others.flat_map(|m| &m.held).find(|(other, held)| {
            **other != id
                && held.runs()
                && (held.target.place.app, &held.target.component) == (of.0, &of.1)
        });
        if let Some((twin, _)) = twin {
            let said = format!(
                "`{}`: {} starts while {} runs",
                of.1,
                short(&id.to_string()),
                short(&twin.to_string())
            );
            self.violate(Property::Single, said);
        }
    }
}
