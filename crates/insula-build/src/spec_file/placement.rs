//! `placement = { … }`: which nodes may have an instance.

use std::str::FromStr;

use insula_model::limits::NODE_LABELS_MAX;
use insula_model::node::Architecture;
use insula_model::spec::PlacementSpec;

use super::component::one_of;
use super::reader::{Entry, Reader};

const EXAMPLE: &str = "placement = { zones = [\"north\"], labels = { disk = \"ssd\" } }";
const ARCHITECTURES: [Architecture; 2] = [Architecture::X86, Architecture::Arm];

pub(super) fn read(reader: &mut Reader, entry: &Entry<'_>) -> Option<PlacementSpec> {
    let table = reader.table(entry, &["pool", "zones", "labels", "architecture"], EXAMPLE)?;
    let mut spec = PlacementSpec::default();
    if let Some(entry) = table.entry(reader, "pool") {
        spec.pool = reader.parsed(&entry, "pool = \"gpu\"");
    }
    if let Some(entry) = table.entry(reader, "zones") {
        let zones = reader.texts(&entry, "zones = [\"north\", \"south\"]");
        for zone in zones.unwrap_or_default() {
            spec.zones.extend(named(reader, &entry, zone));
        }
    }
    if let Some(entry) = table.entry(reader, "labels") {
        read_labels(reader, &entry, &mut spec);
    }
    if let Some(entry) = table.entry(reader, "architecture") {
        spec.architecture = one_of(reader, &entry, ARCHITECTURES, Architecture::as_str);
    }
    Some(spec)
}

fn read_labels(reader: &mut Reader, entry: &Entry<'_>, spec: &mut PlacementSpec) {
    let Some(table) = reader.any_table(entry, "labels = { disk = \"ssd\" }") else { return };
    let entries = table.entries(reader);
    if entries.len() > NODE_LABELS_MAX {
        let message = format!("{} labels; {NODE_LABELS_MAX} at most", entries.len());
        return reader.refuse(entry, message, "ask for fewer; a node has no more either");
    }
    for (name, entry) in entries {
        let value = reader.parsed(&entry, "disk = \"ssd\"");
        if let (Some(name), Some(value)) = (named(reader, &entry, name), value) {
            spec.labels.insert(name, value);
        }
    }
}

fn named<T: FromStr<Err: std::fmt::Display>>(
    reader: &mut Reader,
    entry: &Entry<'_>,
    text: &str,
) -> Option<T> {
    match text.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            reader.refuse(entry, T::Err::to_string(&error), "choose another name");
            None
        }
    }
}
