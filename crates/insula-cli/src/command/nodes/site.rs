//! `insula nodes site`: where a node belongs.

use insula_model::{LabelName, LabelValue};
use insula_wire::rest::node::{Node, SetSite};

use super::{find, show, target};
use crate::context::Cx;
use crate::failure::{Failure, Outcome};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").args(["pool", "zone", "labels", "unlabel"]).multiple(true).required(true))]
pub struct Args {
    /// By name or id
    node: String,
    /// The pool that it is set apart for; "" for the common one
    #[arg(long)]
    pool: Option<String>,
    /// Where it is: what fails together, as a rack or a building does; "" for none
    #[arg(long)]
    zone: Option<String>,
    /// A label that it gets: `disk=ssd` (may be given again)
    #[arg(long = "label", value_parser = parse_label, value_name = "NAME=VALUE")]
    labels: Vec<(LabelName, LabelValue)>,
    /// A label that it loses (may be given again)
    #[arg(long, value_name = "NAME")]
    unlabel: Vec<LabelName>,
}

/// `disk=ssd`.
pub(super) fn parse_label(text: &str) -> Result<(LabelName, LabelValue), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE, as in disk=ssd")?;
    let name = name.parse().map_err(|error: insula_model::names::NameError| error.to_string())?;
    let value = value.parse().map_err(|error: insula_model::names::NameError| error.to_string())?;
    Ok((name, value))
}

pub(super) async fn run(args: Args, cx: &Cx) -> Outcome {
    let found = find(cx, &args.node).await?;
    let mut labels = found.labels.clone();
    for name in &args.unlabel {
        if labels.remove(name).is_none() {
            return Err(Failure::not_found(format!("{} has no label `{name}`", found.name)));
        }
    }
    labels.extend(args.labels);
    let changed = labels != found.labels;
    let body = SetSite { pool: args.pool, zone: args.zone, labels: changed.then_some(labels) };
    let after: Node = cx.client().patch(&target(&found, &[]), &body).await?;
    cx.terminal.answer(&after, |paint| show::one(&after, paint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_name_and_a_value() {
        let (name, value) = parse_label("disk=ssd").unwrap();
        assert_eq!((name.as_str(), value.as_str()), ("disk", "ssd"));
        for wrong in ["disk", "=ssd", "disk=", "a b=c", "disk=a=b"] {
            assert!(parse_label(wrong).is_err(), "{wrong}");
        }
    }
}
