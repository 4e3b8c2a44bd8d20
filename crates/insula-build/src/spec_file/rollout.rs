//! `rollout = { … }`: how a component goes from one release to the next.

use insula_model::limits::INSTANCES_MAX;
use insula_model::spec::RolloutSpec;

use super::component::one_of;
use super::reader::{Entry, Reader, Section};

const EXAMPLE: &str = "rollout = { strategy = \"rolling\", surge = 1, unavailable = 0 }";

#[derive(Clone, Copy)]
enum Strategy {
    BlueGreen,
    Rolling,
}

impl Strategy {
    const ALL: [Self; 2] = [Self::BlueGreen, Self::Rolling];

    fn as_str(self) -> &'static str {
        match self {
            Self::BlueGreen => "blue-green",
            Self::Rolling => "rolling",
        }
    }
}

pub(super) fn read(reader: &mut Reader, entry: &Entry<'_>) -> Option<RolloutSpec> {
    let table = reader.table(entry, &["strategy", "surge", "unavailable"], EXAMPLE)?;
    let Some(strategy) = table.entry(reader, "strategy") else {
        reader.refuse(entry, "this names no strategy", "write it as in `strategy = \"rolling\"`");
        return None;
    };
    let surge = amount(reader, &table, "surge");
    let unavailable = amount(reader, &table, "unavailable");
    match one_of(reader, &strategy, Strategy::ALL, Strategy::as_str)? {
        Strategy::Rolling if surge == Some(0) && unavailable.unwrap_or(0) == 0 => {
            let message = "with neither `surge` nor `unavailable` nothing can move";
            reader.refuse(entry, message, "allow one of them: `surge = 1`");
            None
        }
        Strategy::Rolling => Some(RolloutSpec::Rolling {
            surge: surge.unwrap_or(u32::from(unavailable.unwrap_or(0) == 0)),
            unavailable: unavailable.unwrap_or(0),
        }),
        Strategy::BlueGreen => {
            if surge.or(unavailable).is_some() {
                let message = "`surge` and `unavailable` are of a rolling rollout";
                reader.refuse(entry, message, "leave them out, or write `strategy = \"rolling\"`");
            }
            Some(RolloutSpec::BlueGreen)
        }
    }
}

fn amount(reader: &mut Reader, table: &Section<'_>, name: &'static str) -> Option<u32> {
    let entry = table.entry(reader, name)?;
    reader.whole(&entry, 0, INSTANCES_MAX, "a number of instances", &format!("{name} = 1"))
}
