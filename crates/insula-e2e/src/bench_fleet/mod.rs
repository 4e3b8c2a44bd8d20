//! What a fleet costs and how soon it heals, for `cargo xtask bench fleet`.
//!
//! Everything is measured at the real binary in namespaces of its own; only the ten thousand nodes
//! of `heartbeats` are simulated, and they speak the real protocol.

mod asker;
mod heartbeats;
mod leader;
mod lookout;
mod loss;
mod options;
mod relay;
mod spread;
mod swarm;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, bail};

pub use options::Options;

/// See `fleet`.
const EDGE_PORT: u16 = 8080;

type Part = (&'static str, fn(&Options) -> Result<()>);

const PARTS: [Part; 5] = [
    ("heartbeats", heartbeats::together),
    ("idle-node", heartbeats::alone),
    ("loss", loss::run),
    ("leader", leader::run),
    ("relay", relay::run),
];

/// The part that is named first, or all of them, with the options that follow.
pub fn run(args: impl Iterator<Item = String>) -> Result<()> {
    let (part, options) = Options::read(args)?;
    let known: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    let chosen = PARTS.iter().filter(|(name, _)| part.as_ref().is_none_or(|part| part == name));
    let chosen: Vec<_> = chosen.collect();
    if chosen.is_empty() {
        bail!("unknown part `{}`; known: {}", part.unwrap_or_default(), known.join(", "));
    }
    for (name, run) in chosen {
        println!("-- {name}: insula-measure fleet {name}{}", options.said());
        run(&options)?;
    }
    Ok(())
}

/// Where gateways of the harness listen, in their places.
fn edge() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, EDGE_PORT).into()
}
